"""A regressor of molecules' properties, by which samples that were asked for some are judged.

    python -m modalities.molecules.regressor property=gap minutes=6 out=gap.safetensors

trains one on the first half of QM9's training molecules, so that a generator of the second half (`data.half=second`)
has seen none of them. `property=gap,alpha` learns several; `half=second` or `half=null` takes other molecules, and
`overrides="data=sdf data.path=FILE"` other data. minutes: of CPU time of the main thread, so that what else runs on
the machine counts less. Training and sampling of generators never use it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.batch import Batch
from core.cli import say, with_options
from core.data import SizedOrder, whole
from core.errors import UserError
from core.tensor_files import read_metadata
from core.weights import load, save
from modalities.molecules.context import USUAL_SIZE
from modalities.molecules.data import MoleculeData
from modalities.molecules.elements import check
from modalities.molecules.factored import Layer, radial_operators
from modalities.molecules.inputs import atoms

ABOUT = "regressor"  # the name in a file's metadata under which the constructor's arguments stand
AT_ONCE = 128  # molecules
SPEAK = 10  # seconds between two lines
SETTLED = 20  # steps after which the speed is known well enough to foresee the number of steps


class Regressor(nn.Module):
    """The layers of `Factored` on a molecule that stays where it is, and a readout over its atoms.

    Invariant to E(3) and to the order of atoms. The readout is a mean over the atoms in which each channel weighs
    them as it learns to, for what does not grow with the molecule, beside their sum, for what does.

    elements: symbols, in the order of the one-hot columns. properties: by name, the mean and the standard deviation of
    its values in the training data. depth: layers. sizes: of each, see `Layer`.
    """

    def __init__(
        self, elements: Sequence[str], properties: Mapping[str, Sequence[float]], depth: int = 4, **sizes: int
    ) -> None:
        super().__init__()
        self.elements = check(elements)
        self.properties = {name: (float(mean), float(std)) for name, (mean, std) in properties.items()}
        self.settings = {"elements": self.elements, "properties": self.properties, "depth": depth, **sizes}
        self.metadata: Mapping[str, str] = {}  # of the file that it comes from
        self.layers = nn.ModuleList(Layer(**sizes) for _ in range(depth))
        width, self.vectors, self.radial = self.layers[0].width, self.layers[0].vectors, self.layers[0].radial
        self.embed = nn.Linear(len(self.elements), width)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, width)
        self.atom = nn.Linear(width, width)
        self.hidden = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, len(self.properties))
        for parameter in self.score.parameters():  # a plain mean, at first
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "b n c"], mask: Float[Tensor, "b n 1"]) -> Float[Tensor, "b p"]:
        """The properties, standardised, of molecules in data units: positions in angstrom, then one-hot elements."""
        positions, one_hot, mask = atoms(x, mask, len(self.elements), scale=1)
        positions = positions.permute(2, 0, 1).contiguous()
        operators = radial_operators(positions, mask, self.radial)
        h = self.embed(one_hot)
        v = h.new_zeros(3, *h.shape[:2], self.vectors)
        for layer in self.layers:
            h, v, _ = layer(h, v, operators, positions)
        h = self.norm(h)
        share = self.score(h).masked_fill(mask == 0, -torch.inf).softmax(1)
        each = F.silu(self.atom(h)) * mask
        pooled = torch.cat([(share * each).sum(1), each.sum(1) / USUAL_SIZE], dim=-1)
        return self.out(F.silu(self.hidden(pooled)))

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Float[Tensor, " b"]]:
        """Each property of each molecule, in the units of the data. ValueError if the batch has other elements."""
        if batch.x.shape[2] != 3 + len(self.elements):
            raise ValueError(f"{batch.x.shape[2] - 3} columns of elements, but the regressor knows {self.elements}")
        device, sizes = self.out.weight.device, batch.mask.sum(dim=(1, 2))
        found = torch.zeros(len(batch), len(self.properties))
        for rows in sizes.argsort(stable=True).split(AT_ONCE):  # about equally large: little is padding
            longest = int(sizes[rows].max())
            found[rows] = self(batch.x[rows, :longest].to(device), batch.mask[rows, :longest].to(device)).cpu()
        pairs = zip(self.properties.items(), found.unbind(1), strict=True)
        return {name: mean + std * values for (name, (mean, std)), values in pairs}

    def standardised(self, cond: Mapping[str, Tensor]) -> Float[Tensor, "b p"]:
        return torch.stack([(cond[name] - mean) / std for name, (mean, std) in self.properties.items()], dim=1)

    def save(self, path: Path, about: Mapping[str, str]) -> None:
        """Float16 safetensors with all that `load` needs, and `about` in the metadata."""
        save(self, path, {ABOUT: json.dumps(self.settings), **about})

    @classmethod
    def load(cls, path: str | Path) -> Regressor:
        """The regressor of a file, with `metadata`. Nothing is unpickled; UserError if the file holds none."""
        path = Path(path)
        try:
            regressor = cls(**json.loads(read_metadata(path)[ABOUT]))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} holds no regressor of properties") from error
        regressor.metadata = load(regressor, path)
        return regressor.eval()


def mean_absolute_errors(regressor: Regressor, batch: Batch) -> dict[str, float]:
    """On molecules with known properties, in the units of the data."""
    found = regressor.predict(batch)
    return {name: (values - batch.cond[name]).abs().double().mean().item() for name, values in found.items()}


def train(
    data: MoleculeData,
    minutes: float | None = None,
    steps: int | None = None,
    batch_size: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
    report: Callable[[str], object] = say,
    **sizes: int,
) -> Regressor:
    """A regressor of the conditions of `data`, trained on its training split alone; its averaged weights.

    minutes: of CPU time, or else steps: ValueError unless it is one of both. The learning rate's schedule fits the
    steps that the speed foretells. The loss is the mean absolute error of standardised properties. sizes: of the
    network.
    """
    from core.descent import Update  # Lightning, with its Optimisation, takes seconds to load
    from core.module import Optimisation

    if (minutes is None) == (steps is None):
        raise ValueError(f"minutes={minutes}, steps={steps}: one of them")
    properties = data.facts["properties"]
    assert isinstance(properties, dict)
    optimisation = Optimisation(lr=lr, weight_decay=0.0, warmup=100, flat=0.2, final=0.01)
    order = SizedOrder(data.train.sizes, min(batch_size, len(data.train)), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        regressor = Regressor(data.elements, properties, **sizes)
    update = Update(regressor, optimisation, steps)
    begun = time.thread_time()
    spoke, losses = time.monotonic(), []
    for step, rows in enumerate(order):
        taken = time.thread_time() - begun
        if minutes is not None and step >= SETTLED:
            update.total = max(step, round(step * 60 * minutes / taken))
        if step == update.total:
            break
        batch = data.train.batch(rows)
        loss = F.l1_loss(regressor(batch.x, batch.mask), regressor.standardised(batch.cond))
        update(loss)
        losses.append(loss.detach())
        if time.monotonic() - spoke > SPEAK:
            spoke = time.monotonic()
            mean = torch.stack(losses).mean()
            goal = "" if update.total is None else f" of {'about ' if steps is None else ''}{update.total}"
            report(f"step {step + 1}{goal}, loss {mean:.4f}, {taken:.0f} CPU seconds")
            losses.clear()
    return update.average.eval()


@dataclass
class Options:
    """Of the command; see the module."""

    property: str = "gap"
    minutes: float = 6.0
    out: str | None = None  # runs/regressor-<property>.safetensors
    half: str | None = "first"
    overrides: str = "data=qm9"
    batch_size: int = 32
    lr: float = 2e-3
    seed: int = 0


def command(options: Options) -> Path:
    """Trains, measures on the test split and writes a regressor; returns the file."""
    import hydra

    from core.build import part

    if options.minutes <= 0:
        raise UserError(f"minutes={options.minutes}: must be a positive number")
    half = "null" if options.half is None else options.half
    choice = [f"data.properties=[{options.property}]", f"data.half={half}"]
    with hydra.initialize_config_module("configs", version_base="1.3"):
        config = hydra.compose("train", ["modality=molecules", *options.overrides.split(), *choice])
    data = part(config, "data")
    if not isinstance(data, MoleculeData):
        raise UserError(f"{data.name} has no molecules; choose other data, such as overrides=data=qm9")
    say(data.describe())
    regressor = train(data, options.minutes, batch_size=options.batch_size, lr=options.lr, seed=options.seed)
    out = Path(options.out or f"runs/regressor-{options.property.replace(',', '-')}.safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"data": data.name, "half": half, "seed": str(options.seed)}
    regressor.save(out, about)
    errors = mean_absolute_errors(Regressor.load(out), whole(data.test))  # judged as the file keeps it
    regressor.save(out, about | {"test_mean_absolute_errors": json.dumps(errors), "test_n": str(len(data.test))})
    found = ", ".join(f"{name} {error:.4g}" for name, error in errors.items())
    say(f"wrote {out}: mean absolute errors on {len(data.test):,} test molecules: {found}")
    return out


if __name__ == "__main__":
    with_options(Options, command)
