"""python -m benchmarks.compare modality=image [checkpoint.image=runs/...] [minutes=1]: quality against NFE.

For each modality, a checkpoint or a short run made here is sampled with each sampler at each number of steps, and
measured by the modality's own figures. Writes compare.json and report.html (one file, pictures inside) into `out`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

import core
from benchmarks.common import chosen, compose, machine
from benchmarks.report import Section, html
from core.batch import Batch, concatenate
from core.build import part
from core.cli import with_options
from core.data import whole
from core.fit import fit
from core.model import Model
from core.runs import Reporter, write_json


@dataclass
class Options:
    modality: str = ""  # one or more, separated by commas; all of them unless given
    checkpoint: dict[str, str] = field(default_factory=dict)  # a run folder for each modality; others are trained
    minutes: float = 1.0  # of training where there is no checkpoint
    samplers: str = "ddim,ddpm"
    steps: list[int] = field(default_factory=lambda: [5, 10, 20, 50])
    n: int = 200
    micro_batch: int = 100
    seed: int = 0
    threads: int = 1
    overrides: str = ""  # of the runs made here, separated by blanks
    out: str = "benchmarks/out/compare"


def main(options: Options) -> list[Section]:
    """Measures all that `options` names; what is written after each modality holds those before it too."""
    samplers, modalities = _names("sampler"), _names("modality")
    chosen_samplers = chosen(options.samplers, samplers, "samplers")
    torch.set_num_threads(options.threads)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    sections: list[Section] = []
    for name in chosen(options.modality or ",".join(modalities), modalities, "modality"):
        run = Path(options.checkpoint.get(name) or _train(name, options, folder))
        sections.append(_measure(name, run, chosen_samplers, options, folder, report))
        content = {"machine": machine(), "options": asdict(options), "modalities": [asdict(s) for s in sections]}
        write_json(folder / "compare.json", content)
        (folder / "report.html").write_text(html(sections, machine()))
    report(f"all of it in {folder / 'report.html'}")
    return sections


def _names(group: str) -> list[str]:
    """The configs of a group: a new modality or sampler is found by its file."""
    paths = (Path(entry.name) for entry in (files("configs") / group).iterdir())
    return sorted(path.stem for path in paths if path.suffix == ".yaml")


def _train(name: str, options: Options, folder: Path) -> Path:
    budget = [f"training.minutes={options.minutes}", "n=0", f"out={folder / name}"]
    return fit(compose(f"modality={name}", *budget, *options.overrides.split()))


def _measure(name: str, run: Path, samplers: list[str], options: Options, folder: Path, report: Reporter) -> Section:
    model = core.load(run, device="cpu")
    data = part(model.config, "data")
    held_out, training = whole(data.test, 2 * options.n), whole(data.train)
    reference, others = held_out[: options.n], held_out[options.n :]
    real = model.modality.metrics(others, reference, training) if len(others) else {}
    rows: list[dict[str, Any]] = []
    pictures = []
    for sampler in samplers:
        for samples, row in _draw(model, sampler, name, options):
            rows.append(row | model.modality.metrics(samples, reference, training))
            report(
                f"{name}: {', '.join(f'{k} {v:.4g}' if isinstance(v, float) else f'{v}' for k, v in rows[-1].items())}"
            )
        pictures.append(folder / f"{name}-{sampler}.png")
        model.modality.grid(samples[:50], pictures[-1])
    return Section(name, data.describe(), str(run), rows, real, [str(picture) for picture in pictures])


def _draw(model: Model, sampler: str, name: str, options: Options) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """The samples of one sampler for each number of steps, and what they cost."""
    config = model.config.copy()
    config.sampler = compose(f"modality={name}", f"sampler={sampler}").sampler
    template = model.template(options.n)
    for steps in options.steps:
        config.steps = steps
        begun = time.process_time()
        parts = list(model.stream(template, config, seed=options.seed, micro_batch=options.micro_batch))
        seconds = (time.process_time() - begun) / options.n
        yield concatenate(parts), {"sampler": sampler, "steps": steps, "nfe": model.nfe, "seconds_per_sample": seconds}


if __name__ == "__main__":
    with_options(Options, main)
