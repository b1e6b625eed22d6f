"""python -m benchmarks.guidance [batch=64] [rounds=7] [steps=10]: what guidance costs, and what samplers do themselves.

guided:   the sampling loop around the default image network, with each kind of guidance, over the same without any.
samplers: the loop of every sampler in configs/sampler around a network that costs nothing, over as many calls of the
          network as the sampler makes in it.

What is compared takes turns in one process on one CPU thread; figures are medians of the rounds' ratios.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import records
from benchmarks.common import Comparison, Run, chosen, compose, race, timed
from benchmarks.drawing import names
from benchmarks.speed import comparison_table, idle, network_calls
from core.batch import Batch
from core.build import part
from core.cli import with_options
from core.denoiser import BaseDenoiser, Cond, Denoiser
from core.guidance import Autoguided, ClassifierFree, ClassifierGuided, Interval, Rescaled
from core.runs import Reporter
from core.samplers import DDIM, Sampler, sample
from core.times import LogSNR

TWICE = 1.025  # of two evaluations where there was one


@dataclass
class Options:
    what: str = "guided,samplers"
    batch: int = 64
    rounds: int = 7
    steps: int = 10  # in each timed call
    overrides: str = ""  # of the default run, separated by blanks, such as "network.widths=[8,16]"
    out: str = "benchmarks/out/guidance"
    record: str = ""  # a file for the results too


def main(options: Options) -> list[Comparison]:
    """Measures what `options.what` names; prints tables, writes guidance.json into `out`, and `record`."""
    groups = {"guided": guided, "samplers": samplers}
    wanted = chosen(options.what, list(groups), "what")
    torch.set_num_threads(1)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    run = Run.of("modality=image", *options.overrides.split())
    run.denoiser.eval()
    batch = run.codec.encode(run.data.train.batch(range(options.batch)))
    content: dict[str, object] = {}
    found: list[Comparison] = []
    for name in wanted:
        compared = groups[name](run.denoiser, batch, options)
        report(comparison_table(name, compared))
        content[name] = [asdict(c) for c in compared]
        found += compared
    records.write(options, "guidance.json", content)
    return found


def guided(denoiser: Denoiser, batch: Batch, options: Options) -> list[Comparison]:
    """Half of the steps lie inside the interval."""
    weaker, nothing_at = copy.deepcopy(denoiser), math.exp(-sum(denoiser.schedule.ends) / 4)

    def log_prob(x0: Tensor, mask: Tensor, cond: Cond) -> Tensor:
        return -(x0**2).flatten(1).sum(1)

    wrappers: dict[str, tuple[BaseDenoiser, float | None]] = {
        "ClassifierFree": (ClassifierFree(denoiser, 2.0), 2 * TWICE),
        "ClassifierFree, negative": (ClassifierFree(denoiser, 2.0, {"label": 3}), 2 * TWICE),
        "Rescaled": (Rescaled(denoiser, 3.0), 2 * TWICE),
        "Interval(ClassifierFree)": (Interval(ClassifierFree(denoiser, 2.0), sigma_max=nothing_at), 1.5 * TWICE),
        "Autoguided, of one size": (Autoguided(denoiser, weaker), 2 * TWICE),
        "ClassifierGuided": (ClassifierGuided(denoiser, log_prob), None),
    }
    times = LogSNR(options.steps)(denoiser.schedule)
    draw = {name: timed(partial(sample, wrapped, DDIM(), batch, times)) for name, (wrapped, _) in wrappers.items()}
    plain = {"unguided": timed(partial(sample, denoiser, DDIM(), batch, times))}
    return [c for name, (_, limit) in wrappers.items() for c in race(name, draw[name], plain, options.rounds, limit)]


def samplers(denoiser: Denoiser, batch: Batch, options: Options) -> list[Comparison]:
    alone, compared = idle(denoiser), []
    times = LogSNR(options.steps)(denoiser.schedule)
    for name, sampler in every_sampler().items():
        calls = evaluations(sampler, alone, batch, times)
        bare = {f"{calls} network calls": timed(partial(network_calls, denoiser, batch, calls))}
        loop = timed(partial(sample, alone, sampler, batch, times))
        compared += race(f"{name}, alone", loop, bare, options.rounds, 0.02)
    return compared


def every_sampler() -> dict[str, Sampler]:
    """By the name of its config."""
    return {name: part(compose("modality=image", f"sampler={name}"), "sampler") for name in names("sampler")}


def evaluations(sampler: Sampler, denoiser: Denoiser, batch: Batch, times: Tensor) -> int:
    """Of the network, for each sample."""
    calls = 0

    def count(network: nn.Module, arguments: object) -> None:
        nonlocal calls
        calls += 1

    hook = denoiser.network.register_forward_pre_hook(count)
    sample(denoiser, sampler, batch, times)
    hook.remove()
    return calls


if __name__ == "__main__":
    with_options(Options, main)
