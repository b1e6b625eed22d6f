"""python -m benchmarks.quality [seconds=120] [n=500]: how good the samples are after equal CPU time.

Each contender trains for the same CPU seconds on the same batches of the default data, with the labels, and draws n
samples with its averaged weights; the digit judge measures all of them. What is finished stays in `out` and is not
done again: give another `out` for another setting.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Run, Update, chosen, command, count, machine
from benchmarks.contenders import CONTENDERS, Contender, contender
from core.batch import Batch
from core.build import build_modality
from core.data import StepOrder, train_loader, whole
from core.errors import UserError
from core.module import Optimisation
from core.runs import Reporter, write_json

SPEAK = 10  # seconds between two lines
SETTLED = 10  # steps after which the speed is known well enough to foresee the number of steps


@dataclass
class Options:
    contenders: str = ",".join(CONTENDERS)
    seconds: float = 120  # of CPU time, one thread, for each training
    n: int = 500
    steps: int = 20  # of DDIM
    batch: int = 32
    micro_batch: int = 125
    peer_lr: float = 1e-3  # the peak; theirs are 1e-4, for trainings a thousand times longer
    peer_warmup: int = 20  # steps: their steps are fewer
    overrides: str = ""  # of our run, separated by blanks
    out: str = "benchmarks/out/quality"


def main(options: Options) -> dict[str, dict[str, float]]:
    """Trains and measures the contenders; prints one table and writes figures, a grid each and quality.json."""
    names = chosen(options.contenders, list(CONTENDERS), "contenders")
    torch.set_num_threads(1)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    _check_same(folder / "options.json", options)
    report = Reporter(folder)
    run = Run.of("modality=image", *options.overrides.split())
    modality = build_modality(run.config)
    held_out, training = whole(run.data.test, 2 * options.n), whole(run.data.train)
    reference = held_out[: options.n]
    figures: dict[str, dict[str, float]] = {}
    for name in names:
        path = folder / f"{name}.json"
        if not path.exists():
            samples, effort = _train_and_sample(name, run, options, report)
            modality.grid(samples[:100], folder / f"{name}.png")
            write_json(path, effort | modality.metrics(samples, reference, training))
        figures[name] = json.loads(path.read_text())
    figures["real"] = modality.metrics(held_out[options.n :], reference, training)
    report.figures(f"after {options.seconds:g} CPU seconds each", figures)
    write_json(folder / "quality.json", {"machine": machine(), "options": asdict(options), **figures})
    return figures


def _check_same(path: Path, options: Options) -> None:
    settings = {key: value for key, value in asdict(options).items() if key not in ("contenders", "out")}
    if path.exists() and json.loads(path.read_text()) != settings:
        raise UserError(f"{path.parent} holds figures of other settings; choose another out= or remove it")
    write_json(path, settings)


def _train_and_sample(name: str, run: Run, options: Options, report: Reporter) -> tuple[Batch, dict[str, float]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        trained = contender(name, run)
        report(f"{name}: {count(trained.model):,} parameters")
        update = _train(name, trained, run, options, report)
        begun = time.process_time()
        labels = torch.arange(options.n) % len(run.data.classes)
        average = update.average.eval()
        parts = [trained.sample(average, rows, options.steps) for rows in labels.split(options.micro_batch)]
        seconds = time.process_time() - begun
    report(f"{name}: {options.n} samples in {seconds:.0f} CPU seconds")
    samples = run.codec.decode(Batch.full(torch.cat(parts), {"label": labels}))
    return samples, {"parameters": count(trained.model), "training_steps": update.steps, "sampling_seconds": seconds}


def _optimisation(trained: Contender, run: Run, options: Options) -> Optimisation:
    settings: dict[str, Any] = dict(run.config.optimisation)
    if trained.model is not run.denoiser:
        settings |= {"lr": options.peer_lr, "warmup": options.peer_warmup}
    return Optimisation(**settings)


def _train(name: str, trained: Contender, run: Run, options: Options, report: Reporter) -> Update:
    """Steps until the CPU seconds are over. The learning rate's schedule fits the steps that the speed foretells."""
    update = Update(trained.model.train(), _optimisation(trained, run, options))
    order = StepOrder(len(run.data.train), options.batch, run.config.seed)
    begun = spoke = time.process_time()
    for batch in train_loader(run.data.train, order, workers=0, pin_memory=False):
        loss = trained.loss(run.codec.encode(batch), update.steps)
        update(loss)
        taken = time.process_time() - begun
        if update.steps >= SETTLED:
            update.total = round(update.steps * options.seconds / taken)
        if taken - (spoke - begun) > SPEAK:
            spoke = time.process_time()
            report(f"{name}: step {update.steps} of about {update.total}, loss {float(loss.detach()):.4f}")
        if taken > options.seconds:
            break
    return update


if __name__ == "__main__":
    command(Options, main)
