"""Laws of the whole: on Gaussian data with the exact denoiser every sampler does what mathematics says it does.

Every sampler but the predictor-corrector is affine there: one step in x_t and its noise, x_s = a x_t + b + c noise; a
whole run in its start and all its noises, what a multistep sampler remembers included. So means and variances are
followed exactly: no Monte Carlo error hides a wrong coefficient.
"""

from __future__ import annotations

import math
from itertools import count, pairwise

import pytest
import torch
from conftest import PREDICTIONS, SCHEDULES, each, gaussian, known
from test_samplers import SAMPLERS
from torch import Tensor

from core import times
from core.batch import Batch
from core.denoiser import BaseDenoiser, Denoiser
from core.reverse import Large
from core.samplers import DDIM, DDPM, Denoise, DPMSolverPP, PredictorCorrector, Sampler, sample
from core.schedules import Cosine, LinearBeta, Schedule

MEAN, SD = 0.7, 0.5
AFFINE = {name: sampler for name, sampler in SAMPLERS.items() if not isinstance(sampler, PredictorCorrector)}
ONE_STEP = {name: sampler for name, sampler in SAMPLERS.items() if isinstance(sampler, DDPM | DDIM)}
each_sampler, each_schedule = each(AFFINE, "sampler"), each(SCHEDULES, "schedule")
each_one_step = each(ONE_STEP, "sampler")


def level(schedule: Schedule, t: Tensor) -> tuple[float, float]:
    alpha, sigma = schedule(t)
    return float(alpha), float(sigma)


def probe(sampler: Sampler, denoiser: Denoiser, t: Tensor, s: Tensor) -> tuple[float, float, float]:
    """(a, b, c) of the sampler's step, from its values at x = 0, x = 1 and noise = 1."""
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    noise = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    x_s, _ = sampler.step(Denoise(denoiser, Batch.full(x)), x, t, s, None, lambda: noise)
    b, a, c = x_s[:, 0].tolist()
    return a - b, b, c - b


def closed_form(
    sampler: Sampler, schedule: Schedule, t: Tensor, s: Tensor, mean: float = MEAN, sd: float = SD
) -> tuple[float, float, float]:
    """(a, b, c) from the papers' formulas in plain numbers, for E[x_0 | x_t] = k x_t + (1 - alpha_t k) mean."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = level(schedule, t), level(schedule, s)
    k = alpha_t * sd**2 / (alpha_t**2 * sd**2 + sigma_t**2)
    var_ts = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    posterior = var_ts * sigma_s**2 / sigma_t**2
    if isinstance(sampler, DDPM):
        from_x_t, from_x_0 = alpha_t / alpha_s * sigma_s**2 / sigma_t**2, alpha_s * var_ts / sigma_t**2
        var = var_ts if isinstance(sampler.variance, Large) else posterior
    else:
        var = sampler.eta**2 * posterior
        from_x_t = math.sqrt(sigma_s**2 - var) / sigma_t
        from_x_0 = alpha_s - from_x_t * alpha_t
    return from_x_t + from_x_0 * k, from_x_0 * (1 - alpha_t * k) * mean, math.sqrt(var)


def chain(sampler: Sampler, denoiser: BaseDenoiser, grid: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """(offset (dim,), response (1 + draws, dim, dim)) of a whole run: its end is linear in its start and its noises.

    Found by running zeros and every unit vector side by side. response[0] is to the start, the others to the draws:
    [k, i, j] is what a unit of element i of input k adds to element j.
    """
    draws, used, unit = len(grid), count(1), torch.eye(dim, dtype=torch.float64)
    x_t = torch.zeros(1 + dim * (1 + draws), dim, dtype=torch.float64)
    zeros, denoise, state = torch.zeros_like(x_t), Denoise(denoiser, Batch.full(x_t)), None
    x_t[1 : 1 + dim] = unit

    def noise() -> Tensor:
        first, z = 1 + dim * next(used), zeros.clone()
        z[first : first + dim] = unit
        return z

    for t, s in pairwise(grid):
        x_t, state = sampler.step(denoise, x_t, t, s, state, noise)
    assert next(used) <= draws + 1, "more draws than rows"
    return x_t[0], (x_t[1:] - x_t[0]).reshape(1 + draws, dim, dim)


def propagate(sampler: Sampler, schedule: Schedule, grid: Tensor, mean: float, var: float) -> tuple[float, float]:
    """Mean and variance at the grid's end, from those at its start."""
    offset, response = chain(sampler, known(schedule, gaussian(MEAN, SD)), grid)
    of_start, of_noise = response[0].item(), response[1:]
    return of_start * mean + offset.item(), of_start**2 * var + float((of_noise**2).sum())


