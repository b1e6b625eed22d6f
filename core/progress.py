"""A progress bar that a person can watch, and lines that a log file can keep."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PLAIN_SECONDS = 20  # between two lines where the output is no terminal


class Progress(Callback):
    """Steps done, loss, speed and time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Bar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun, self.first, self.spoke = time.monotonic(), trainer.global_step, time.monotonic()
        self.loss = float("nan")
        if self.console.is_terminal:
            self.bar = _bar(self.console, "loss {task.fields[loss]:.4f}  {task.fields[speed]:.1f} steps/s")
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
            self.loss = float(outputs["loss"])
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


def _bar(console: Console, text: str = "") -> Bar:
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(text)]
    return Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


@contextmanager
def counting(console: Console, what: str, total: int) -> Iterator[Any]:
    """Yields a function that is told how many of `total` have been done since the last call."""
    begun = spoke = time.monotonic()
    done = 0

    def plain(more: int) -> None:
        nonlocal done, spoke
        done += more
        if time.monotonic() - spoke > PLAIN_SECONDS / 2 or done == total:
            spoke = time.monotonic()
            console.print(f"{what}: {done} of {total} in {spoke - begun:.0f} s")

    if not console.is_terminal:
        yield plain
        return
    with _bar(console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)
