"""Laws of the noise levels: stratified u give the stated distribution, within the schedule's ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import LEVELS, SCHEDULES, each, subclasses
from scipy import stats

from core import levels
from core.levels import NoiseLevels
from core.schedules import Cosine, LinearBeta

COUNT = 2000
each_levels, each_schedule = each(LEVELS, "noise_levels"), each(SCHEDULES, "schedule")


def stratified(count: int = COUNT, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.arange(count, dtype=dtype) + 0.5) / count


def distance(values: torch.Tensor, cdf) -> float:
    """Kolmogorov and Smirnov's: stratified draws of a continuous distribution have 1 / (2 count)."""
    return stats.kstest(values.numpy(), cdf).statistic


def test_every_distribution_is_tested():
    assert {type(x) for x in LEVELS.values()} == subclasses(NoiseLevels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_schedule
@each_levels
def test_times_increase_with_u_within_the_training_ends(noise_levels, schedule, dtype):
    tiny = torch.finfo(dtype).eps
    u = torch.cat([torch.tensor([tiny]), stratified(200, dtype), torch.tensor([1 - tiny])]).to(dtype)
    t = noise_levels(u, schedule)
    assert t.dtype == dtype
    assert bool((t.diff() >= 0).all())
    assert bool(((t > 0) & (t <= 1)).all())
    log_snr, (low, high) = schedule.log_snr(t), schedule.ends
    assert bool(torch.isfinite(log_snr).all())
    if not isinstance(noise_levels, levels.Discrete):  # its first step may lie nearer to the data than the curve's end
        assert float(log_snr.min()) >= low - 1e-3
        assert float(log_snr.max()) <= high + 1e-2


@each_schedule
def test_uniform_is_uniform_in_time(schedule):
    first, last = schedule.inverse(torch.tensor(schedule.ends, dtype=torch.float64)).flip(0).tolist()
    t = levels.Uniform()(stratified(), schedule)
    assert distance(t, stats.uniform(first, last - first).cdf) < 1 / COUNT


def test_log_normal_in_sigma_over_alpha():
    schedule = SCHEDULES["variance_exploding"]
    alpha, sigma = schedule(levels.LogNormal(-1.2, 1.2)(stratified(), schedule))
    log_sigma = (sigma / alpha).log()
    assert distance(log_sigma, stats.norm(-1.2, 1.2).cdf) < 1 / COUNT
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=2e-3)


def test_log_normal_is_cut_at_the_ends():
    schedule = Cosine(-2.0, 2.0)
    log_snr = schedule.log_snr(levels.LogNormal(0.0, 3.0)(stratified(), schedule))
    share = stats.norm(0, 3).cdf(-1)  # beyond log-SNR 2 is log sigma below -1
    assert float((log_snr > 2 - 1e-6).double().mean()) == pytest.approx(share, abs=2e-3)
    assert float((log_snr < -2 + 1e-6).double().mean()) == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("T", [1, 7, 100, 1000])
def test_discrete_covers_each_step_once(T, dtype):
    steps = levels.Discrete(T)(stratified(T, dtype), LinearBeta(1000)) * T - 1
    torch.testing.assert_close(steps, torch.arange(T, dtype=dtype), atol=1e-3, rtol=0)
    many = levels.Discrete(T)(stratified(5 * T), LinearBeta(1000))
    assert np.unique(many.numpy(), return_counts=True)[1].tolist() == [5] * T


def test_fitted_has_its_density():
    edges, density = [-6.0, -2.0, 0.0, 3.0, 5.0], [1.0, 3.0, 0.0, 2.0]
    schedule = Cosine()
    log_snr = schedule.log_snr(levels.Fitted(edges, density)(stratified(), schedule))
    shares = np.histogram(log_snr.numpy(), edges)[0] / COUNT
    mass = np.array(density) * np.diff(edges)
    np.testing.assert_allclose(shares, mass / mass.sum(), atol=1.5 / COUNT)
    cumulative = np.append(0, np.cumsum(mass / mass.sum()))
    assert distance(log_snr, lambda x: np.interp(x, edges, cumulative)) < 1.5 / COUNT


def test_share_below_inverts_the_quantile():
    piecewise = levels.PiecewiseDensity([-6.0, -2.0, 0.0, 3.0, 5.0], [1.0, 3.0, 0.0, 2.0])
    u = stratified(50)
    back = [piecewise.share_below(float(x)) for x in piecewise.quantile(u)]
    assert back == pytest.approx(u.tolist(), abs=1e-12)
    assert (piecewise.share_below(-100), piecewise.share_below(100)) == (0, pytest.approx(1))


@pytest.mark.parametrize(
    ("edges", "density"),
    [([0.0, 1.0], [1.0, 1.0]), ([1.0, 0.0], [1.0]), ([0.0, 1.0], [-1.0]), ([0.0, 1.0, 2.0], [0.0, 0.0]), ([0.0], [])],
)
def test_densities_that_are_none_are_refused(edges, density):
    with pytest.raises(ValueError, match="densit"):
        levels.Fitted(edges, density)


def test_a_width_must_be_positive():
    with pytest.raises(ValueError, match="std=0"):
        levels.LogNormal(0.0, 0.0)
