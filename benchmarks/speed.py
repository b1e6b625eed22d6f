"""python -m benchmarks.speed [what=networks,audio,molecules,...] [rounds=7] [device=cuda]: how fast, beside whom.

networks:     a training step and a DDIM step of the default image network, against other libraries' networks with
              equally many parameters in their own loops.
same_network: our training step and sampling loop around the other libraries' networks, against their own loops.
overheads:    the sampling loop against bare network calls; the training loop against a bare PyTorch loop.
imports:      `import core` and the mathematics, against `import torch`.
audio:        a training step of our networks for sound, against DiffWave's network with equally many parameters.
molecules:    a training step of the graph network, against the same network in the usual arrangement.

Everything that is compared takes turns in one process on one CPU thread, in its CPU seconds (on a GPU by a clock that
waits for it, in float32); figures are medians of the rounds' ratios. What a step is made of, how much of the device it
uses, its memory, loading and the start of a run: `benchmarks.efficiency`.
`record=benchmarks/results/speed.json` writes there what `python -m benchmarks.tables` makes docs/benchmarks.md of.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks import records
from benchmarks.audio_speed import waveform_steps
from benchmarks.common import (
    Comparison,
    Run,
    Task,
    chosen,
    count,
    markdown_table,
    race,
    timed,
    training_step,
)
from benchmarks.lightning_loop import lightning_against_bare
from benchmarks.molecule_speed import molecule_steps
from benchmarks.peers import STEPS, Peer, installed
from core.batch import Batch
from core.cli import with_options
from core.denoiser import Denoiser
from core.descent import Descent
from core.guidance import Clipped
from core.levels import Discrete
from core.module import Optimisation
from core.objective import Objective
from core.runs import Reporter
from core.samplers import DDIM, DDPM, Sampler, sample
from core.times import Trailing, Uniform

MATHEMATICS = (  # all that samples and computes losses, without Lightning and Hydra
    *("batch", "codec", "denoiser", "guidance", "levels", "likelihood", "objective", "prediction", "process"),
    *("random", "reverse", "samplers", "schedules", "space", "times", "weighting"),
)


@dataclass
class Options:
    what: str = "networks,same_network,overheads,imports,audio,molecules"
    batch: int = 64
    rounds: int = 7
    steps: int = 10  # of DDIM, in each timed call
    lightning_steps: int = 20  # of the default run, in each round
    clips: int = 8  # of sound, in a batch
    seconds: float = 0.8  # of each clip
    width: int = 64  # of the graph network; 256 and 9 are those of E(3) diffusion
    depth: int = 4
    molecule_batches: int = 8  # in each round
    overrides: str = ""  # of the default run, separated by blanks, such as "network.widths=[8,16]"
    device: str = "cpu"
    out: str = "benchmarks/out"
    record: str = ""  # a file for the results too


@dataclass(frozen=True)
class Bench:
    """The default run, an encoded batch of its data, and the peers at the size of its network."""

    run: Run
    batch: Batch
    peers: list[Peer]

    @classmethod
    def of(cls, options: Options, with_peers: bool) -> Bench:
        run = Run.of("modality=image", *options.overrides.split())
        run.denoiser.to(options.device)
        batch = run.codec.encode(run.data.train.batch(range(options.batch)).to(options.device))
        size = count(run.denoiser), int(batch.x.shape[-1]), options.device
        return cls(run, batch, installed(*size) if with_peers else [])

    def parameters(self) -> dict[str, int]:
        return {"polydiffusion": count(self.run.denoiser)} | {peer.name: count(peer.network) for peer in self.peers}


def main(options: Options) -> list[Comparison]:
    """Measures what `options.what` names; prints tables, writes speed.json and speed.png into `out`, and `record`."""
    groups: dict[str, Callable[[Bench, Options], list[Comparison]]] = {
        "networks": networks,
        "same_network": same_network,
        "overheads": overheads,
        "imports": imports,
        "audio": audio,
        "molecules": molecules,
    }
    names = chosen(options.what, list(groups), "what")
    torch.set_num_threads(1)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    bench = Bench.of(options, with_peers=not {"networks", "same_network"}.isdisjoint(names))
    report.table("parameters", bench.parameters())
    content: dict[str, Any] = {"parameters": bench.parameters()}
    found: list[Comparison] = []
    for name in names:
        compared = groups[name](bench, options)
        report(comparison_table(name.replace("_", " "), compared))
        content[name] = [asdict(c) for c in compared]
        found += compared
        records.write(options, "speed.json", content)
        _picture(folder / "speed.png", found)
    return found


def networks(bench: Bench, options: Options) -> list[Comparison]:
    run, batch = bench.run, bench.batch
    objective = run.objective()
    clock = partial(timed, device=options.device)
    step = clock(training_step(run.denoiser, batch, objective, Optimisation()))
    steps = {peer.name: clock(own_step(peer, batch.x, Optimisation())) for peer in bench.peers}
    compared = race("training step", step, steps, options.rounds, 1.0)
    times = Uniform(options.steps)(run.denoiser.schedule)
    draw = clock(partial(sample, Clipped(run.denoiser, -1, 1), DDIM(), batch, times))
    draws = {peer.name: _sampling(peer, options) for peer in bench.peers}
    return compared + race(f"DDIM, {options.steps} steps", draw, draws, options.rounds, 1.0)


def same_network(bench: Bench, options: Options) -> list[Comparison]:
    compared, clock = [], partial(timed, device=options.device)
    for peer in bench.peers:
        denoiser, batch, objective = peer.denoiser(), Batch.full(bench.batch.x), Objective(Discrete(STEPS))
        step = clock(training_step(denoiser, batch, objective, Optimisation()))
        own = clock(own_step(peer, batch.x, Optimisation()))
        compared += race("training step, its network", step, {peer.name: own}, options.rounds, 1.0)
        times = Trailing(options.steps, STEPS)(denoiser.schedule)
        draw = clock(partial(sample, Clipped(denoiser, -1, 1), DDIM(), batch, times))
        what, draws = f"DDIM, {options.steps} steps, its network", {peer.name: _sampling(peer, options)}
        compared += race(what, draw, draws, options.rounds, 1.0)
    return compared


def overheads(bench: Bench, options: Options) -> list[Comparison]:
    denoiser, batch, clock = bench.run.denoiser.eval(), bench.batch, partial(timed, device=options.device)
    times = Uniform(options.steps)(denoiser.schedule)
    samplers: dict[str, Sampler] = {"DDIM": DDIM(), "DDPM": DDPM()}
    bare = {f"{options.steps} network calls": clock(partial(network_calls, denoiser, batch, options.steps))}
    compared = []
    for name, sampler in samplers.items():
        # the loop's own work is far below the clock's scatter in the sum: it is measured alone too
        loop, alone = (clock(partial(sample, around, sampler, batch, times)) for around in (denoiser, idle(denoiser)))
        compared += race(f"{name} loop", loop, bare, options.rounds, 1.02)
        compared += race(f"{name} loop alone", alone, bare, options.rounds, 0.02)
    loops = options.overrides.split(), options.lightning_steps, options.rounds, options.device
    lightning, bare_loop = lightning_against_bare(*loops)
    what = f"{options.lightning_steps} Lightning steps"
    return [*compared, Comparison.of(what, "a bare PyTorch loop", lightning, bare_loop, 1.05)]


@torch.no_grad()
def network_calls(denoiser: Denoiser, batch: Batch, number: int) -> None:
    """The bare network, nothing around it."""
    c_noise = batch.x.new_zeros(len(batch))
    for _ in range(number):
        denoiser.network(batch.x, c_noise, batch.mask, batch.cond)


def idle(denoiser: Denoiser) -> Denoiser:
    """The same around a network that costs nothing."""
    return Denoiser(Idle(), denoiser.schedule, denoiser.prediction, denoiser.space)


class Idle(nn.Module):
    """A network that costs nothing."""

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return x


def imports(bench: Bench, options: Options) -> list[Comparison]:
    mathematics = "import " + ", ".join(f"core.{name}" for name in MATHEMATICS)
    torch_alone = {"import torch": importing("import torch")}
    return [
        # instant: nothing beside torch
        *race("import core", importing("import core"), torch_alone, options.rounds, 0.05),
        *race("import the mathematics", importing(mathematics), torch_alone, options.rounds, 1.2),
    ]


def audio(bench: Bench, options: Options) -> list[Comparison]:
    return waveform_steps(options.clips, options.seconds, options.rounds, options.device)


def molecules(bench: Bench, options: Options) -> list[Comparison]:
    return molecule_steps(options.width, options.depth, options.molecule_batches, options.rounds, options.device)


def importing(statement: str) -> Task:
    """The statement's wall-clock seconds in a fresh interpreter."""
    program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"

    def task() -> float:
        return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    return task


