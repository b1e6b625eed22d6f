"""python -m benchmarks.molecule_edits [n=100] [methods=none,told]: completions of scaffolds of held-out molecules.

Of each held-out molecule a connected scaffold of 5 to 8 atoms stays, and as many atoms as the molecule has beyond it
are drawn. Figures: the share of completions in one piece, which then holds the scaffold; of those that are valid too;
atoms stable; and, as `none`, the same of unconditional samples of the same sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from rich.table import Table

from benchmarks.common import chosen, compose
from core.batch import Batch, concatenate
from core.build import part
from core.cli import with_options
from core.data import Source
from core.model import Model
from core.progress import counting
from core.runs import Reporter, write_json
from core.sample import open_model
from modalities.molecules.codec import Atoms
from modalities.molecules.molecule import Molecule, molecules

SMALLEST, LARGEST = 5, 8  # atoms of a scaffold
FEWEST = 12  # atoms of its molecule
TRIES = 200


@dataclass
class Options:
    checkpoint: str = "molecules"  # the shipped model
    methods: str = "none,replace,resample,pigdm,search,told"
    n: int = 100
    steps: int = 50
    overrides: str = ""  # of sampling, separated by blanks, such as sampler=unipc times=log_snr_for_molecules
    micro_batch: int = 50
    seed: int = 0
    threads: int = 1
    out: str = "benchmarks/out/molecule_edits"


def methods(codec: Atoms) -> dict[str, dict[str, object]]:
    """Configs by name; none: unconditional samples."""
    std = [1.4 if scale == 1 else 0.06 for scale in codec.scales]
    search = {"_target_": "core.editing.Search", "scale": codec.scales}
    return {
        "none": {},
        "replace": {"_target_": "core.editing.Replace", "resamplings": 1},
        "resample": {"_target_": "core.editing.Replace", "resamplings": 10},
        "pigdm": {"_target_": "core.editing.PiGDM", "data_std": std},
        "dps": {"_target_": "core.editing.DPS", "step_size": 0.3},
        "search": {**search, "rounds": 40},
        "long_search": {**search, "rounds": 150},
        "told": {"_target_": "core.editing.Told"},
    }


def main(options: Options) -> dict[str, dict[str, float]]:
    """{method: figures}; writes them and a picture of each method's completions into `out`."""
    torch.set_num_threads(options.threads)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    asked = compose(f"checkpoint={options.checkpoint}", *options.overrides.split(), "device=cpu", command="sample")
    model, drawing = open_model(asked)
    known = scaffolds(model, part(model.config, "data").test, options.n, options.seed)
    assert isinstance(model.codec, Atoms)
    every = methods(model.codec)
    found: dict[str, dict[str, float]] = {}
    for name in chosen(options.methods, list(every), "methods"):
        edited, nfe = _completed(model, known, drawing, every[name], options, report)
        found[name] = _figures(edited, model) | {"nfe": nfe}
        model.modality.show_edit(known, edited, folder / name)
        report(f"{name}: {found[name]}")
    table = Table("method", *next(iter(found.values())))
    for name, figures in found.items():
        table.add_row(name, *(f"{value:.3g}" for value in figures.values()))
    report.console.print(table)
    write_json(folder / "molecule_edits.json", {"options": vars(options), **found})
    return found


def _completed(
    model: Model, known: Batch, drawing: DictConfig, method: dict[str, object], options: Options, report: Reporter
) -> tuple[Batch, float]:
    """Completions, and evaluations of each; unconditional samples of the same sizes without a method."""
    config, template, parts = drawing.copy(), model.codec.known(known), []
    config.steps, config.method = options.steps, method or None
    if not method:
        template = Batch(template.x, template.mask)
    with counting(report.console, "completions", len(known)) as done:
        for part_ in model.stream(template, config, seed=options.seed, micro_batch=options.micro_batch):
            parts.append(part_)
            done(len(part_))
    edited = concatenate(parts)
    return (model.modality.finished(edited, known) if method else edited), model.nfe


def _figures(edited: Batch, model: Model) -> dict[str, float]:
    drawn = molecules(edited, model.config.modality.elements)
    atoms = np.concatenate([molecule.stable_atoms for molecule in drawn])
    return {
        "connected": float(np.mean([molecule.connected for molecule in drawn])),
        "valid and connected": float(np.mean([molecule.connected and molecule.valid for molecule in drawn])),
        "atoms stable": float(atoms.mean()),
        "molecules stable": float(np.mean([molecule.stable for molecule in drawn])),
    }


def scaffolds(model: Model, held_out: Source, n: int, seed: int) -> Batch:
    """Held-out molecules, stable and in one piece, in order of size; `cond["keep"]` marks their scaffolds."""
    generator, rows, keeps = torch.Generator().manual_seed(seed), [], []
    for row in torch.randperm(len(held_out), generator=generator).tolist():
        molecule = molecules(held_out.batch([row]), model.config.modality.elements)[0]
        if len(molecule) < FEWEST or not (molecule.stable and molecule.connected):
            continue
        wanted = int(torch.randint(SMALLEST, LARGEST + 1, (1,), generator=generator))
        if (atoms := scaffold(molecule, wanted, generator)) is not None:
            rows.append((len(molecule), row))
            keeps.append(atoms)
        if len(rows) == n:
            break
    order = sorted(range(len(rows)), key=lambda k: rows[k])
    batch = held_out.batch([rows[k][1] for k in order])
    keep = torch.zeros(*batch.x.shape[:2], 1)
    for place, k in enumerate(order):
        keep[place, keeps[k]] = 1
    return Batch(batch.x, batch.mask, {"keep": keep})


def scaffold(molecule: Molecule, wanted: int, generator: torch.Generator) -> Sequence[int] | None:
    """So many atoms: heavy ones that hang together, and the hydrogens of those with no heavy neighbour outside."""
    orders, heavy = molecule.orders, np.flatnonzero(molecule.numbers > 1).tolist()
    for _ in range(TRIES):
        inside = [heavy[int(torch.randint(len(heavy), (1,), generator=generator))]]
        for _ in range(int(torch.randint(1, wanted, (1,), generator=generator))):
            edge = [atom for atom in heavy if atom not in inside and orders[atom, inside].any()]
            if edge:
                inside.append(edge[int(torch.randint(len(edge), (1,), generator=generator))])
        full = [atom for atom in inside if all(other in inside for other in heavy if orders[atom, other])]
        hydrogens = [int(atom) for atom in np.flatnonzero(molecule.numbers == 1) if orders[atom, full].any()]
        if len(inside) + len(hydrogens) == wanted and len(inside) < len(heavy):
            return sorted(inside + hydrogens)
    return None


if __name__ == "__main__":
    with_options(Options, main)
