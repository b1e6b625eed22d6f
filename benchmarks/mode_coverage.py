"""python -m benchmarks.mode_coverage [seconds=30] [seeds=5] [workers=2]: does diffusion find modes that a GAN misses?

On the two sets of the literature, the grid of 25 Gaussians and the ring of 8, at equal CPU time of training on one
thread, by that literature's figures (Srivastava et al. 2017, VEEGAN; Lin et al. 2018, PacGAN, whose published code's
rules these are). Both sides have four settings, two learning rates with and without waves of the input, and draw by the
trained weights and by their average; each chooses among these eight by one training a setting, on a seed of its own,
and is then trained on other seeds.
`benchmarks.mode_contenders` has both.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import records
from benchmarks.common import markdown_table
from benchmarks.mode_contenders import BATCH, CONTENDERS, SETS, SETTINGS, Modes
from core.cli import with_options
from core.progress import counting
from core.runs import Reporter

GOOD = 3.0  # standard deviations from a mode's centre within which a sample is good
FAIR = 0.2  # of a mode's fair share: what the stricter count of modes asks for
TUNING = 0  # the seed on which settings are chosen; 1, 2, ... are measured
FIGURES = {"modes": 1, "fair_modes": 1, "good": 3, "overlap": 3, "reverse_kl": 3}  # and their decimals


@dataclass
class Options:
    seconds: float = 30.0  # CPU time of each training
    seeds: int = 5
    n: int = 2500  # samples that are looked at
    workers: int = 2  # trainings at a time, each a process of one thread
    out: str = "benchmarks/out/mode_coverage"
    record: str = ""  # a file for the results too


def coverage(x: Float[Tensor, "n 2"], modes: Modes) -> dict[str, float]:
    """How well samples cover the modes, of which each takes the samples that are nearest to it.

    modes: with at least one good sample. fair_modes: with good samples of at least `FAIR` times n / K. good: the share
    of good samples. overlap: sum_k min(good_k / n, 1 / K), 1 for perfect ones. reverse_kl: KL(samples || data) of the
    shares of the modes, in nats, bad samples included.
    """
    off, nearest = torch.cdist(x, modes.centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    n, k = len(x), len(modes.centres)
    share = torch.bincount(nearest, minlength=k).double() / n
    good = torch.bincount(nearest[off < GOOD * modes.std], minlength=k).double() / n
    return {
        "modes": float((good > 0).sum()),
        "fair_modes": float((good >= FAIR / k).sum()),
        "good": float(good.sum()),
        "overlap": float(good.clamp(max=1 / k).sum()),
        "reverse_kl": float(torch.special.xlogy(share, share * k).sum()),
    }


class Job(NamedTuple):
    data: str
    contender: str
    setting: str
    seed: int
    seconds: float
    n: int


class Outcome(NamedTuple):
    """figures, samples: of the weights and of their average."""

    figures: dict[str, dict[str, float]]
    samples: dict[str, list[list[float]]]
    effort: dict[str, float]


def work(job: Job) -> Outcome:
    """One training, and what its samples are worth."""
    torch.set_num_threads(1)
    modes, setting = SETS[job.data], SETTINGS[job.contender][job.setting]
    with torch.random.fork_rng(devices=[]):
        CONTENDERS[job.contender](modes, setting, 1e-9, job.seed)  # one step: what a process does once is not timed
        torch.manual_seed(job.seed)
        trained = CONTENDERS[job.contender](modes, setting, job.seconds, job.seed)
        begun = time.process_time()
        with torch.no_grad():
            samples = {name: draw(job.n) for name, draw in trained.draw.items()}
        drawing = (time.process_time() - begun) / len(samples)
    effort = {"steps": trained.steps, "seconds": trained.seconds, "parameters": trained.parameters, "drawing": drawing}
    return Outcome(
        {name: coverage(x, modes) for name, x in samples.items()},
        {name: x.tolist() for name, x in samples.items()},
        effort,
    )


def main(options: Options) -> dict[str, Any]:
    """Prints the table and writes mode_coverage.json and mode_coverage.png into `out`."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    pairs = [(data, contender) for data in SETS for contender in CONTENDERS]
    tuning = [_job(options, *pair, setting, TUNING) for pair in pairs for setting in SETTINGS[pair[1]]]
    tuned = _all(tuning, options, report)
    chosen = {pair: best({job: tuned[job] for job in tuning if job[:2] == pair}) for pair in pairs}
    runs = [_job(options, *pair, chosen[pair][0], 1 + i) for i in range(options.seeds) for pair in pairs]
    ran = _all(runs, options, report)
    found: dict[str, dict[str, Any]] = {data: {"real": {"runs": _real(data, options)}} for data in SETS}
    for (data, contender), (setting, network) in chosen.items():
        mine = [job for job in runs if job[:2] == (data, contender)]
        found[data][contender] = {
            "setting": setting,
            "of": network,
            "tuning": {job.setting: tuned[job].figures for job in tuning if job[:2] == (data, contender)},
            "effort": {key: statistics.fmean(ran[job].effort[key] for job in mine) for key in ran[mine[0]].effort},
            "runs": [ran[job].figures[network] for job in mine],
        }
    content = {"batch": BATCH, "sets": found}
    records.write(options, "mode_coverage.json", content, TUNING)
    report(markdown(content))
    first = {(job.data, job.contender): ran[job].samples[chosen[job[:2]][1]] for job in runs if job.seed == 1}
    picture(folder / "mode_coverage.png", first, options.n)
    return content


