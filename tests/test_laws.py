"""Laws of the whole: on Gaussian data with the exact denoiser every sampler does what mathematics says it does.

A step of a one-step sampler is affine there, x_s = a x_t + b + c noise, so its mean and variance are followed exactly:
no Monte Carlo error hides a wrong coefficient.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import PREDICTIONS, SCHEDULES, each, gaussian, known
from torch import Tensor

from core import times
from core.batch import Batch
from core.denoiser import Denoiser
from core.reverse import Large
from core.samplers import DDIM, DDPM, Denoise, Sampler, sample
from core.schedules import Cosine, LinearBeta, Schedule

MEAN, SD = 0.7, 0.5
SAMPLERS: dict[str, Sampler] = {
    "ddpm_small": DDPM(),
    "ddpm_large": DDPM(Large()),
    "ddim_0": DDIM(),
    "ddim_half": DDIM(0.5),
    "ddim_1": DDIM(1.0),
}
each_sampler, each_schedule = each(SAMPLERS, "sampler"), each(SCHEDULES, "schedule")


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


def propagate(sampler: Sampler, schedule: Schedule, grid: Tensor, mean: float, var: float) -> tuple[float, float]:
    """Mean and variance at the grid's end, from those at its start, through the sampler's own steps."""
    denoiser = known(schedule, gaussian(MEAN, SD))
    for t, s in pairwise(grid):
        a, b, c = probe(sampler, denoiser, t, s)
        mean, var = a * mean + b, a**2 * var + c**2
    return mean, var


def from_marginal(sampler: Sampler, schedule: Schedule, grid: Tensor) -> tuple[float, float]:
    """The same, from the true marginal at the grid's start."""
    alpha, sigma = level(schedule, grid[0])
    return propagate(sampler, schedule, grid, alpha * MEAN, alpha**2 * SD**2 + sigma**2)


@each_sampler
@each_schedule
def test_each_step_is_the_papers(schedule, sampler):
    denoiser = known(schedule, gaussian(MEAN, SD))
    for t, s in pairwise(times.LogSNR(20)(schedule)[:-1]):
        assert probe(sampler, denoiser, t, s) == pytest.approx(closed_form(sampler, schedule, t, s), rel=1e-7, abs=1e-9)


@each_sampler
@each_schedule
def test_samples_have_the_propagated_mean_and_variance(schedule, sampler):
    """Of the loop as a whole, its start included, within 4.5 standard errors."""
    count, grid = 40000, times.LogSNR(12)(schedule)
    alpha, sigma = level(schedule, grid[0])
    mean, var = propagate(sampler, schedule, grid, 0.0, alpha**2 + sigma**2)
    template = Batch.full(torch.zeros(count // 40, 40, dtype=torch.float64))
    x = sample(known(schedule, gaussian(MEAN, SD)), sampler, template, grid, seed=1)
    assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(var / count)
    assert abs(float(x.var()) - var) < 4.5 * var * math.sqrt(2 / count)


@each_sampler
@each_schedule
def test_more_steps_tend_to_the_truth(schedule, sampler):
    errors = []
    for n in (40, 120):
        mean, var = from_marginal(sampler, schedule, times.Uniform(n)(schedule))
        errors.append(max(abs(mean - MEAN), abs(math.sqrt(var) - SD)))
    assert errors[0] > errors[1]
    assert errors[1] < 0.08 * SD


@pytest.mark.parametrize("schedule", [SCHEDULES["cosine"], SCHEDULES["linear_path"]], ids=["cosine", "linear_path"])
@each_sampler
def test_first_order(sampler, schedule):
    """The error of the standard deviation halves when the steps double."""
    grids = [times.Uniform(n)(schedule) for n in (50, 100, 200)]
    errors = [abs(math.sqrt(from_marginal(sampler, schedule, grid)[1]) - SD) for grid in grids]
    for coarse, fine in pairwise(errors):
        assert 1.7 < coarse / fine < 2.3


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
    """Along each eigenvector the step is that of data with its eigenvalue as the variance."""
    denoiser = known(schedule, correlated)
    eigenvalues, basis = torch.linalg.eigh(COVARIANCE)
    unit = torch.eye(3, dtype=torch.float64)
    x = torch.cat([torch.zeros_like(unit[:1]), unit, torch.zeros_like(unit)])
    noise = torch.cat([torch.zeros(4, 3, dtype=torch.float64), unit])
    for t, s in pairwise(times.LogSNR(12)(schedule)[:-1]):
        x_s, _ = sampler.step(Denoise(denoiser, Batch.full(x)), x, t, s, None, lambda: noise)
        of_x, of_noise = ((basis.T @ (x_s[rows] - x_s[0]).T @ basis) for rows in (slice(1, 4), slice(4, 7)))
        shift = x_s[0] @ basis
        wanted = [
            closed_form(sampler, schedule, t, s, mean, math.sqrt(var))
            for mean, var in zip((CENTRE @ basis).tolist(), eigenvalues.tolist(), strict=True)
        ]
        a, b, c = torch.tensor(wanted, dtype=torch.float64).T
        torch.testing.assert_close(of_x, torch.diag(a), rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(of_noise, torch.diag(c), rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(shift, b, rtol=1e-7, atol=1e-8)


# --- parametrisations ---


@each_sampler
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
    grid = times.Uniform(50)(Cosine())
    for sampler in SAMPLERS.values():
        single, double = (
            sample(known(Cosine(), gaussian(MEAN, SD)), sampler, Batch.full(torch.zeros(8, 16, dtype=dtype)), grid)
            for dtype in (torch.float32, torch.float64)
        )
        torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)
