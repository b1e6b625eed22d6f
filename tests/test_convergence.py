"""The order of every deterministic sampler, seen on exact denoisers: how fast its error falls with the steps.

The interval of log-SNR is finite, and a multistep sampler is given as many exact points as its order: after a first
step of order one, no higher order than two would show.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import each, gaussian, known, random_mask
from torch import Tensor

from benchmarks import convergence
from benchmarks.convergence import distance, end, exact_path
from core.batch import Batch
from core.errors import UserError
from core.samplers import DDIM, DDPM, AdamsBashforth, Denoise, DPMSolverPP, Heun, Sampler, UniPC
from core.schedules import Cosine, LinearPath, VarianceExploding
from core.space import ZeroCentreOfMass

FINEST, NUMBERS = 640, (80, 160)
ORDERS: dict[str, tuple[Sampler, int]] = {
    "ddim": (DDIM(), 1),
    "heun": (Heun(), 2),
    **{f"dpmpp_{p}": (DPMSolverPP(p), p) for p in (1, 2, 3)},
    **{f"adams_bashforth_{p}": (AdamsBashforth(p), p) for p in (1, 2, 3, 4)},
    **{f"unip_{p}": (UniPC(p, corrector=False), p) for p in (1, 2, 3)},
    **{f"unipc_{p}": (UniPC(p), p + 1) for p in (1, 2, 3)},  # the corrector adds one
    "pndm": (AdamsBashforth(4, equal_steps=True), 2),  # its steps here are only nearly equal
}


@dataclass(frozen=True)
class Problem:
    """A bound denoiser, and the exact path of its batch at growing steps of log-SNR from -4 to 4."""

    denoise: Denoise
    log_snrs: Tensor
    path: list[Tensor]


def log_snrs() -> Tensor:
    share = torch.linspace(0, 1, FINEST + 1, dtype=torch.float64)
    return -4 + 8 * (share + share**2) / 2


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def mixture(centres: Tensor, sd: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """E[x_0 | x_t] of data N(centre, sd^2 P), all centres equally likely: (K, *S), or (B, K, *S) of each sample."""

    def f(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        var = alpha**2 * sd**2 + sigma**2
        off = x_t[:, None] - alpha[:, None] * centres
        share = (-(off**2).flatten(2).sum(2) / (2 * var.flatten(1))).softmax(1)
        means = centres + (alpha * sd**2 / var)[:, None] * off
        return (share.reshape(*share.shape, *(1,) * (x_t.ndim - 1)) * means).sum(1)

    return f


def one_gaussian() -> Problem:
    """Its flow is known: every point stays as many standard deviations away from the mean."""
    schedule, mean, sd, z = VarianceExploding(), 0.7, 1.3, normal(6, 3)
    levels = zip(*schedule.alpha_sigma(log_snrs()), strict=True)
    path = [alpha * mean + torch.sqrt(alpha**2 * sd**2 + sigma**2) * z for alpha, sigma in levels]
    return Problem(Denoise(known(schedule, gaussian(mean, sd)), Batch.full(path[0])), log_snrs(), path)


def in_the_plane() -> Problem:
    schedule = LinearPath()
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.3, -1.2]], dtype=torch.float64)
    start = torch.hypot(*schedule.alpha_sigma(log_snrs()[0])) * normal(6, 2)
    denoise = Denoise(known(schedule, mixture(centres, 0.4)), Batch.full(start))
    return Problem(denoise, log_snrs(), exact_path(denoise, start, log_snrs()))


def molecules() -> Problem:
    """Points without a centre, and padding; each sample with four shapes of its own."""
    schedule, space, mask = Cosine(), ZeroCentreOfMass(3), random_mask([3, 5, 4], 5)
    centres = torch.stack([space.project(normal(4, 5, 4) + i, m.expand(4, 5, 1)) for i, m in enumerate(mask)])
    start = torch.hypot(*schedule.alpha_sigma(log_snrs()[0])) * space.project(normal(3, 5, 4), mask)
    denoise = Denoise(known(schedule, mixture(centres, 0.5), space=space), Batch(start, mask))
    return Problem(denoise, log_snrs(), exact_path(denoise, start, log_snrs()))


@pytest.fixture(
    name="problem", scope="module", params=[one_gaussian, in_the_plane, molecules], ids=lambda f: f.__name__
)
def make_problem(request: pytest.FixtureRequest) -> Problem:
    return request.param()


def slope(problem: Problem, sampler: Sampler, points: int, begin: int = 0) -> float:
    """From the errors of fewer and of twice as many steps. points: how many exact ones it is given, after `begin`."""
    errors = []
    for n in NUMBERS:
        every = slice(begin, None, (FINEST - begin) // n)
        x = end(sampler, problem.denoise, problem.log_snrs[every], problem.path[every][:points])
        errors.append(distance(x.flatten(1), problem.path[-1].flatten(1)))
    assert errors[1] > 1e-10, "nothing but rounding"
    return math.log2(errors[0] / errors[1])


@each(ORDERS, "case")
def test_order_of_convergence(problem, case):
    sampler, order = case
    assert slope(problem, sampler, getattr(sampler, "order", 1)) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("sampler", "order"), [(DPMSolverPP(3), 2), (AdamsBashforth(4), 2), (UniPC(3), 3)])
def test_what_a_first_step_of_order_one_leaves(problem, sampler, order):
    """In the middle of the path: order two, and three where a corrector mends it."""
    assert slope(problem, sampler, 1, begin=FINEST // 2) == pytest.approx(order, abs=0.3)


def test_the_reference_is_exact():
    problem, every = one_gaussian(), slice(None, None, 8)
    found = exact_path(problem.denoise, problem.path[0], problem.log_snrs[every])
    torch.testing.assert_close(found, problem.path[every], rtol=1e-6, atol=1e-6)


def test_a_sampler_that_draws_noise_has_no_path():
    problem = one_gaussian()
    with pytest.raises(ValueError, match="no exact path"):
        end(DDPM(), problem.denoise, problem.log_snrs[:: FINEST // 10], problem.path[:1])


def test_the_benchmark_writes_what_it_found(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    options = convergence.Options(steps="5,10,20", n=4, out=str(tmp_path), record=str(record))
    found = convergence.main(options)
    written = json.loads((tmp_path / "convergence.json").read_text())
    assert written["errors"].keys() == written["slopes"].keys() == found.keys()
    assert (tmp_path / "convergence.png").exists()
    evaluations = {name: list(of_n) for name, of_n in found[convergence.AS_USED].items()}
    assert evaluations["Heun"] == [11, 21, 41]
    assert evaluations["UniPC-3"] == [6, 11, 21]
    table = convergence.markdown(json.loads(record.read_text()))
    assert all(f"| {name} |" in table for name in convergence.SAMPLERS)
    for of_panel in found.values():
        for of_n in of_panel.values():
            assert min(of_n.values()) == of_n[max(of_n)] > 0


@pytest.mark.parametrize("steps", ["10", "10,15", "2,4", "5,x"])
def test_steps_that_do_not_divide_are_refused(steps: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^steps="):
        convergence.main(convergence.Options(steps=steps, out=str(tmp_path)))
