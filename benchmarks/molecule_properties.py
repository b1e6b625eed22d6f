"""python -m benchmarks.molecule_properties generator=runs/... regressor=gap.safetensors: are properties as asked for?

As the field reports it (Hoogeboom et al. 2022, section 5.2): a generator with conditions (`data.properties=[gap]
data.half=second`) is asked for the properties and sizes of n held-out molecules, taken jointly; a regressor that has
learned from the other half of the training molecules (`python -m modalities.molecules.regressor`) says what the
samples have; the figure is the mean absolute error, in the units of the data, with each of the `guidance` scales. Also
of those samples alone that are stable, or valid, for the regressor knows nothing but molecules.

Beside it: `shuffled`, the error of real molecules against one another's values, which is that of a generator that does
not listen; `size only`, of what the training molecules of a size have on average, which is that of one that hears the
size alone; and `real`, the regressor's own error, on the n molecules that were asked after. Samples that are finished
stay in `out` and are not drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.common import machine
from benchmarks.contest import Figures
from core import checkpoint
from core.batch import Batch
from core.build import part
from core.cli import with_options
from core.data import whole
from core.errors import UserError
from core.model import Model, load
from core.output import ARRAYS, MANIFEST, read_arrays, request, write_samples
from core.runs import Reporter, write_json
from modalities.molecules.bonds import perceive, stable_atoms, stable_molecules
from modalities.molecules.chemistry import one_of, smiles_of
from modalities.molecules.context import sizes
from modalities.molecules.data import MoleculeData
from modalities.molecules.modality import Molecules
from modalities.molecules.regressor import Regressor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = Mapping[str, Float[Tensor, " n"]]  # by property


@dataclass
class Options:
    generator: str = "???"  # a run
    regressor: str = "???"  # a file
    n: int = 500
    guidance: str = "1,1.5,2"
    steps: int | None = None  # of sampling; the run's
    micro_batch: int = 50
    seed: int = 0
    out: str = "benchmarks/out/molecule_properties"


@dataclass(frozen=True)
class Judged:
    """Molecules with the values that were asked for, those that were found, and whether each is one by the rule."""

    asked: Values
    found: Values
    stable: Bool[Tensor, " n"]
    valid: Bool[Tensor, " n"]

    def figures(self) -> Figures:
        """Mean absolute errors with the standard errors of these means, and the shares of stable and valid ones."""
        figures: Figures = {}
        for name, found in self.found.items():
            errors = (found - self.asked[name]).abs().double()
            figures[name] = errors.mean().item()
            if len(errors) > 1:
                figures[f"{name}: standard error"] = (errors.std() / len(errors) ** 0.5).item()
            for kind, rows in (("stable", self.stable), ("valid", self.valid)):
                if rows.any():
                    figures[f"{name}: {kind} ones"] = errors[rows].mean().item()
        shares = {"stable": self.stable, "valid": self.valid}
        return figures | {kind: rows.double().mean().item() for kind, rows in shares.items()}


def judge(batch: Batch, asked: Values, regressor: Regressor) -> Judged:
    """The regressor's verdict on molecules; `asked` may have more properties than it knows."""
    stable, valid = [], []
    for molecules in perceive(batch, regressor.elements):
        stable.append(stable_molecules(stable_atoms(molecules.orders, molecules.numbers), molecules.numbers))
        valid += [smiles_of(one_of(molecules, row)) is not None for row in range(len(molecules.numbers))]
    found = {name: values for name, values in regressor.predict(batch).items() if name in asked}
    return Judged({name: asked[name] for name in found}, found, torch.cat(stable), torch.tensor(valid))


def shuffled(found: Float[Tensor, " n"], values: Float[Tensor, " n"]) -> float:
    """The mean absolute error against the value of another of the molecules: the mean over all pairs of two."""
    apart = (found[:, None] - values).abs().double().fill_diagonal_(0)
    return (apart.sum() / max(len(values) * (len(values) - 1), 1)).item()


