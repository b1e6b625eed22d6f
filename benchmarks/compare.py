"""python -m benchmarks.compare modality=image [checkpoint.image=runs/...] [minutes=1]: quality against NFE.

For each modality, a checkpoint or a short run made here is sampled with each sampler at each number of steps, and
measured by the modality's own figures. Samples stay in `out` and are not drawn again. Writes compare.json and
report.html (one file, pictures inside) there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import chosen, compose, machine
from benchmarks.drawing import Subject, draw, names
from benchmarks.report import Section, html
from core.cli import with_options
from core.data import whole
from core.fit import fit
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
    samplers, modalities = names("sampler"), names("modality")
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


def _train(name: str, options: Options, folder: Path) -> Path:
    budget = [f"training.minutes={options.minutes}", "n=0", f"out={folder / name}"]
    return fit(compose(f"modality={name}", *budget, *options.overrides.split()))


def _measure(name: str, run: Path, samplers: list[str], options: Options, folder: Path, report: Reporter) -> Section:
    subject = Subject.of(name, run, options.n)
    modality, training = subject.model.modality, whole(subject.data.train)
    real = modality.metrics(subject.floor, subject.reference, training) if len(subject.floor) else {}
    rows: list[dict[str, Any]] = []
    pictures = []
    for sampler in samplers:
        for steps in options.steps:
            config, label = subject.requesting(sampler, steps), f"{name}-{sampler}-{steps}-steps"
            drawn = draw(subject, config, options.n, options.micro_batch, options.seed, folder / "samples", label)
            row = {"sampler": sampler, "steps": steps, "nfe": drawn.nfe, "seconds_per_sample": drawn.seconds}
            rows.append(row | modality.metrics(drawn.samples, subject.reference, training))
            said = (f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items())
            report(f"{name}: {', '.join(said)}")
        pictures.append(folder / f"{name}-{sampler}.png")
        modality.grid(drawn.samples[:50], pictures[-1])
    return Section(name, subject.data.describe(), str(run), rows, real, [str(picture) for picture in pictures])


if __name__ == "__main__":
    with_options(Options, main)
