"""Contenders that train for the same CPU time and draw as many samples each: one table of how good those are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import Run, count, machine
from benchmarks.contenders import Contender
from core.batch import Batch, concatenate, padded
from core.build import build_modality
from core.codec import Codec
from core.data import Source, train_loader, training_order, whole
from core.descent import Update
from core.errors import UserError
from core.module import Optimisation
from core.runs import Reporter, write_json

SPEAK = 10  # seconds between two lines
SETTLED = 10  # steps after which the speed is known well enough to foresee the number of steps
Figures = dict[str, float]


@dataclass
class Budget:
    """What every contender gets."""

    contenders: str  # separated by commas
    seconds: float  # of CPU time, one thread, for each training
    n: int  # samples
    steps: int  # of sampling
    batch: int
    micro_batch: int  # samples drawn at once
    overrides: str  # of the runs, separated by blanks
    out: str


@dataclass(frozen=True)
class Entry:
    """A contender, untrained, with the codec of its coordinates and how it is optimised."""

    contender: Contender
    codec: Codec
    optimisation: Optimisation
    augment: Callable[[Batch, int], Batch] = lambda batch, step: batch  # of training data, before it is encoded


def compare(names: Sequence[str], enter: Callable[[str], Entry], run: Run, budget: Budget) -> dict[str, Figures]:
    """Trains and measures the contenders; prints one table and writes figures, a grid each and quality.json.

    run: of the data and its modality, which measures them all. What is finished in `budget.out` is not done again.
    UserError if it holds figures of other settings, or if there are too few held-out samples.
    """
    torch.set_num_threads(1)
    held_out, training = whole(run.data.test, 2 * budget.n), whole(run.data.train)
    if len(held_out) < 2 * budget.n:
        raise UserError(f"n={budget.n}: with {len(run.data.test)} held-out samples, at most {len(run.data.test) // 2}")
    folder = Path(budget.out)
    folder.mkdir(parents=True, exist_ok=True)
    _check_same(folder / "options.json", budget)
    report, modality = Reporter(folder), build_modality(run.config)
    reference, template = held_out[: budget.n], modality.template(budget.n)
    figures: dict[str, Figures] = {}
    for name in names:
        path = folder / f"{name}.json"
        if not path.exists():
            samples, effort = _contest(name, enter, run, template, budget, report)
            modality.grid(samples[:100], folder / f"{name}.png")
            write_json(path, {"machine": machine(), "figures": effort | modality.metrics(samples, reference, training)})
        figures[name] = json.loads(path.read_text())["figures"]
    figures["real"] = modality.metrics(held_out[budget.n :], reference, training)
    report.figures(f"after {budget.seconds:g} CPU seconds each", figures)
    write_json(folder / "quality.json", {"machine": machine(), "options": asdict(budget), **figures})
    return figures


def _check_same(path: Path, budget: Budget) -> None:
    settings = {key: value for key, value in asdict(budget).items() if key not in ("contenders", "out")}
    if path.exists() and json.loads(path.read_text()) != settings:
        raise UserError(f"{path.parent} holds figures of other settings; choose another out= or remove it")
    write_json(path, settings)


def _contest(
    name: str, enter: Callable[[str], Entry], run: Run, template: Batch, budget: Budget, report: Reporter
) -> tuple[Batch, Figures]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        entry = enter(name)
        report(f"{name}: {count(entry.contender.model):,} parameters")
        update = _train(name, entry, run.data.train, run.config.seed, budget, report)
        begun = time.process_time()
        samples = _draw(entry, update, template, budget)
        seconds = time.process_time() - begun
    report(f"{name}: {budget.n} samples in {seconds:.0f} CPU seconds")
    effort = {"parameters": count(entry.contender.model), "training_steps": update.steps, "sampling_seconds": seconds}
    return samples, effort


def _train(name: str, entry: Entry, source: Source, seed: int, budget: Budget, report: Reporter) -> Update:
    """Steps until the CPU seconds are over. The learning rate's schedule fits the steps that the speed foretells."""
    update = Update(entry.contender.model.train(), entry.optimisation)
    order = training_order(source, budget.batch, seed)
    begun = spoke = time.process_time()
    for batch in train_loader(source, order, workers=0, pin_memory=False):
        batch = entry.augment(batch, update.steps)
        loss = entry.contender.loss(entry.codec.encode(batch), update.steps)
        update(loss)
        taken = time.process_time() - begun
        if update.steps >= SETTLED:
            update.total = round(update.steps * budget.seconds / taken)
        if taken - (spoke - begun) > SPEAK:
            spoke = time.process_time()
            report(f"{name}: step {update.steps} of about {update.total}, loss {float(loss.detach()):.4f}")
        if taken > budget.seconds:
            break
    return update


def _draw(entry: Entry, update: Update, template: Batch, budget: Budget) -> Batch:
    """What the averaged model draws for the template, decoded."""
    average, wanted = update.average.eval(), entry.codec.template(template)

    def some(places: Tensor) -> Batch:
        rows = wanted[places]
        x0 = entry.contender.sample(average, entry.codec.trim(rows), places, budget.steps)
        return entry.codec.decode(rows.with_x(padded(x0, rows.x)))

    return concatenate([some(places) for places in torch.arange(budget.n).split(budget.micro_batch)])