def by_size(
    known: Int64[Tensor, " m"], values: Float[Tensor, " m"], wanted: Int64[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The mean value of the known molecules of each wanted size; of all, for a size that none has."""
    longest = int(torch.cat([known, wanted]).max()) + 1
    sums = torch.zeros(longest, dtype=torch.float64).index_add_(0, known, values.double())
    counts = torch.bincount(known, minlength=longest)
    means = torch.where(counts > 0, sums / counts.clamp(min=1), values.double().mean())
    return means[wanted].to(values)


def main(options: Options) -> dict[str, Figures]:
    """Asks, draws, judges; prints one table, and writes it with a picture into `options.out`."""
    scales = _scales(options.guidance)
    if options.n < 2:
        raise UserError(f"n={options.n}: must be a whole number of at least 2")
    regressor, model = Regressor.load(options.regressor), load(options.generator)
    data = _data(model, regressor)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    for note in _notes(model, data, regressor):
        report(note)
    held_out, training = asked_for(model, data, options.n), whole(data.train)
    judged: dict[str, Judged] = {}
    for scale in scales:
        report(f"guidance {scale:g}")
        samples = _draw(model, held_out, scale, options, folder, report)
        judged[f"guidance {scale:g}"] = judge(samples, held_out.cond, regressor)
    real = judge(held_out, held_out.cond, regressor)
    bounds: dict[str, Figures] = {"shuffled": {}, "size only": {}}
    for name, found in real.found.items():
        bounds["shuffled"][name] = shuffled(found, held_out.cond[name])
        guess = by_size(sizes(training.mask).long(), training.cond[name], sizes(held_out.mask).long())
        bounds["size only"][name] = (guess - held_out.cond[name]).abs().double().mean().item()
    judged["real"] = real
    figures = bounds | {name: one.figures() for name, one in judged.items()}
    report.figures(f"mean absolute errors, n = {options.n}, {data.name}", figures)
    write_json(
        folder / "molecule_properties.json", {"machine": machine(), "options": asdict(options), "figures": figures}
    )
    draw_scatter(folder / "molecule_properties.png", judged)
    report(f"the samples, molecule_properties.json and molecule_properties.png are in {folder}")
    return figures


def _scales(text: str) -> list[float]:
    try:
        return [float(scale) for scale in text.split(",")]
    except ValueError:
        raise UserError(f"guidance={text}: must be numbers separated by commas, such as 1,1.5,2") from None


def _data(model: Model, regressor: Regressor) -> MoleculeData:
    """The generator's data. UserError unless it is of molecules with a condition that the regressor knows."""
    modality = model.modality
    if not isinstance(modality, Molecules):
        raise UserError(f"the generator draws {modality.name}: it must draw molecules")
    if modality.elements != regressor.elements:
        ours, theirs = ", ".join(modality.elements), ", ".join(regressor.elements)
        raise UserError(f"the generator's elements are {ours}; the regressor knows {theirs}")
    if not modality.properties.keys() & regressor.properties.keys():
        asked, known = ", ".join(modality.properties) or "none", ", ".join(regressor.properties)
        raise UserError(f"the generator's properties are {asked}; the regressor knows {known}")
    data = part(model.config, "data")
    assert isinstance(data, MoleculeData)
    return data


def _notes(model: Model, data: MoleculeData, regressor: Regressor) -> Iterator[str]:
    """What makes the figures incomparable with the field's."""
    half, other = str(model.config.data.get("half")), regressor.metadata.get("half", "null")
    if {half, other} != {"first", "second"}:
        yield f"note: data.half={half} of the generator and {other} of the regressor: both have seen the same molecules"
    if (learned := regressor.metadata.get("data")) != data.name:
        yield f"note: the generator has learned from {data.name}, the regressor from {learned}"


def asked_for(model: Model, data: MoleculeData, n: int) -> Batch:
    """The first n held-out molecules of sizes that training had, smallest first: what is drawn together is of a size.

    UserError if there are fewer.
    """
    assert isinstance(model.modality, Molecules)
    known, found = model.modality.sizes, data.test.sizes
    rows = [row for row, size in enumerate(found.tolist()) if min(known) <= size <= max(known)][:n]
    if len(rows) < n:
        raise UserError(f"n={n}: there are only {len(rows)} held-out molecules to ask after")
    return data.test.batch(sorted(rows, key=lambda row: int(found[row])))


def _draw(model: Model, held_out: Batch, scale: float, options: Options, folder: Path, report: Reporter) -> Batch:
    """Samples of the sizes and the properties of the held-out molecules, decoded."""
    drawing = model.config.copy()
    OmegaConf.set_struct(drawing, False)
    drawing.guidance = {"_target_": "core.guidance.ClassifierFree", "scale": scale}
    drawing.steps = options.steps or drawing.steps
    drawing.n, drawing.seed, drawing.micro_batch = options.n, options.seed, options.micro_batch
    cond = {"n_atoms": sizes(held_out.mask).int(), **held_out.cond}
    drawing.cond = {name: values.tolist() for name, values in cond.items()}
    wanted, place = request(str(checkpoint.find(options.generator)), drawing), folder / f"guidance-{scale:g}"
    if _is_finished(place / MANIFEST, wanted):
        return read_arrays(place / ARRAYS)
    samples = write_samples(model, drawing, place, report.console, wanted)
    assert samples is not None  # this is the only process
    return samples


def _is_finished(manifest: Path, wanted: Mapping[str, object]) -> bool:
    before = json.loads(manifest.read_text()) if manifest.exists() else {}
    return bool(before.get("done")) and before["request"] == json.loads(json.dumps(wanted))


def draw_scatter(path: Path, judged: Mapping[str, Judged]) -> None:
    """Found against asked-for values: a row for each property, a column for each set of molecules."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(next(iter(judged.values())).found)
    figure = Figure(figsize=(3.2 * len(judged), 3.4 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)  # no global state, no display
    grid = figure.subplots(len(names), len(judged), squeeze=False)
    for name, row in zip(names, grid, strict=True):
        ends = torch.cat([torch.cat([one.asked[name], one.found[name]]) for one in judged.values()])
        low, high = torch.quantile(ends, torch.tensor([0.002, 0.998])).tolist()  # a wild one shall not hide the others
        for (title, one), axes in zip(judged.items(), row, strict=True):
            _panel(axes, one, name, (low, high))
            axes.set_title(f"{title}: {one.figures()[name]:.3g}", fontsize="medium")
    figure.savefig(path, dpi=110)


def _panel(axes: Axes, one: Judged, name: str, ends: Sequence[float]) -> None:
    axes.axline((ends[0], ends[0]), slope=1, color="0.7", linewidth=1)
    for rows, label, alpha in ((~one.stable, "not stable", 0.25), (one.stable, "stable", 0.8)):
        axes.scatter(one.asked[name][rows], one.found[name][rows], s=9, alpha=alpha, linewidths=0, label=label)
    margin = 0.05 * (ends[1] - ends[0]) or 1.0
    limits = (ends[0] - margin, ends[1] + margin)
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel=f"{name}, asked for", ylabel=f"{name}, found")
    axes.legend(fontsize="x-small", loc="upper left")


if __name__ == "__main__":
    with_options(Options, main)