def own_step(peer: Peer, x: Tensor, optimisation: Optimisation) -> Callable[[], None]:
    """One step of a peer's own loss and averaging, with the same AdamW as ours."""
    descend = Descent(peer.network, optimisation)

    def step() -> None:
        descend(peer.loss(x))
        peer.average()

    return step


def _sampling(peer: Peer, options: Options) -> Task:
    return timed(partial(peer.sample, options.batch, options.steps), options.device)


def comparison_table(title: str, comparisons: list[Comparison]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("task", "baseline", "ms", "baseline ms", "ratio", "quartiles", "limit"):
        words = name in ("task", "baseline")
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    for c in comparisons:
        milliseconds = (f"{1000 * seconds:.4g}" for seconds in (c.seconds, c.baseline_seconds))
        limit = "" if c.limit is None else f"{c.limit:g}"
        table.add_row(c.what, c.baseline, *milliseconds, f"{c.ratio:.3f}", f"{c.low:.2f} - {c.high:.2f}", limit)
    return table


def of(*groups: str) -> Callable[[Mapping[str, Any]], str]:
    """The table of some groups of the record: a row for each comparison."""

    def markdown(record: Mapping[str, Any]) -> str:
        rows = []
        for c in (Comparison(**one) for group in groups for one in record[group]):
            seconds = [f"{1000 * seconds:,.4g}" for seconds in (c.seconds, c.baseline_seconds)]
            ratio = f"{c.ratio:.3g} ({c.low:.3g} to {c.high:.3g})"
            limit = "" if c.limit is None else f"{c.limit:.3g}"
            rows.append([c.what, c.baseline, *seconds, ratio, limit])
        return markdown_table(["", "beside", "ms", "its ms", "ratio (quartiles)", "goal, at most"], rows)

    return markdown


def _picture(path: Path, comparisons: list[Comparison]) -> None:
    """One bar a comparison, with its quartiles, and a mark at its limit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.4 * len(comparisons)), layout="constrained")
    axes = figure.add_subplot()
    places, ratios = range(len(comparisons)), [c.ratio for c in comparisons]
    spread = [[c.ratio - c.low for c in comparisons], [c.high - c.ratio for c in comparisons]]
    axes.barh(places, ratios, xerr=spread, color="tab:blue", alpha=0.6)
    axes.plot([c.limit for c in comparisons], places, "k|", markersize=14, label="limit")
    axes.set_yticks(places, [f"{c.what} / {c.baseline}" for c in comparisons], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("time, as a multiple of the baseline's")
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    with_options(Options, main)
