"""What the benchmarks share: options from the command line, tasks that take turns on the clock, the default run."""

from __future__ import annotations

import ctypes
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from core.batch import Batch
from core.build import build_denoiser, build_levels, fill, fitted_codec, part
from core.cli import opened
from core.codec import Codec
from core.data import Data
from core.denoiser import Denoiser
from core.descent import Update
from core.errors import UserError
from core.module import Optimisation
from core.objective import Objective

if TYPE_CHECKING:
    from omegaconf import DictConfig


ROOT = Path(__file__).resolve().parent.parent


def chosen(text: str, allowed: Mapping[str, object] | list[str], key: str) -> list[str]:
    """The names in a comma-separated option; UserError for one that is not allowed."""
    names = text.split(",")
    for name in names:
        if name not in allowed:
            raise UserError(f"{key}={name}: allowed are {', '.join(allowed)}")
    return names


def compose(*overrides: str, command: str = "train") -> DictConfig:
    """The config that `python -m core.<command>` composes from the same overrides."""
    import hydra

    with hydra.initialize_config_module("configs", version_base="1.3"):
        return hydra.compose(command, [opened(override, command) for override in overrides])


@dataclass(frozen=True)
class Run:
    """The objects of a training run that has not begun."""

    config: DictConfig
    data: Data
    codec: Codec
    denoiser: Denoiser

    @classmethod
    def of(cls, *overrides: str) -> Run:
        config = compose(*overrides)
        return cls.on(config, part(config, "data"))

    @classmethod
    def on(cls, config: DictConfig, data: Data) -> Run:
        """The config's run on other data than its own."""
        fill(config, data.facts)
        codec = fitted_codec(config, data.train)
        return cls(config, data, codec, build_denoiser(config, codec))

    def objective(self) -> Objective:
        """That of its training."""
        return Objective(build_levels(self.config), self.config.training.drop_rate, self.config.seed)

    def step(self, batch: Batch, encode: Callable[[Batch], Batch] | None = None) -> Callable[[], None]:
        """A step of its training, see `training_step`."""
        optimisation = Optimisation(**self.config.optimisation)
        return training_step(self.denoiser.train(), batch, self.objective(), optimisation, encode)


def training_step(
    denoiser: Denoiser,
    batch: Batch,
    objective: Objective,
    optimisation: Optimisation,
    encode: Callable[[Batch], Batch] | None = None,
) -> Callable[[], None]:
    """One step of our objective on a batch, which is encoded at each step if `encode` is given."""
    update, positions = Update(denoiser, optimisation), torch.arange(len(batch))

    def step() -> None:
        encoded = batch if encode is None else encode(batch)
        update(objective.training(denoiser, encoded, update.steps, positions, len(batch)).loss.mean())

    return step


Task = Callable[[], float]  # does its work once and returns the seconds that it took


def timed(work: Callable[[], object], device: str = "cpu") -> Task:
    """Its seconds by the device's clock, see `clock_of`."""
    clock = clock_of(device)

    def task() -> float:
        begun = clock()
        work()
        return clock() - begun

    return task


def clock_of(device: str) -> Callable[[], float]:
    """CPU seconds of the process, not the wall's: what else runs on the machine counts less. On a GPU the wall's, read
    when it has done what it was given: it works on after a call has returned.
    """

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return time.process_time if device == "cpu" else synchronised


@dataclass(frozen=True)
class Comparison:
    """How long a task takes, over another that took turns with it in the same process.

    ratio: the median over the rounds of task / baseline; low, high: its quartiles. limit: what it is meant not to pass.
    seconds, baseline_seconds: medians.
    """

    what: str
    baseline: str
    seconds: float
    baseline_seconds: float
    ratio: float
    low: float
    high: float
    limit: float | None = None

    @classmethod
    def of(cls, what: str, baseline: str, ours: list[float], theirs: list[float], limit: float | None) -> Comparison:
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        low, high = quartiles(ratios)
        medians = statistics.median(ours), statistics.median(theirs)
        return cls(what, baseline, *medians, statistics.median(ratios), low, high, limit)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper one; of one value, that."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return low, high


def race(what: str, task: Task, baselines: Mapping[str, Task], rounds: int, limit: float | None) -> list[Comparison]:
    """The task against each of the baselines: all take turns, to and fro, after one round that does not count."""
    tasks = {what: task, **baselines}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(rounds + 1):
        for name in list(tasks)[:: 1 if i % 2 else -1]:
            taken = tasks[name]()
            if i:
                seconds[name].append(taken)
    return [Comparison.of(what, name, seconds[what], seconds[name], limit) for name in baselines]


def count(network: nn.Module) -> int:
    """Its parameters."""
    return sum(p.numel() for p in network.parameters())


def machine() -> dict[str, object]:
    """What a measurement depends on."""
    processor = platform.processor() or platform.machine()
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": commit(),
    }


def commit(home: Path = ROOT) -> str:
    """Of the checkout that `home` is, with a + where files differ from it; "" outside of one.

    Records that differ do not count: they are what a measurement writes, and nothing follows from them.
    """
    git = ["git", "-C", str(home)]
    differs = [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results"]
    try:
        texts = [
            subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
            for call in ([*git, "rev-parse", "--short=12", "HEAD"], differs)
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return texts[0] + ("+" if texts[1] else "")


def reset_peak(process: int | str = "self") -> float | None:
    """The memory that a process has in use now, in bytes, which becomes its peak; None where it cannot be told."""
    try:
        Path(f"/proc/{process}/clear_refs").write_text("5")
    except OSError:
        return None
    return peak(process)


def peak(process: int | str = "self") -> float | None:
    """The most memory that a process has had in use, mapped pages of files included, in bytes."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return float(lines["VmHWM"].split()[0]) * 1024


def grown(work: Callable[[], object], device: str = "cpu") -> float | None:
    """By how many bytes the memory in use grows at most while the work is done; None where it cannot be told.

    On the CPU it is the process's, which has first given back what it has freed; on a GPU its tensors'.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
    # the C library keeps what was freed: with it there, the work would need no new memory; Linux's gives it back
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    base = reset_peak()
    work()
    after = peak()
    return None if base is None or after is None else after - base


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One of Markdown's, the first row its heads."""
    lines = (f"| {' | '.join(row)} |" for row in (columns, *rows))
    return "\n".join([next(lines), "|---" * len(columns) + "|", *lines])
