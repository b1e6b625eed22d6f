"""Laws of DDIM's inversion: data to noise, and by DDIM back to the same data."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import SCHEDULES, SPACES, each, gaussian, known, random_mask
from torch import Tensor

from core import times
from core.batch import Batch
from core.samplers import DDIM, invert, sample
from core.schedules import Cosine

MEAN, SD = 0.3, 0.6


def curved(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x_t] of two equally likely Gaussians in each element, at +-1."""
    var = alpha**2 * SD**2 + sigma**2
    return torch.tanh(alpha * x_t / var) * (1 - alpha**2 * SD**2 / var) + alpha * SD**2 / var * x_t


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def rising(steps: int, low: float = -6.0, high: float = 6.0) -> Tensor:
    """0, and equal steps of log-SNR."""
    return times.LogSNR(steps)(Cosine(low, high)).flip(0)


def round_trip(denoiser, batch: Batch, grid: Tensor, refinements: int) -> tuple[Tensor, Tensor]:
    """x at times[1] and at 0, after the way to the noise and back."""
    path: list[Tensor] = []
    start = invert(denoiser, batch, grid, refinements=refinements)
    sample(denoiser, DDIM(), batch, grid.flip(0), start=start, callback=lambda i, s, x: path.append(x))
    return path[-2], path[-1]


@each(SCHEDULES, "schedule")
def test_refined_it_is_ddim_backwards_exactly(schedule):
    """From where the noise begins, alpha x_0; the first step is all that is lost."""
    denoiser, batch = known(schedule, curved), Batch.full(data(3, 4))
    grid = schedule.inverse(torch.linspace(5, -5, 25, dtype=torch.float64))
    grid = torch.cat([torch.zeros(1, dtype=torch.float64), grid])
    first, back = round_trip(denoiser, batch, grid, refinements=40)
    alpha, _ = schedule(grid[1])
    torch.testing.assert_close(first, alpha * batch.x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(back, denoiser(first, grid[1].expand(3), batch.mask, {}).x0, rtol=1e-8, atol=1e-8)


def test_the_round_trip_keeps_the_data():
    """As far as the denoiser keeps data at the lowest noise."""
    errors = []
    for high in (4.0, 8.0, 12.0):
        batch = Batch.full(data(3, 4))
        _, back = round_trip(known(Cosine(), curved), batch, rising(40, -8, high), refinements=30)
        errors.append(float((back - batch.x).abs().max()))
    assert all(coarse / fine > 20 for coarse, fine in pairwise(errors))  # with sigma^2, by e^4 = 55
    assert errors[-1] < 1e-4


def test_each_refinement_comes_nearer():
    batch, grid = Batch.full(data(3, 4)), rising(30)
    target = Cosine()(grid[1])[0] * batch.x
    errors = [
        float((round_trip(known(Cosine(), curved), batch, grid, refinements)[0] - target).abs().max())
        for refinements in range(6)
    ]
    assert all(fine < 0.6 * coarse for coarse, fine in pairwise(errors))


@pytest.mark.parametrize("refinements", [0, 1, 2])
def test_each_refinement_adds_an_order(refinements):
    """Of the round trip's error in the number of steps; without any it is one."""
    batch, errors = Batch.full(data(3, 4)), []
    for steps in (160, 320):
        grid = rising(steps, -4, 4)
        first, _ = round_trip(known(Cosine(), curved), batch, grid, refinements)
        errors.append(float((first - Cosine()(grid[1])[0] * batch.x).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(refinements + 1, abs=0.2)


def test_more_steps_tend_to_the_flow():
    """On a Gaussian the noise is known: as many standard deviations from the mean as alpha x_0 was at the start."""
    batch, errors, denoiser = Batch.full(data(3, 4)), [], known(Cosine(), gaussian(MEAN, SD))
    for steps in (80, 160, 320):
        grid = rising(steps, -4, 4)
        (alpha_1, sigma_1), (alpha, sigma) = Cosine()(grid[1]), Cosine()(grid[-1])
        spread_1, spread = torch.hypot(alpha_1 * SD, sigma_1), torch.hypot(alpha * SD, sigma)
        wanted = alpha * MEAN + spread / spread_1 * alpha_1 * (batch.x - MEAN)
        errors.append(float((invert(denoiser, batch, grid) - wanted).abs().max()))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.1)


@each(SPACES, "space")
def test_it_stays_in_the_space_and_a_batch_changes_nothing(space):
    mask = random_mask([2, 5, 3], 5)
    batch = Batch(space.project(data(3, 5, 4), mask), mask)
    denoiser = known(Cosine(), lambda x, alpha, sigma: torch.tanh(x + x.flatten(1).sum(1)[:, None, None]), space=space)
    noise = invert(denoiser, batch, rising(12))
    torch.testing.assert_close(space.project(noise, mask), noise, rtol=1e-10, atol=1e-10)
    for i in range(3):
        torch.testing.assert_close(invert(denoiser, batch[i : i + 1], rising(12)), noise[i : i + 1])


def test_times_of_equal_noise_change_nothing():
    """Beyond a schedule's end the times differ, but not the noise."""
    flat = Cosine(-2.0, 2.0)
    grid = torch.linspace(0, 1, 21, dtype=torch.float64)
    denoiser, batch = known(flat, curved), Batch.full(data(3, 4))
    first = int((flat.log_snr(grid) > -2.0).sum())  # index of the first time on the flat part
    torch.testing.assert_close(invert(denoiser, batch, grid), invert(denoiser, batch, grid[: first + 1]))


@pytest.mark.parametrize("refinements", [0, 2])
def test_evaluations_and_the_callback(refinements):
    asked, seen, batch, grid = [], [], Batch.full(data(2, 3)), rising(7)

    def counting(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        asked.append(alpha)
        return curved(x_t, alpha, sigma)

    x = invert(known(Cosine(), counting), batch, grid, refinements=refinements, callback=lambda *now: seen.append(now))
    assert len(asked) == (len(grid) - 2) * (1 + refinements)
    assert [done for done, _, _ in seen] == list(range(8))
    assert [float(t) for _, t, _ in seen] == grid.tolist()
    assert torch.equal(seen[0][2], batch.x)
    assert torch.equal(seen[-1][2], x)


@pytest.mark.parametrize("wrong", [[0.0], [1.0, 0.0], [0.0, 0.5, 0.5], [0.1, 1.0], [0.0, 1.1]])
def test_lists_that_do_not_rise_from_the_data_are_refused(wrong):
    with pytest.raises(ValueError, match="times must increase from 0"):
        invert(known(Cosine(), curved), Batch.full(data(1, 2)), torch.tensor(wrong))


def test_refinements_are_counted_from_zero():
    with pytest.raises(ValueError, match="refinements=-1"):
        invert(known(Cosine(), curved), Batch.full(data(1, 2)), rising(3), refinements=-1)
