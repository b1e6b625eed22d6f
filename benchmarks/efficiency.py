"""python -m benchmarks.efficiency [modality=image,audio,molecules] [what=...] [device=cuda]: where a step's time goes.

arithmetic:  a training step of the default network, against its own products and convolutions done again alone, and
             against the machine's peak (`benchmarks/arithmetic.py`).
loading:     a batch from the loader, augmented, against the step.
sampling:    the sampler and the loop, around a network that costs nothing, against the network's calls: for as many
             samples as are drawn at once, and for as many as there are in a batch of training.
memory:      the peak of a process that trains, against weights, gradients, optimiser, average and what autograd keeps.
start:       seconds of `core.train`, from the end of importing torch and Lightning to the end of the first step.
threads:     a step with one thread against one with two, by the wall's clock.

What is compared takes turns in one process, on one thread (but for `threads`), in CPU seconds of the process (on a GPU
those of a clock); a figure is the median of the rounds. `record=benchmarks/results/efficiency.json` writes there what
`python -m benchmarks.tables` makes docs/performance.md of.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks import records
from benchmarks.arithmetic import Arithmetic, Peak
from benchmarks.common import Run, Task, chosen, markdown_table, quartiles, timed
from benchmarks.drawing import names
from benchmarks.footprint import footprint
from benchmarks.speed import idle, network_calls
from benchmarks.starting import seconds_to_first_step
from core.batch import Batch
from core.build import build_modality, build_sampler
from core.cli import with_options
from core.data import train_loader, training_order
from core.runs import Reporter
from core.samplers import sample

LEAST_SHARE = {"image": 0.7, "audio": 0.6}  # of the peak; molecules are small products, held to themselves
MOST = {"own products": 1.3, "loading": 0.03, "sampling": 0.02, "memory": 1.5, "start": 3.0}


@dataclass
class Options:
    modality: str = "image,audio,molecules"
    what: str = "arithmetic,loading,sampling,memory,start,threads"
    rounds: int = 9
    steps: int = 10  # of the sampler, in each timed call
    device: str = "cpu"
    overrides: str = ""  # of the runs, separated by blanks
    out: str = "benchmarks/out"
    record: str = ""  # a file for the results too


@dataclass(frozen=True)
class Finding:
    """A figure with its quartiles over the rounds. goal: what it may be at most, or at least; None: no goal."""

    modality: str
    what: str
    value: float
    low: float
    high: float
    goal: float | None = None
    at_least: bool = False
    detail: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    @classmethod
    def of(cls, modality: str, what: str, values: list[float], goal: float | None = None, **more: Any) -> Finding:
        return cls(modality, what, statistics.median(values), *quartiles(values), goal, **more)


@dataclass(frozen=True)
class Bench:
    """A default run on a device, one batch of its data, encoded, and a step of training on it."""

    name: str
    run: Run
    batch: Batch
    step: Callable[[], None]
    options: Options

    @classmethod
    def of(cls, name: str, options: Options) -> Bench:
        run = Run.of(f"modality={name}", *options.overrides.split())
        run.denoiser.to(options.device)
        order = training_order(run.data.train, run.config.training.batch_size, run.config.seed)
        batch = run.codec.encode(run.data.train.batch(next(iter(order))).to(options.device))
        return cls(name, run, batch, run.step(batch), options)

    def timed(self, work: Callable[[], object]) -> Task:
        return timed(work, self.options.device)

    def turns(self, *tasks: Task) -> list[list[float]]:
        """Each task's seconds in each round, after a round that does not count."""
        seconds = [[task() for task in tasks] for _ in range(self.options.rounds + 1)]
        return [list(column) for column in zip(*seconds[1:], strict=True)]


def main(options: Options) -> list[Finding]:
    """Measures; prints a table, and writes efficiency.json into `out`, and `record` if that is given."""
    groups = {"arithmetic": arithmetic, "loading": loading, "sampling": sampling, "threads": threads}
    apart = {"memory": memory, "start": start}  # in processes of their own
    subjects = chosen(options.modality, names("modality"), "modality")
    wanted = chosen(options.what, [*groups, *apart], "what")
    torch.set_num_threads(1)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    found: list[Finding] = []
    for name in subjects:
        bench = None if set(wanted) <= set(apart) else Bench.of(name, options)
        for what in wanted:
            found += groups[what](bench) if what in groups and bench else apart[what](name, options)
        report(table(name, [one for one in found if one.modality == name]))
    records.write(options, "efficiency.json", {"findings": [asdict(one) for one in found]})
    return found


def arithmetic(bench: Bench) -> list[Finding]:
    """The step against its own products, and the share of the peak that its operations reach."""
    bench.step()
    own, peak = Arithmetic.of(bench.step), Peak.of(bench.options.device)
    columns = bench.turns(*map(bench.timed, (bench.step, own.again, peak.work)))
    rounds = list(zip(*columns, strict=True))
    step, products, best = map(statistics.median, columns)
    speeds = f"{own.operations / step / 1e9:.1f} GFLOP/s of {peak.operations / best / 1e9:.1f} ({peak.name})"
    times = f"{1000 * step:.1f} ms, its products alone {1000 * products:.1f}"
    shares = [(own.operations / a) / (peak.operations / c) for a, _, c in rounds]
    least = LEAST_SHARE.get(bench.name)
    ratios = [a / b for a, b, _ in rounds]
    most = None if least else MOST["own products"]
    return [
        Finding.of(bench.name, "share of the peak", shares, least, at_least=True, detail=speeds),
        Finding.of(bench.name, "step / own products", ratios, most, detail=times),
    ]