def _job(options: Options, data: str, contender: str, setting: str, seed: int) -> Job:
    return Job(data, contender, setting, seed, options.seconds, options.n)


def best(tuned: Mapping[Job, Outcome]) -> tuple[str, str]:
    """The setting, and weights or average, of the largest overlap."""
    scores = {
        (job.setting, network): figures["overlap"]
        for job, outcome in tuned.items()
        for network, figures in outcome.figures.items()
    }
    return max(scores, key=scores.__getitem__)


def _all(jobs: list[Job], options: Options, report: Reporter) -> dict[Job, Outcome]:
    """In processes of their own, or in this one if `workers` is 0."""
    outcomes: dict[Job, Outcome] = {}
    with counting(report.console, "trainings", len(jobs)) as done:
        if not options.workers:
            for job in jobs:
                outcomes[job] = work(job)
                done(1)
            return outcomes
        with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
            waiting = {pool.submit(work, job): job for job in jobs}
            for future in as_completed(waiting):
                outcomes[waiting[future]] = future.result()
                done(1)
        return outcomes


def _real(data: str, options: Options) -> list[dict[str, float]]:
    """What true samples score."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TUNING)
        return [coverage(SETS[data].draw(options.n), SETS[data]) for _ in range(options.seeds)]


def markdown(content: Mapping[str, Any]) -> str:
    """The table: means over the seeds and, after ±, their standard errors."""
    lines = []
    for data, rows in content["sets"].items():
        for name, row in rows.items():
            cells = (mean_and_error([run[key] for run in row["runs"]], digits) for key, digits in FIGURES.items())
            lines.append([f"{data} of {len(SETS[data].centres)}: {name}", *cells])
    heads = ("modes", "modes of >= 20 % of their share", "good samples", "overlap", "reverse KL")
    return markdown_table(["", *heads], lines)


def mean_and_error(values: list[float], digits: int) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.{digits}f} ± {error:.{digits}f}"


def picture(path: Path, samples: Mapping[tuple[str, str], list[list[float]]], n: int) -> None:
    """A row for each set: real samples, and those of the contenders' first measured seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(SETS), 1 + len(CONTENDERS))
    for (data, modes), row in zip(SETS.items(), grid, strict=True):
        columns = {"real": modes.draw(n), **{name: torch.tensor(samples[data, name]) for name in CONTENDERS}}
        for (name, x), axes in zip(columns.items(), row, strict=True):
            axes.scatter(*x.T.tolist(), s=1, linewidths=0, alpha=0.5)
            limit = 1.25 * float(modes.centres.max())
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal", title=name)
        row[0].set_ylabel(f"{data} of {len(modes.centres)}")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    with_options(Options, main)
