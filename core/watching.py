"""A training's progress, for a person or for a log. Not in `core.progress`: Lightning takes seconds to load."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import Progress as Bar

from core.progress import PLAIN_SECONDS, bar_on


class Progress(Callback):
    """Steps done, loss, speed and time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Bar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun, self.first, self.spoke = time.monotonic(), trainer.global_step, time.monotonic()
        self.loss = float("nan")
        if self.console.is_terminal:
            self.bar = bar_on(self.console, "loss {task.fields[loss]:.4f}  {task.fields[speed]:.1f} steps/s")
            self.task = self.bar.add_task("training", total=None, loss=self.loss, speed=0.0)
            self.bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % 10 and self.bar is None and trainer.global_step > self.first + 1:
            return
        now, done, total = time.monotonic(), trainer.global_step, _total(trainer)
        speed = (done - self.first) / max(now - self.begun, 1e-9)
        if trainer.global_step % 10 == 0:
            self.loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning has divided it
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total, loss=self.loss, speed=speed)
        elif now - self.spoke > PLAIN_SECONDS:
            self.spoke = now
            left = "" if total is None else f" of {total}, {(total - done) / max(speed, 1e-9):.0f} s left"
            self.console.print(f"step {done}{left}, loss {self.loss:.4f}, {speed:.2f} steps/s")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _total(trainer: pl.Trainer) -> int | None:
    steps = trainer.fit_loop.epoch_loop.max_steps
    return None if steps is None or steps < 0 else steps
