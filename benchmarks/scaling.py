"""python -m benchmarks.scaling [what=batch,size,width,nfe,processes] [modality=image] [device=cuda]: how cost grows.

A step of training (from data on: encoding, loss, gradients, AdamW, the average) and sampling (by the modality's own
sampler and guidance, not decoded), of each modality's default network on noise in the place of data, while one number
doubles and the others are held (`benchmarks.scaling_axes`):

batch: samples. size: pixels a side, seconds of a clip, atoms of a molecule. width: channels of the network. nfe:
evaluations of a sample, of sampling alone. processes (not by default): a step of training by that many processes, each
with a batch of its own, in wall-clock seconds (`benchmarks.scaling_processes`).

Seconds are medians over rounds in which all points of a series take turns: CPU seconds of one thread or, with
device=cuda, of the wall, the GPU synchronised before the clock is read; float32 on both. Memory is the most in use
during one more step, above what was in use before it: activations and what else comes and goes, but not weights,
optimiser state and average. On the CPU it is of the process, on a GPU of its tensors.

What is there in out/scaling.json, of the same options on the same machine, is not measured again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.common import chosen, grown, machine, markdown_table, timed
from benchmarks.scaling_axes import AXES, SUBJECTS, WORKS, Bench, Work
from benchmarks.scaling_fits import Growth
from benchmarks.scaling_plots import plot
from benchmarks.scaling_processes import PROCESSES, measure_processes
from benchmarks.scaling_series import Series
from core.cli import with_options
from core.errors import UserError
from core.progress import counting
from core.runs import Reporter, write_text

SHORTEST = 0.1  # seconds of a turn: shorter work is repeated in it
WARM = 2  # turns of each point that are not timed: one before the rounds, and one for the memory after them


@dataclass
class Options:
    what: str = ",".join(AXES)
    modality: str = ",".join(SUBJECTS)
    points: int = 6  # of each series, every one twice the one before
    rounds: int = 3
    device: str = "cpu"
    out: str = "benchmarks/out/scaling"


def main(options: Options) -> list[Series]:
    """Prints the tables; writes scaling.json and scaling.png into `out`."""
    axes = {**AXES, PROCESSES: ("training",)}
    names = chosen(options.what, axes, "what")
    modalities = chosen(options.modality, SUBJECTS, "modality")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    device = chosen(options.device, devices, "device")[0]
    if options.points < 2 or options.rounds < 1:
        raise UserError(f"points={options.points} rounds={options.rounds}: at least 2 points and 1 round")
    torch.set_num_threads(1)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report, record = Reporter(folder), Record.of(folder / "scaling.json", options)
    for modality in modalities:
        for axis in names:
            for work in axes[axis]:
                if record.has(modality, axis, work):
                    continue
                if axis == PROCESSES:
                    series = measure_processes(modality, options.points, options.rounds, device, folder, report)
                else:
                    series = measure(modality, axis, work, options, report)
                record.add(series)
    seconds = "CPU seconds" if device == "cpu" else "seconds"
    report(table("seconds", record.series, lambda one: one.time))
    report(table("bytes", record.series, lambda one: one.memory))
    plot(record.series, folder / "scaling.png", seconds)
    return record.series


def measure(modality: str, axis: str, work: str, options: Options, report: Reporter) -> Series:
    """One series: all its points are built, then take turns, to and fro."""
    device, subject = options.device, SUBJECTS[modality]
    settings = subject.settings(axis, options.points)
    tasks = [WORKS[work](Bench.of(modality, setting, device)) for setting in settings]
    seconds: list[list[float]] = [[] for _ in tasks]
    turns = len(tasks) * (options.rounds + WARM)
    with counting(report.console, f"{modality}, {axis}, {work}", turns) as count:
        repeats = []
        for task in tasks:
            _seconds(task, 1, device)  # what comes once: the optimiser's state, kernels that are chosen or compiled
            repeats.append(max(1, math.ceil(SHORTEST / max(_seconds(task, 1, device), 1e-6))))
            count(1)
        places = range(len(tasks))
        for i in range(options.rounds):
            for k in places[:: 1 if i % 2 else -1]:
                seconds[k].append(_seconds(tasks[k], repeats[k], device))
                count(1)
        memory = []
        for task in tasks:
            memory.append(grown(task, device))
            count(1)
    n = [float(getattr(setting, axis)) for setting in settings]
    return Series.of(modality, axis, work, subject.units[axis], subject.proportional.get(axis, 1), n, seconds, memory)


def _seconds(work: Work, repeats: int, device: str) -> float:
    """Of the work once."""

    def all_of_it() -> None:
        for _ in range(repeats):
            work()

    return timed(all_of_it, device)() / repeats


class Record:
    """The series in scaling.json."""

    def __init__(self, path: Path, head: dict[str, object], series: list[Series]) -> None:
        self._path, self._head, self.series = path, head, series

    @classmethod
    def of(cls, path: Path, options: Options) -> Record:
        """With what is there of the same measurement. UserError if there is another one."""
        kept = {name: value for name, value in asdict(options).items() if name not in ("what", "modality", "out")}
        gpu = {"gpu": torch.cuda.get_device_name()} if options.device == "cuda" else {}
        head: dict[str, object] = {"machine": {**machine(), **gpu}, "seed": 0, "options": kept}
        if not path.exists():
            return cls(path, head, [])
        there = json.loads(path.read_text())
        if {name: there[name] for name in head} != head:
            raise UserError(f"{path} was measured with other options, code or machine: give another out=")
        return cls(path, head, [Series.read(one) for one in there["series"]])

    def has(self, *key: str) -> bool:
        return any((one.modality, one.axis, one.work) == key for one in self.series)

    def add(self, series: Series) -> None:
        """Written at once, a series a line."""
        self.series.append(series)
        head = json.dumps(self._head, indent=2)[:-2]
        lines = ",\n".join(f"    {json.dumps(one.content())}" for one in self.series)
        write_text(self._path, f'{head},\n  "series": [\n{lines}\n  ]\n}}\n')


def table(title: str, series: Sequence[Series], of: Callable[[Series], Growth | None]) -> Table:
    """One row a series: the exponents, and the line where it describes the cost better. of: time or memory."""
    found = Table(title=f"{title} ~ n^p: p of the upper points, and of the last doubling", title_justify="left")
    names = ("modality", "n", "work", "p", "last", "a + b n^q")
    for name in names:
        found.add_column(name, justify="left" if name in names[:3] else "right", no_wrap=name != names[-1])
    for one in series:
        if (grown := of(one)) is not None:
            line = "" if grown.affine is None else str(grown.affine)
            n = f"{one.unit} {one.n[0]:g} - {one.n[-1]:g}"
            found.add_row(one.modality, n, one.work, str(grown.power), f"{grown.last:.2f}", line)
    return found


def markdown(record: Mapping[str, Any]) -> str:
    """The exponents of the record's series: a row for each modality and axis, a pair of columns for each work."""
    rows: dict[tuple[str, str], dict[str, Series]] = {}
    for one in map(Series.read, record["series"]):
        rows.setdefault((one.modality, f"{one.unit} {one.n[0]:g} - {one.n[-1]:g}"), {})[one.work] = one
    works = list(dict.fromkeys(work for row in rows.values() for work in row))
    heads = [head for work in works for head in (f"{work}: seconds", "memory")]
    lines = []
    for (modality, axis), row in rows.items():
        found = (growth for work in works for growth in _grown(row.get(work)))
        lines.append([modality, axis, *("" if one is None else f"{one.power} ({one.last:.2f})" for one in found)])
    return markdown_table(["", "", *heads], lines)


def _grown(series: Series | None) -> tuple[Growth | None, Growth | None]:
    return (None, None) if series is None else (series.time, series.memory)


if __name__ == "__main__":
    with_options(Options, main)
