"""python -m benchmarks.convergence [steps=10,20,40,80,160,320]: error of each deterministic sampler by its evaluations.

The denoiser is exact (a mixture of three Gaussians in the plane), so that all error is the sampler's: the root mean
square distance to the exact path of the same start. On the left, between two noise levels, multistep samplers are given
exact points to begin with, which shows the order of their steps. On the right is what a user gets: from noise to data,
each beginning with a step of first order. A line of order p falls by 2^p where the evaluations double.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import records
from benchmarks.common import markdown_table
from benchmarks.exact import Mixture
from benchmarks.study import MARKERS
from core.batch import Batch
from core.cli import with_options
from core.errors import UserError
from core.progress import counting
from core.runs import Reporter
from core.samplers import DDIM, AdamsBashforth, Denoise, DPMSolverPP, Heun, Sampler, UniPC

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLERS: dict[str, Sampler] = {
    "DDIM": DDIM(),
    "Heun": Heun(),
    "DPM-Solver++(2M)": DPMSolverPP(2),
    "DPM-Solver++(3M)": DPMSolverPP(3),
    "UniPC-2": UniPC(2),
    "UniPC-3": UniPC(3),
    "Adams-Bashforth 2": AdamsBashforth(2),
    "Adams-Bashforth 4": AdamsBashforth(4),
    "PNDM": AdamsBashforth(4, equal_steps=True),
}
CENTRES, WEIGHTS, STD = [[-1.0, -1.0], [1.0, 1.0], [0.6, -1.2]], [0.4, 0.4, 0.2], 0.5
FINE = 8  # steps of the exact path, each four evaluations, to one of the finest
SEED, FEW = 0, 20
FLOOR = 1e-11  # below it errors are rounding
ACCURATE, AS_USED = "exact first points, log-SNR -4 to 4", "as used, from noise to data"
Errors = dict[str, dict[int, float]]


@dataclass
class Options:
    steps: str = "10,20,40,80,160,320"
    n: int = 64
    out: str = "benchmarks/out/convergence"
    record: str = ""  # a file for the results too


def exact_path(denoise: Denoise, x: Tensor, log_snrs: Float[Tensor, " n"]) -> list[Tensor]:
    """x at each of the increasing log-SNRs, by Runge and Kutta's method of order 4.

    Of the flow in its simplest form, d(x / sigma) = x_0 d(alpha / sigma), with lambda = log(alpha / sigma) as the time.
    """
    schedule, lambdas = denoise.schedule, log_snrs / 2

    def slope(lam: Tensor, y: Tensor) -> Tensor:
        return lam.exp() * denoise(schedule.alpha_sigma(2 * lam)[1] * y, schedule.inverse(2 * lam)).x0

    y, path = x / schedule.alpha_sigma(log_snrs[0])[1], [x]
    for a, b in pairwise(lambdas):
        k_1 = slope(a, y)
        k_2 = slope((a + b) / 2, y + (b - a) / 2 * k_1)
        k_3 = slope((a + b) / 2, y + (b - a) / 2 * k_2)
        k_4 = slope(b, y + (b - a) * k_3)
        y = y + (b - a) / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
        path.append(schedule.alpha_sigma(2 * b)[1] * y)
    return path


def end(sampler: Sampler, denoise: Denoise, log_snrs: Float[Tensor, " n"], given: Sequence[Tensor]) -> Tensor:
    """x at the last log-SNR. given: x at the first ones, where the sampler only remembers what the network says."""
    times, x_t, state = denoise.schedule.inverse(log_snrs), given[0], None
    # a corrector would move the points that are given
    remembering = replace(sampler, corrector=False) if isinstance(sampler, UniPC) else sampler
    for i, (t, s) in enumerate(pairwise(times)):
        x_t = given[i] if i < len(given) else x_t
        x_t, state = (remembering if i < len(given) else sampler).step(denoise, x_t, t, s, state, _no_noise)
    return x_t


def _no_noise() -> Tensor:
    raise ValueError("this sampler draws noise: it has no exact path")


def order(errors: dict[int, float]) -> float:
    """The order that the last two errors above rounding show: how fast they fall with the evaluations."""
    (n_1, e_1), (n_2, e_2) = sorted((n, e) for n, e in errors.items() if e > FLOOR)[-2:]
    return math.log(e_1 / e_2) / math.log(n_2 / n_1)


def problem(n: int, log_snr: float) -> Denoise:
    """The mixture, bound to n draws of its marginal at a log-SNR."""
    centres, weights = (torch.tensor(values, dtype=torch.float64) for values in (CENTRES, WEIGHTS))
    mixture = Mixture(centres, weights, STD)
    alpha, sigma = mixture.schedule.alpha_sigma(torch.tensor(log_snr, dtype=torch.float64))
    generator = torch.Generator().manual_seed(SEED)
    which = torch.multinomial(weights, n, replacement=True, generator=generator)
    noise = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    return Denoise(mixture, Batch.full(alpha * centres[which] + (alpha**2 * STD**2 + sigma**2).sqrt() * noise))


def accurate(steps: list[int], n: int, done: Callable[[int], None]) -> Errors:
    """At log-SNR 4 of runs from -4, on steps that grow, whose first points a multistep sampler is given."""
    denoise, share = problem(n, -4.0), torch.linspace(0, 1, steps[-1] * FINE + 1, dtype=torch.float64)
    log_snrs = -4 + 8 * (share + share**2) / 2
    path, found = exact_path(denoise, denoise.batch.x, log_snrs), {}
    for name, sampler in SAMPLERS.items():
        found[name] = {}
        for count in steps:
            every = steps[-1] * FINE // count
            given = path[::every][: getattr(sampler, "order", 1)]
            denoise.nfe = 0
            x = end(sampler, denoise, log_snrs[::every], given)
            found[name][denoise.nfe] = distance(x, path[-1])
        done(1)
    return found


def as_used(steps: list[int], n: int, done: Callable[[int], None]) -> Errors:
    """Of the data, denoised at log-SNR 10 after runs from -10, on equal steps of log-SNR."""
    denoise, log_snrs = problem(n, -10.0), torch.linspace(-10, 10, steps[-1] * FINE + 1, dtype=torch.float64)
    last, found = denoise.schedule.inverse(log_snrs[-1]), {}
    data = denoise(exact_path(denoise, denoise.batch.x, log_snrs)[-1], last).x0
    for name, sampler in SAMPLERS.items():
        found[name] = {}
        for count in steps:
            denoise.nfe = 0
            x = end(sampler, denoise, log_snrs[:: steps[-1] * FINE // count], [denoise.batch.x])
            x_0 = denoise(x, last).x0
            found[name][denoise.nfe] = distance(x_0, data)
        done(1)
    return found


def distance(x: Tensor, y: Tensor) -> float:
    """The root mean square one, over samples."""
    return float((x - y).square().sum(1).mean().sqrt())


def main(options: Options) -> dict[str, Errors]:
    """{panel: {sampler: {evaluations: error}}}; a table, the errors as JSON and the figure, into `out`."""
    steps = sorted(int(n) for n in options.steps.split(",") if n.isdecimal())
    if len(steps) < 2 or any(steps[-1] % n for n in steps) or steps[0] < 5:
        raise UserError(f"steps={options.steps}: at least two numbers from 5 on, each a divisor of the largest")
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    with counting(report.console, "samplers", 2 * len(SAMPLERS)) as done:
        errors = {ACCURATE: accurate(steps, options.n, done), AS_USED: as_used(steps, options.n, done)}
    slopes = {panel: {name: order(of_n) for name, of_n in found.items()} for panel, found in errors.items()}
    report.figures("order: the slope between the two largest numbers of evaluations", slopes)
    draw(folder / "convergence.png", errors)
    report(f"figure: {folder / 'convergence.png'}")
    records.write(options, "convergence.json", {"slopes": slopes, "errors": errors}, SEED)
    return errors


def markdown(record: Mapping[str, Any]) -> str:
    """A row for each sampler: its two slopes, and its error where it has about `FEW` evaluations, as it is used."""
    slopes, rows = record["slopes"], []
    for name, errors in record["errors"][AS_USED].items():
        nearest = min(errors, key=lambda n: abs(int(n) - FEW))
        rows.append([name, f"{slopes[ACCURATE][name]:.2f}", f"{slopes[AS_USED][name]:.2f}", f"{errors[nearest]:.2g}"])
    return markdown_table(
        ["slope", "from exact first points", "as used", f"error as used, about {FEW} evaluations"], rows
    )


def draw(path: Path, errors: dict[str, Errors]) -> None:
    """A panel for each, with lines that fall by the orders 1 to 4."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, found) in enumerate(errors.items(), 1):
        axes = figure.add_subplot(1, len(errors), place)
        for i, (name, of_n) in enumerate(found.items()):
            style = {"color": f"C{i}", "marker": MARKERS[i], "markersize": 5, "linewidth": 1.3}
            axes.plot(of_n.keys(), of_n.values(), label=name, **style)
        _guides(axes, found)
        axes.set(title=title, xlabel="evaluations of the network", xscale="log", yscale="log")
        axes.set_xticks(ticks := [10, 20, 40, 80, 160, 320, 640], [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("root mean square error")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)


def _guides(axes: Axes, found: Errors) -> None:
    """Dashed lines of orders 1 to 4, from above the curves' first points to where they leave the panel."""
    first, last = (f(n for of_n in found.values() for n in of_n) for f in (min, max))
    lowest, highest = (f(e for of_n in found.values() for e in of_n.values()) for f in (min, max))
    bottom, top = lowest / 3, highest * 4
    for p in (1, 2, 3, 4):
        until = min(last, first * (top / 2 / bottom) ** (1 / p))
        level = [top / 2, top / 2 * (until / first) ** -p]
        axes.plot([first, until], level, color="0.6", linestyle="--", linewidth=0.8, zorder=0)
        corner = {"xytext": (4, 2), "textcoords": "offset points", "color": "0.4", "fontsize": "small"}
        axes.annotate(f"order {p}", (until, level[1]), **corner)
    axes.set_ylim(bottom, top)
    axes.set_xlim(first * 0.8, last * 2)


if __name__ == "__main__":
    with_options(Options, main)
