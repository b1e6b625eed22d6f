"""python -m benchmarks.molecule_quality [seconds=150] [n=200] [seeds=2]: how good molecules are after equal CPU time.

The four networks on QM9, each with its own peak of the learning rate: the same batches, noise levels, loss and sampler,
and the same CPU seconds. The transformer, which is not equivariant, sees each molecule turned at random. `real` is the
same figures of other held-out molecules. What is finished stays in `out` and is not done again: give another `out` for
another setting.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.common import Run, chosen, compose
from benchmarks.contenders import Polydiffusion
from benchmarks.contest import Budget, Entry, Figures, compare
from core.batch import Batch
from core.build import part
from core.cli import with_options
from core.module import Optimisation
from core.runs import Reporter, write_json

CONTENDERS: dict[str, list[str]] = {  # overrides of modality=molecules
    "factored": [],
    "egnn": ["network=egnn", "optimisation.lr=2e-3"],
    "e3nn": ["network=e3nn", "optimisation.lr=6e-3"],
    "transformer": ["network=transformer", "data.rotate=true", "optimisation.lr=3e-3"],
}


@dataclass
class Options(Budget):
    contenders: str = ",".join(CONTENDERS)
    seconds: float = 150
    n: int = 200
    steps: int = 100
    batch: int = 16
    micro_batch: int = 50
    overrides: str = ""  # of all runs
    out: str = "benchmarks/out/molecule_quality"
    seeds: int = 2


def main(options: Options) -> dict[str, Figures]:
    """Trains and measures the contenders with each seed, see `compare`; returns the means over the seeds."""
    names = chosen(options.contenders, CONTENDERS, "contenders")
    settings = {key: value for key, value in asdict(options).items() if key != "seeds"}
    found: list[dict[str, Figures]] = []
    for seed in range(options.seeds):
        overrides = f"{options.overrides} seed={seed}".strip()
        budget = Budget(**{**settings, "overrides": overrides, "out": f"{options.out}/seed-{seed}"})
        base = Run.of("modality=molecules", *overrides.split())
        found.append(compare(names, partial(_enter, overrides.split(), base), base, budget))
    means = {
        name: {key: fmean(one[name][key] for one in found) for key in values if all(key in one[name] for one in found)}
        for name, values in found[0].items()
    }
    folder = Path(options.out)
    Reporter(folder).figures(f"means of {options.seeds} seeds", means)
    write_json(folder / "quality.json", {"options": asdict(options), **means})
    return means


def _enter(overrides: list[str], base: Run, name: str) -> Entry:
    config = compose("modality=molecules", *overrides, *CONTENDERS[name])
    run = Run.on(config, base.data)
    contender, turned = Polydiffusion(run), part(config, "data")

    def augment(batch: Batch, step: int) -> Batch:
        positions = contender.positions(batch)
        return turned.augment(batch, contender.objective.augmentation(batch, step, positions))

    return Entry(contender, run.codec, Optimisation(**config.optimisation), augment)


if __name__ == "__main__":
    with_options(Options, main)
