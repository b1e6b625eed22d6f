"""python -m benchmarks.quality [modality=image] [checkpoint.image=runs/...]: quality against network evaluations.

Each sampler draws n samples of each trained model within each number of evaluations of a sample (guidance, which makes
two passes of one, does not count), beside DDPM and DDIM with 1,000. The headline figures have bootstrap errors. Samples
stay in `out` and are not drawn again, so a run that was interrupted continues; give another `out` once a sampler has
changed. Writes tables (table.md), quality.json and a picture for each modality.
`record=benchmarks/results/quality.json` writes there what `python -m benchmarks.tables` makes docs/samplers.md of;
other modalities of an earlier record stay in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import records
from benchmarks.common import chosen, machine
from benchmarks.drawing import Subject, draw, names, steps_within
from benchmarks.study import Row, Study, curves, figures, markdown, terminal
from core.batch import Batch
from core.cli import with_options
from core.errors import UserError
from core.progress import counting
from core.runs import Reporter, write_json
from core.shipped import models

if TYPE_CHECKING:
    from omegaconf import DictConfig

FEW = 100  # samples of a modality that `n` does not name


@dataclass
class Options:
    modality: str = "image,audio,molecules"
    checkpoint: dict[str, str] = field(default_factory=dict)  # by modality; else the model in its package
    data: dict[str, Any] = field(default_factory=dict)  # of each modality, such as data.audio.path=recordings.tar.gz
    samplers: str = ""  # separated by commas; all, but those that are another under a second name
    times: str = "own"  # grids, separated by commas; own: the model's
    steps: list[int] = field(default_factory=lambda: [5, 10, 20, 50, 100])  # network evaluations
    references: str = "ddpm,ddim"  # the first is the one to compare with
    reference_steps: int = 1000
    n: dict[str, int] = field(default_factory=lambda: {"image": 80, "audio": 60, "molecules": 110})
    resamples: int = 200
    micro_batch: int = 50
    seed: int = 0
    threads: int = 1
    out: str = "benchmarks/out/quality"
    record: str = ""  # a file for the results too


def main(options: Options) -> list[Study]:
    """Draws and measures all that `options` names; what is written after each modality holds those before it too."""
    torch.set_num_threads(options.threads)
    subjects = chosen(options.modality, names("modality"), "modality")
    # a shipped model by its name, which is the same on every machine
    runs = {name: options.checkpoint.get(name) or (name if name in models() else None) for name in subjects}
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    studies: list[Study] = []
    for name, run in runs.items():
        if run is None:
            raise UserError(f"checkpoint.{name} is not set: no model of this modality is in its package")
        n = options.n.get(name, FEW)
        subject = Subject.of(name, run, n, options.data.get(name))
        if len(subject.floor) < n:
            held_out = len(subject.data.test)
            raise UserError(f"n.{name}={n}: with {held_out} held-out samples, at most {held_out // 2}")
        studies.append(study(subject, options, folder, report))
        report(terminal(studies[-1]))
        report(f"{name}: {studies[-1].verdict}")
        curves(studies[-1], folder / f"{name}.png")
        content = {"machine": machine(), "options": asdict(options), "modalities": [asdict(s) for s in studies]}
        write_json(folder / "quality.json", content)
        if options.record:
            found = {"options": records.asked(options), "study": asdict(studies[-1])}
            records.add(Path(options.record), "modalities", name, found, options.seed)
        (folder / "table.md").write_text("\n".join(map(markdown, studies)))
    report(f"all of it in {folder}")
    return studies


def study(subject: Subject, options: Options, folder: Path, report: Reporter) -> Study:
    """Each sampler at each number of evaluations; the references first."""
    n, modality = len(subject.reference), subject.model.modality

    def measured(samples: Batch) -> tuple[dict[str, float], dict[str, float]]:
        found = modality.headlines(samples, subject.reference)
        errors = {name: one.error(options.seed, options.resamples) for name, one in found.items()}
        return {name: one.value for name, one in found.items()}, errors

    plans = list(_plans(subject, options))
    total = sum(int(config.steps) for *_, config in plans) * math.ceil(n / options.micro_batch)
    rows: list[Row] = []
    with counting(report.console, f"{subject.name}: steps of {len(plans)} rows", total) as count:
        for sampler, times, evaluations, config in plans:
            label = f"{subject.name}-{sampler}-{times}-{evaluations}"
            drawn = draw(subject, config, n, options.micro_batch, options.seed, folder / "samples", label, count)
            cost = (int(config.steps), drawn.nfe, drawn.seconds)
            rows.append(Row(sampler, times, evaluations, *cost, *measured(drawn.samples)))
            report(rows[-1].text)
    lower = [name for name, one in modality.headlines(subject.floor, subject.reference).items() if one.lower_is_better]
    return Study(subject.name, subject.data.describe(), subject.run, n, rows, *measured(subject.floor), lower)


def of(modality: str) -> Callable[[Mapping[str, Any]], str]:
    """The modality's tables from the record."""

    def tables(record: Mapping[str, Any]) -> str:
        found = record["modalities"][modality]["study"]
        return figures(Study(**{**found, "rows": [Row(**row) for row in found["rows"]]}))

    return tables


def _plans(subject: Subject, options: Options) -> Iterator[tuple[str, str, int, DictConfig]]:
    """Sampler, time grid, number of evaluations, the config with as many steps: the references, then all others."""
    grids = chosen(options.times, ["own", *names("times")], "times")
    references = chosen(options.references, names("sampler"), "references")
    samplers = chosen(options.samplers, names("sampler"), "samplers") if options.samplers else _distinct(subject)
    asked = [(sampler, grids[0], options.reference_steps) for sampler in references]
    asked += [(sampler, grid, steps) for sampler in samplers for grid in grids for steps in options.steps]
    for sampler, grid, evaluations in asked:
        config = subject.requesting(sampler, evaluations, grid)
        config.steps = steps_within(evaluations, config, subject.model.denoiser.schedule)
        yield sampler, grid, evaluations, config


def _distinct(subject: Subject) -> list[str]:
    """All samplers, each under the first of its names."""
    found: dict[str, str] = {}
    for name in names("sampler"):
        found.setdefault(str(subject.requesting(name, 1).sampler), name)
    return list(found.values())


if __name__ == "__main__":
    with_options(Options, main)
