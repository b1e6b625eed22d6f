"""The training loop of `core.train`, without validation, against a bare PyTorch loop that does the same work."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from benchmarks.common import Run, Task, clock_of, timed
from core import fit
from core.batch import Batch
from core.build import build_modality
from core.data import StepOrder, train_loader
from core.descent import Update
from core.model import Model
from core.module import Optimisation
from core.runs import Reporter


def lightning_against_bare(
    overrides: Sequence[str], steps: int, rounds: int, device: str = "cpu"
) -> tuple[list[float], list[float]]:
    """Seconds of `steps` steps in each loop, for each round; the loops take turns, the first round is not counted.

    Both train the default network on the same batches with the same objective, optimiser, clipping and average.
    """
    # on a GPU in float32 and not compiled, as the bare loop is
    trainer = ["trainer=cpu", f"trainer.accelerator={'cpu' if device == 'cpu' else 'gpu'}", "trainer.precision=32-true"]
    run, bare = (
        Run.of("modality=image", *trainer, f"training.steps={steps * (rounds + 1)}", *overrides) for _ in range(2)
    )
    with tempfile.TemporaryDirectory() as folder:
        model = Model(run.denoiser, run.codec, build_modality(run.config), run.config)
        # the very trainer of core.train: a copy of its settings would measure something else
        trainer = fit.build_trainer(run.config, Path(folder), model, run.data, Reporter(Path(folder)), first_step=0)
        module = fit.build_module(run.config, model, run.data)
        turns = _Turns(steps, device, _several(_bare_steps(bare, device), steps, device))
        trainer.callbacks.append(turns)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no `val_dataloader`.*")  # without validation: it is meant
            trainer.fit(module, _loader(run))
    return turns.lightning[1:], turns.bare[1:]


class _Turns(pl.Callback):
    """Stops the clock after every `steps` steps of the trainer, and lets the other loop have its turn."""

    def __init__(self, steps: int, device: str, other: Task) -> None:
        self.steps, self.clock, self.other = steps, clock_of(device), other
        self.lightning: list[float] = []
        self.bare: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun = self.clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.steps == 0:
            self.lightning.append(self.clock() - self.begun)
            self.bare.append(self.other())
            self.begun = self.clock()


def _several(stepping: Iterator[None], steps: int, device: str) -> Task:
    def work() -> None:
        for _ in range(steps):
            next(stepping)

    return timed(work, device)


def _loader(run: Run) -> DataLoader[Batch]:
    order = StepOrder(len(run.data.train), run.config.training.batch_size, run.config.seed)
    return train_loader(run.data.train, order, workers=0, pin_memory=False)


def _bare_steps(run: Run, device: str) -> Iterator[None]:
    """The same training as a plain loop; each item is a step done."""
    training = run.config.training
    objective = run.objective()
    update = Update(run.denoiser.to(device), Optimisation(**run.config.optimisation), training.steps)
    positions = torch.arange(training.batch_size)
    for loaded in _loader(run):
        batch = loaded.to(device)
        batch = run.data.augment(batch, objective.augmentation(batch, update.steps, positions))
        encoded = run.codec.encode(batch)
        losses = objective.training(run.denoiser, encoded, update.steps, positions, len(positions))
        update(losses.loss.mean())
        yield