def from_marginal(sampler: Sampler, schedule: Schedule, grid: Tensor) -> tuple[float, float]:
    """The same, from the true marginal at the grid's start."""
    alpha, sigma = level(schedule, grid[0])
    return propagate(sampler, schedule, grid, alpha * MEAN, alpha**2 * SD**2 + sigma**2)


@each_one_step
@each_schedule
def test_each_step_is_the_papers(schedule, sampler):
    denoiser = known(schedule, gaussian(MEAN, SD))
    for t, s in pairwise(times.LogSNR(20)(schedule)[:-1]):
        assert probe(sampler, denoiser, t, s) == pytest.approx(closed_form(sampler, schedule, t, s), rel=1e-7, abs=1e-9)


@each_sampler
@each_schedule
def test_samples_have_the_propagated_mean_and_variance(schedule, sampler):
    """Of the loop as a whole, its start included, within 4.5 standard errors."""
    grid = times.LogSNR(12)(schedule)
    alpha, sigma = level(schedule, grid[0])
    mean, var = propagate(sampler, schedule, grid, 0.0, alpha**2 + sigma**2)
    assert_moments(sampler, schedule, grid, mean, var)


def assert_moments(sampler: Sampler, schedule: Schedule, grid: Tensor, mean: float, var: float) -> None:
    n = 40000
    template = Batch.full(torch.zeros(2, n // 2, dtype=torch.float64))
    x = sample(known(schedule, gaussian(MEAN, SD)), sampler, template, grid, seed=1)
    assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(var / n)
    assert abs(float(x.var()) - var) < 4.5 * var * math.sqrt(2 / n)


@pytest.mark.parametrize("corrections", [1, 2])
@each_schedule
def test_the_corrector_in_high_dimension(schedule, corrections):
    """There |z| and |eps| are their expectations, so that the size of a Langevin step is a number, and it is affine."""
    sampler, denoiser = PredictorCorrector(DDPM(), corrections, snr=0.16), known(schedule, gaussian(MEAN, SD))
    grid = times.LogSNR(12)(schedule)
    alpha, sigma = level(schedule, grid[0])
    mean, var = 0.0, alpha**2 + sigma**2
    for t, s in pairwise(grid):
        a, b, c = probe(sampler.predictor, denoiser, t, s)
        mean, var = a * mean + b, a**2 * var + c**2
        alpha, sigma = level(schedule, s)
        for _ in range(corrections if s > 0 else 0):
            slope = sigma / (alpha**2 * SD**2 + sigma**2)  # eps = slope (x - alpha MEAN)
            size = sampler.snr / math.sqrt(slope**2 * (var + (mean - alpha * MEAN) ** 2))
            pull = 2 * sigma * size**2 * slope
            mean, var = mean - pull * (mean - alpha * MEAN), (1 - pull) ** 2 * var + (2 * sigma * size) ** 2
    assert_moments(sampler, schedule, grid, mean, var)


def error(sampler: Sampler, schedule: Schedule, steps: int) -> float:
    """Of the mean or the standard deviation, whichever is more wrong."""
    mean, var = from_marginal(sampler, schedule, times.Uniform(steps)(schedule))
    return max(abs(mean - MEAN), abs(math.sqrt(var) - SD))


@each_one_step
@each_schedule
def test_more_steps_tend_to_the_truth(schedule, sampler):
    errors = error(sampler, schedule, 40), error(sampler, schedule, 120)
    assert errors[0] > errors[1]
    assert errors[1] < 0.08 * SD


OF_HIGHER_ORDER = {name: sampler for name, sampler in AFFINE.items() if getattr(sampler, "order", 1) > 1}


@each(OF_HIGHER_ORDER, "sampler")
@each_schedule
def test_a_higher_order_is_nearer_to_the_truth(schedule, sampler):
    """Than the first, with the same share of noise."""
    first = error(DPMSolverPP(1, sde=getattr(sampler, "sde", 0.0)), schedule, 60)
    assert error(sampler, schedule, 60) < min(first, 0.05 * SD)


@pytest.mark.parametrize("schedule", [SCHEDULES["cosine"], SCHEDULES["linear_path"]], ids=["cosine", "linear_path"])
@each_one_step
def test_first_order(sampler, schedule):
    """The error of the standard deviation halves when the steps double."""
    grids = [times.Uniform(n)(schedule) for n in (50, 100, 200)]
    errors = [abs(math.sqrt(from_marginal(sampler, schedule, grid)[1]) - SD) for grid in grids]
    for coarse, fine in pairwise(errors):
        assert 1.7 < coarse / fine < 2.3


@pytest.mark.parametrize(("sampler", "order"), [(DPMSolverPP(1, sde=1), 1), (DPMSolverPP(2, sde=1), 2)])
def test_order_of_the_sde_solver(sampler, order):
    """Of the standard deviation of its samples: no path is right or wrong here, only a distribution."""
    errors = []
    for n in (40, 80):
        grid = Cosine().inverse(torch.linspace(-6, 6, n + 1, dtype=torch.float64))
        alpha, sigma = level(Cosine(), grid[-1])
        errors.append(abs(math.sqrt(from_marginal(sampler, Cosine(), grid)[1]) - math.hypot(alpha * SD, sigma)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_few_steps_of_ddpm_lack_variance():
    """The small fixed variance is that of data at one point: 20 steps keep .58 of the true variance, 1000 keep .98."""

    def share(n: int, sd: float) -> float:
        schedule, grid = LinearBeta(), times.Trailing(n)(LinearBeta())
        denoiser, var = known(schedule, gaussian(0, sd)), 1.0
        for t, s in pairwise(grid):
            a, _, c = probe(DDPM(), denoiser, t, s)
            var = a**2 * var + c**2
        return var / sd**2

    assert share(20, 0.42) == pytest.approx(0.58, abs=0.005)
    assert share(1000, 0.42) == pytest.approx(0.982, abs=0.002)


# --- a full covariance ---

COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.5, -0.2], [0.0, -0.2, 0.3]], dtype=torch.float64)
CENTRE = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def correlated(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x_t] of N(CENTRE, COVARIANCE), for levels equal in the whole batch."""
    a, s = alpha.flatten()[0], sigma.flatten()[0]
    gain = a * COVARIANCE @ torch.linalg.inv(a**2 * COVARIANCE + s**2 * torch.eye(3, dtype=torch.float64))
    return CENTRE + (x_t - a * CENTRE) @ gain.T


@each_sampler
@each_schedule
def test_a_full_covariance_is_propagated(schedule, sampler):
    """Along each eigenvector the run is that of data with its eigenvalue as the variance."""
    grid, denoiser = times.LogSNR(12)(schedule)[:-1], known(schedule, correlated)
    eigenvalues, basis = torch.linalg.eigh(COVARIANCE)
    offset, response = chain(sampler, denoiser, grid, dim=3)
    wanted = [
        chain(sampler, known(schedule, gaussian(mean, math.sqrt(var))), grid)
        for mean, var in zip((CENTRE @ basis).tolist(), eigenvalues.tolist(), strict=True)
    ]
    torch.testing.assert_close(offset @ basis, torch.cat([shift for shift, _ in wanted]), rtol=1e-7, atol=1e-8)
    along = torch.cat([of_inputs[:, 0] for _, of_inputs in wanted], dim=1)  # (1 + draws, 3)
    torch.testing.assert_close(basis.T @ response @ basis, torch.diag_embed(along), rtol=1e-7, atol=1e-8)


# --- parametrisations ---


@each(SAMPLERS, "sampler")
@each_schedule
def test_every_prediction_gives_the_same_samples(schedule, sampler):
    template, grid = Batch.full(torch.zeros(3, 4, dtype=torch.float64)), times.LogSNR(10)(schedule)

    def f(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(x_t) * alpha

    runs = [sample(known(schedule, f, predicted), sampler, template, grid) for predicted in PREDICTIONS.values()]
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0], atol=1e-7, rtol=1e-7)
    assert float(runs[0].std()) > 1e-3


def test_float32_samples_are_the_float64_ones():
    grid = times.Uniform(20)(Cosine())
    for sampler in SAMPLERS.values():
        single, double = (
            sample(known(Cosine(), gaussian(MEAN, SD)), sampler, Batch.full(torch.zeros(8, 16, dtype=dtype)), grid)
            for dtype in (torch.float32, torch.float64)
        )
        torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)
