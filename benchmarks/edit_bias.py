"""python -m benchmarks.edit_bias [n=20000] [evaluations=200]: how far edits are from the true conditional distribution.

With exact denoisers, so that all error is the method's: a Gaussian, where PiGDM has none; a mixture of three Gaussians
in the plane, of which the first coordinate is known; and three points on a zero-centre-of-mass space, of which two are
kept. The figure is the Wasserstein distance (order 1) of the free number to its true conditional distribution, beside
that of as many exact draws; and the share of the likeliest mode. All methods take as many evaluations: to resample five
times is to take a fifth of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from benchmarks.exact import Mixture
from core.batch import Batch
from core.cli import with_options
from core.editing import DPS, Method, PiGDM, Replace, edit
from core.progress import counting
from core.runs import Reporter, write_json
from core.samplers import DDPM
from core.space import Euclidean, ZeroCentreOfMass
from core.times import LogSNR

STD = 0.3


@dataclass
class Options:
    n: int = 20000
    evaluations: int = 200
    seed: int = 0
    out: str = "benchmarks/out/edit_bias"


@dataclass(frozen=True)
class Problem:
    """A mixture, what of it is known, and the true distribution of what is not.

    free: which number is compared. modes, weights: of its true conditional distribution; each mode has `std`.
    """

    denoiser: Mixture
    known: Tensor
    keep: Tensor
    modes: Float[Tensor, " k"]
    weights: Float[Tensor, " k"]
    std: float
    free: str

    def of(self, x: Tensor) -> Tensor:
        """The free number: a coordinate, or in points the last one's distance from the middle of the kept ones."""
        return x[:, 1] if self.free == "coordinate" else x[:, 2, 0] - (x[:, 0, 0] + x[:, 1, 0]) / 2

    def exact(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.modes[which] + self.std * torch.randn(n, generator=generator, dtype=self.modes.dtype)


def in_the_plane(centres: list[list[float]], weights: list[float], known: float) -> Problem:
    """p(x_2 | x_1 = known): each component weighs what it says of x_1."""
    points, share = torch.tensor(centres, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    posterior = (share.log() - (known - points[:, 0]) ** 2 / (2 * STD**2)).softmax(0)
    x = torch.tensor([[known, 0.0]], dtype=torch.float64)
    keep = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return Problem(Mixture(points, share, STD, Euclidean()), x, keep, points[:, 1], posterior, STD, "coordinate")


def in_a_space_without_a_centre(known: float) -> Problem:
    """Three points of one column: the first two are `known` apart, the third is to be found."""
    shapes = torch.tensor([[0.0, 1.2, 2.6], [0.0, 1.8, -1.2]], dtype=torch.float64)[..., None]
    share = torch.tensor([0.5, 0.5], dtype=torch.float64)
    apart = shapes[:, 1, 0] - shapes[:, 0, 0]  # of variance 2 STD^2
    posterior = (share.log() - (known - apart) ** 2 / (4 * STD**2)).softmax(0)
    modes = shapes[:, 2, 0] - (shapes[:, 0, 0] + shapes[:, 1, 0]) / 2  # independent of how far apart they are
    x = torch.tensor([[[0.0], [known], [0.0]]], dtype=torch.float64)
    keep = torch.tensor([[[1.0], [1.0], [0.0]]], dtype=torch.float64)
    denoiser = Mixture(shapes, share, STD, ZeroCentreOfMass(1))
    return Problem(denoiser, x, keep, modes, posterior, STD * 1.5**0.5, "points")


PROBLEMS = {
    "one Gaussian": in_the_plane([[0.0, 0.5]], [1.0], 0.8),
    "a mixture": in_the_plane([[-1.0, -1.0], [1.0, 1.0], [0.6, -1.2]], [0.4, 0.4, 0.2], 0.35),
    "a mixture of points without a centre": in_a_space_without_a_centre(1.4),
}
METHODS: dict[str, Method] = {
    **{f"replace, {many} times": Replace(many) for many in (1, 2, 5, 10, 20)},
    "PiGDM, the component's variance": PiGDM(STD),
    "PiGDM, variance 1": PiGDM(1.0),
    **{f"DPS, step size {size}": DPS(size) for size in (0.1, 0.3, 1.0)},
}


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Order 1, of as many numbers each."""
    return float((a.sort().values - b.sort().values).abs().mean())


def main(options: Options) -> dict[str, dict[str, list[float]]]:
    """{problem: {method: [distance, share of the likeliest mode]}}; writes it as JSON into `out`."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    found: dict[str, dict[str, list[float]]] = {}
    with counting(report.console, "edits", len(PROBLEMS) * len(METHODS)) as done:
        for name, problem in PROBLEMS.items():
            generator = torch.Generator().manual_seed(options.seed)
            truth, again = problem.exact(options.n, generator), problem.exact(options.n, generator)
            found[name] = {"exact draws": [wasserstein(again, truth), _likeliest(problem, again)]}
            for method, how in METHODS.items():
                x = problem.of(_edited(problem, how, options))
                found[name][method] = [wasserstein(x, truth), _likeliest(problem, x)]
                done(1)
    table = Table("method", *found)
    for method in ["exact draws", *METHODS]:
        table.add_row(method, *(f"{found[name][method][0]:.3f} ({found[name][method][1]:.3f})" for name in found))
    report.console.print(table)
    write_json(folder / "edit_bias.json", {"options": vars(options), "distance, likeliest mode": found})
    return found


def _edited(problem: Problem, method: Method, options: Options) -> Tensor:
    known = Batch.full(problem.known.expand(options.n, *problem.known.shape[1:]))
    keep = problem.keep.expand(options.n, *problem.keep.shape[1:])
    many = method.resamplings if isinstance(method, Replace) else 1
    times = LogSNR(options.evaluations // many)(problem.denoiser.schedule)
    known = known.with_x(problem.denoiser.space.project(known.x, known.mask))
    return edit(problem.denoiser, DDPM(), known, keep, times, method=method, seed=options.seed)


def _likeliest(problem: Problem, x: Tensor) -> float:
    nearest = (x[:, None] - problem.modes).abs().argmin(1)
    return float((nearest == problem.weights.argmax()).double().mean())


if __name__ == "__main__":
    with_options(Options, main)
