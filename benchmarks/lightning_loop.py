"""The training loop of `core.train`, without validation, against a bare PyTorch loop that does the same work."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from benchmarks.common import Run, Task, timed
from core import fit
from core.batch import Batch
from core.build import build_modality
from core.data import StepOrder, train_loader
from core.descent import Update
from core.model import Model
from core.module import Optimisation
from core.runs import Reporter


def lightning_against_bare(overrides: Sequence[str], steps: int, rounds: int) -> tuple[list[float], list[float]]:
    """CPU seconds of `steps` steps in each loop, for each round; the loops take turns, the first round is not counted.

    Both train the default network on the same batches with the same objective, optimiser, clipping and average.
    """
    run, bare = (
        Run.of("modality=image", "trainer=cpu", f"training.steps={steps * (rounds + 1)}", *overrides) for _ in range(2)
    )
    with tempfile.TemporaryDirectory() as folder:
        model = Model(run.denoiser, run.codec, build_modality(run.config), run.config)
        # the very trainer of core.train: a copy of its settings would measure something else
        trainer = fit.build_trainer(run.config, Path(folder), model, run.data, Reporter(Path(folder)), first_step=0)
        module = fit.build_module(run.config, model, run.data)
        turns = _Turns(steps, _several(_bare_steps(bare), steps))
        trainer.callbacks.append(turns)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no `val_dataloader`.*")  # without validation: it is meant
            trainer.fit(module, _loader(run))
    return turns.lightning[1:], turns.bare[1:]


class _Turns(pl.Callback):
    """Stops the clock after every `steps` steps of the trainer, and lets the other loop have its turn."""

    def __init__(self, steps: int, other: Task) -> None:
        self.steps, self.other = steps, other
        self.lightning: list[float] = []
        self.bare: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun = time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.steps == 0:
            self.lightning.append(time.process_time() - self.begun)
            self.bare.append(self.other())
            self.begun = time.process_time()


def _several(stepping: Iterator[None], steps: int) -> Task:
    def work() -> None:
        for _ in range(steps):
            next(stepping)

    return timed(work)


def _loader(run: Run) -> DataLoader[Batch]:
    order = StepOrder(len(run.data.train), run.config.training.batch_size, run.config.seed)
    return train_loader(run.data.train, order, workers=0, pin_memory=False)


def _bare_steps(run: Run) -> Iterator[None]:
    """The same training as a plain loop; each item is a step done."""
    training = run.config.training
    objective = run.objective()
    update = Update(run.denoiser, Optimisation(**run.config.optimisation), training.steps)
    positions = torch.arange(training.batch_size)
    for batch in _loader(run):
        batch = run.data.augment(batch, objective.augmentation(batch, update.steps, positions))
        encoded = run.codec.encode(batch)
        losses = objective.training(run.denoiser, encoded, update.steps, positions, len(positions))
        update(losses.loss.mean())
        yield
