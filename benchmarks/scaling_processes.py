"""A step of training by 1, 2, 4, ... processes, each with a batch of its own: `core.train` itself, over gloo or NCCL.

Called as a module it is `core.train`, with a clock among its trainer's callbacks that writes `seconds.json` into the
run folder. On the CPU each process has one thread.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch

from benchmarks.scaling_series import Series
from core.errors import UserError
from core.progress import counting
from core.runs import Reporter, write_json

PROCESSES = "processes"
SECONDS = "seconds.json"
STEPS, SKIPPED = 24, 4  # of a run, and those at its beginning that do not count
WITHOUT = ("training.validate_on=8", "preview.n=0", "n=0")


def measure_processes(modality: str, points: int, rounds: int, device: str, folder: Path, report: Reporter) -> Series:
    """Median wall-clock seconds of a step, in whole runs that take turns; no more processes than cores, or GPUs."""
    room = torch.cuda.device_count() if device == "cuda" else os.cpu_count() or 1
    numbers = [2**k for k in range(points) if 2**k <= room]
    if len(numbers) < 2:
        raise UserError(f"what={PROCESSES}: this machine has room for one process of device={device} only")
    seconds: list[list[float]] = [[] for _ in numbers]
    with counting(report.console, f"{modality}, {PROCESSES}, training", rounds * len(numbers)) as count:
        for _ in range(rounds):
            for found, number in zip(seconds, numbers, strict=True):
                with TemporaryDirectory(dir=folder) as home:
                    found.append(_step_of(modality, number, device, Path(home) / "run"))
                count(1)
    unit, nothing = f"processes on {room} {'GPUs' if device == 'cuda' else 'cores'}", [None] * len(numbers)
    # each has its own batch: in the ideal case the time stays what it is
    return Series.of(modality, PROCESSES, "training", unit, 0, [float(n) for n in numbers], seconds, nothing)


def _step_of(modality: str, number: int, device: str, run: Path) -> float:
    accelerator = "gpu" if device == "cuda" else "cpu"
    place = (f"trainer.accelerator={accelerator}", f"trainer.devices={number}", "trainer.strategy=ddp")
    steps = (f"training.steps={STEPS}", f"training.validate_every={STEPS}")
    call = [sys.executable, "-m", "benchmarks.scaling_processes", f"modality={modality}", *place, *steps, *WITHOUT]
    done = subprocess.run(
        [*call, f"out={run}"], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"{number} processes failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return statistics.median(json.loads((run / SECONDS).read_text())[SKIPPED:])


class Clock(pl.Callback):
    """Seconds on the wall from the end of one step to that of the next, of the first process."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            write_json(self.run / SECONDS, [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)])


def main() -> None:
    from core import fit
    from core.cli import run
    from core.train import train

    build = fit.build_trainer

    def with_clock(config: Any, run: Path, *others: Any, **named: Any) -> pl.Trainer:
        trainer = build(config, run, *others, **named)
        trainer.callbacks.append(Clock(run))
        return trainer

    fit.build_trainer = with_clock  # core.train itself has no place for further callbacks
    run("train", train)


if __name__ == "__main__":
    main()