def loading(bench: Bench) -> list[Finding]:
    """A batch read, put together and augmented, without a worker; and its encoding, which is the device's work."""
    config, data = bench.run.config, bench.run.data
    order = training_order(data.train, config.training.batch_size, config.seed)
    loader = iter(train_loader(data.train, order, workers=0, pin_memory=False))
    objective, positions = bench.run.objective(), torch.arange(len(bench.batch))

    def load() -> Batch:
        batch = next(loader)
        return data.augment(batch, objective.augmentation(batch, 0, positions))

    raw = load().to(bench.options.device)
    tasks = timed(load), bench.timed(partial(bench.run.codec.encode, raw)), bench.timed(bench.step)
    loads, encodes, steps = bench.turns(*tasks)
    found = []
    for what, parts in (("loading", loads), ("encoding", encodes)):
        shares = [one / step for one, step in zip(parts, steps, strict=True)]
        detail = f"{1000 * statistics.median(parts):.2f} ms"
        found.append(Finding.of(bench.name, f"{what} / step", shares, MOST.get(what), detail=detail))
    return found


def sampling(bench: Bench) -> list[Finding]:
    """The default sampler's own work for each evaluation, against an evaluation."""
    denoiser, config, steps = bench.run.denoiser.eval(), bench.run.config.copy(), bench.options.steps
    config.steps = steps
    sampler, times = build_sampler(config, denoiser)
    together = min(config.n, config.micro_batch)
    template = bench.run.codec.template(build_modality(config).template(together)).to(bench.options.device)
    found = []
    for what, batch, goal in (
        ("sampler / network", template, MOST["sampling"]),
        ("the same, of few samples", bench.batch, None),
    ):
        alone = bench.timed(partial(sample, idle(denoiser), sampler, batch, times))
        ours, theirs = bench.turns(alone, bench.timed(partial(network_calls, denoiser, batch, steps)))
        shares = [a / b for a, b in zip(ours, theirs, strict=True)]
        each = (1000 * statistics.median(seconds) / steps for seconds in (ours, theirs))
        detail = "{:.2f} ms of {:.1f}".format(*each) + f", {len(batch)} samples"
        found.append(Finding.of(bench.name, what, shares, goal, detail=detail))
    denoiser.train()
    return found


def threads(bench: Bench) -> list[Finding]:
    """How much faster two threads are, by the wall's clock; the loader's work is in neither."""
    if (os.cpu_count() or 1) < 2 or bench.options.device != "cpu":
        return []

    def on(number: int) -> Task:
        def task() -> float:
            torch.set_num_threads(number)
            begun = time.perf_counter()
            bench.step()
            seconds = time.perf_counter() - begun
            torch.set_num_threads(1)
            return seconds

        return task

    one, two = bench.turns(on(1), on(2))
    gains = [a / b for a, b in zip(one, two, strict=True)]
    detail = f"{1000 * statistics.median(one):.1f} ms and {1000 * statistics.median(two):.1f}"
    return [Finding.of(bench.name, "one thread / two", gains, detail=detail)]


def memory(name: str, options: Options) -> list[Finding]:
    found = footprint(name, options.device, options.overrides)
    detail = f"{found.peak / 1e6:.0f} MB of {found.on_paper / 1e6:.0f} (kept for gradients: {found.kept / 1e6:.0f})"
    return [Finding.of(name, "memory / on paper", [found.peak / found.on_paper], MOST["memory"], detail=detail)]


def start(name: str, options: Options) -> list[Finding]:
    seconds = [seconds_to_first_step(name, options.overrides) for _ in range(3)]
    return [Finding.of(name, "start, s", seconds, MOST["start"])]


def table(title: str, findings: list[Finding]) -> Table:
    shown = Table(title=title, title_justify="left")
    for column in ("", "figure", "quartiles", "goal", ""):
        shown.add_column(column, justify="left" if not column else "right")
    for one in findings:
        goal = "" if one.goal is None else f"{'>=' if one.at_least else '<='} {one.goal:g}"
        colour = {True: "green", False: "red", None: "default"}[one.met]
        figure = f"[{colour}]{one.value:.3g}[/]"
        shown.add_row(one.what, figure, f"{one.low:.3g} - {one.high:.3g}", goal, one.detail)
    return shown


def markdown(record: Mapping[str, Any]) -> str:
    """A row for each figure, a column for each modality: bold where it has met its goal, which stands after it."""
    findings = [Finding(**one) for one in record["findings"]]
    modalities = list(dict.fromkeys(one.modality for one in findings))
    cells = {(one.what, one.modality): _cell(one) for one in findings}
    whats = dict.fromkeys(one.what for one in findings)
    return markdown_table(
        ["", *modalities], [[what, *(cells.get((what, name), "") for name in modalities)] for what in whats]
    )


def _cell(one: Finding) -> str:
    value = f"**{one.value:.3g}**" if one.met else f"{one.value:.3g}"
    goal = "" if one.goal is None else f", goal {'≥' if one.at_least else '≤'} {one.goal:g}"
    return f"{value} ({one.low:.3g} to {one.high:.3g}{goal})" + (f"; {one.detail}" if one.detail else "")


if __name__ == "__main__":
    with_options(Options, main)
