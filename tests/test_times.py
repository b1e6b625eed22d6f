"""Laws of the time grids: decreasing from noise to the data, and the papers' own numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import GRIDS, SCHEDULES, each, subclasses

from core import times
from core.schedules import BetaTable, Cosine, LinearBeta, Shifted, VarianceExploding
from core.times import Times

each_grid, each_schedule = each(GRIDS, "grid"), each(SCHEDULES, "schedule")
FROM_NOISE = {name: grid for name, grid in GRIDS.items() if name not in ("leading", "quadratic", "noise_table")}
FAST = [1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5]  # DiffWave's


def steps(grid: Times, T: int) -> list[int]:
    """The paper's 0-based steps of a grid, in sampling order."""
    return (grid(LinearBeta(T))[:-1] * T - 1).round().int().tolist()


def test_every_grid_is_tested():
    assert {type(g) for g in GRIDS.values()} == subclasses(Times)


@each_schedule
@each_grid
def test_a_grid_decreases_to_the_data(grid, schedule):
    t = grid(schedule)
    assert t.dtype == torch.float64
    assert t.shape == (grid.n + 1,)
    assert bool((t.diff() < 0).all())
    assert float(t[0]) <= 1
    assert float(t[-1]) == 0


@each_schedule
@each(FROM_NOISE, "grid")
def test_a_grid_begins_at_the_schedules_noise(grid, schedule):
    log_snr = float(schedule.log_snr(grid(schedule)[0]))
    assert log_snr == pytest.approx(schedule.ends[0], abs=1e-6)


@each({name: grid for name, grid in GRIDS.items() if name != "noise_table"}, "grid")
def test_one_step_is_a_grid(grid):
    shape = ([-6.0, 5.0], [1.0]) if isinstance(grid, times.Fitted) else ()
    assert len(type(grid)(1, *shape)(Cosine())) == 2


@each_grid
def test_no_step_is_none(grid):
    shape = {times.Fitted: ([-6.0, 5.0], [1.0]), times.NoiseTable: (FAST,)}.get(type(grid), ())
    with pytest.raises(ValueError, match="n=0"):
        type(grid)(0, *shape)


def test_uniform():
    assert times.Uniform(4)(Cosine()).tolist() == [1, 0.75, 0.5, 0.25, 0]


UNBOUNDED = {name: SCHEDULES[name] for name in ("cosine", "linear_path", "shifted_down", "shifted_up")}


@pytest.mark.parametrize("shift", [-2.0, -0.5, 0.5, 2.0])
@pytest.mark.parametrize("n", [1, 2, 10, 1000])
@each(UNBOUNDED, "schedule")
def test_a_shifted_uniform_grid_is_that_of_the_shifted_schedule(schedule, n, shift):
    grid, plain = times.Uniform(n, shift)(schedule), times.Uniform(n)(schedule)
    assert grid.shape == (n + 1,)
    assert grid[[0, -1]].tolist() == [1, 0]
    assert bool((grid.diff() < 0).all())
    wanted = Shifted(schedule, shift).log_snr(plain)[1:-1]
    torch.testing.assert_close(schedule.log_snr(grid)[1:-1], wanted, atol=1e-9, rtol=0)
    assert bool(((grid - plain)[1:-1] * shift < 0).all())  # more of the steps at low noise for a positive one


@each_schedule
def test_every_schedule_has_room_for_a_small_shift(schedule):
    assert bool((times.Uniform(10, 0.5)(schedule).diff() < 0).all())


@pytest.mark.parametrize(
    ("schedule", "n", "shift"), [("linear_beta", 10, -2), ("variance_exploding", 10, -2), ("polynomial", 1000, 0.5)]
)
def test_a_shift_without_room_is_refused(schedule, n, shift):
    with pytest.raises(ValueError, match=f"log_snr_shift={shift}: beyond the ends of this schedule for n={n}"):
        times.Uniform(n, shift)(SCHEDULES[schedule])


@pytest.mark.parametrize("T", [100, 1000])
def test_the_whole_table(T):
    """On T steps of T all of these are the table itself."""
    whole = list(range(T))[::-1]
    assert steps(times.Trailing(T, T), T) == steps(times.Leading(T, T), T) == steps(times.Uniform(T), T) == whole


@pytest.mark.parametrize(("S", "T"), [(10, 1000), (20, 1000), (50, 1000), (100, 1000), (10, 100), (25, 500)])
def test_grids_of_the_ddim_paper(S, T):
    """Song et al. 2021, appendix D.2: tau_i = c i and tau_i = c i^2, as their reference computes them."""
    assert steps(times.Leading(S, T), T)[::-1] == list(range(0, T, T // S))
    quadratic = sorted({int(x) for x in np.linspace(0, np.sqrt(0.8 * T), S) ** 2})
    assert steps(times.Quadratic(S, T), T)[::-1] == quadratic


def test_quadratic_in_numbers():
    assert steps(times.Quadratic(10), 1000)[::-1] == [0, 9, 39, 88, 158, 246, 355, 483, 632, 800]


@pytest.mark.parametrize("S", [1, 3, 7, 20, 50, 300, 999])
def test_trailing_of_lin_et_al(S):
    """Table 2: round(flip(arange(T, 0, -T / S))) - 1, which begins at the last step."""
    wanted = np.round(np.arange(1000, 0, -1000 / S))[:S].astype(int) - 1
    assert steps(times.Trailing(S), 1000) == wanted.tolist()
    assert wanted[0] == 999


def test_trailing_in_numbers():
    assert steps(times.Trailing(5), 1000) == [999, 799, 599, 399, 199]


@pytest.mark.parametrize("grid", [times.Trailing, times.Leading, times.Quadratic])
def test_a_table_cannot_give_more_steps_than_it_has(grid):
    with pytest.raises(ValueError, match="n=11"):
        grid(11, 10)


@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_karras_eq_5(rho):
    n, low, high = 18, 0.002, 80.0
    schedule = VarianceExploding(low, high)
    wanted = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    _, sigma = schedule(times.Karras(n, rho)(schedule))
    np.testing.assert_allclose(sigma.numpy(), [*wanted, 0], rtol=1e-9)


@each_schedule
def test_karras_of_any_scale_is_in_sigma_over_alpha(schedule):
    alpha, sigma = schedule(times.Karras(10)(schedule)[:-1])
    roots = (sigma / alpha) ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(9), rtol=1e-5, atol=0)


@each_schedule
def test_log_snr_steps_are_equal(schedule):
    log_snr = schedule.log_snr(times.LogSNR(10)(schedule)[:-1])
    torch.testing.assert_close(log_snr, torch.linspace(*schedule.ends, 10, dtype=torch.float64))


@each(SCHEDULES, "schedule")
def test_log_snr_steps_between_ends_of_their_own(schedule):
    """Equal steps from `lowest` to `highest`, after one step from pure noise."""
    log_snr = schedule.log_snr(times.LogSNR(6, -1.0, 3.0)(schedule)[:-1])
    wanted = torch.tensor([schedule.ends[0], -1.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(log_snr, wanted, atol=1e-6, rtol=1e-9)
    plain = times.LogSNR(6)(schedule)
    torch.testing.assert_close(times.LogSNR(6, *schedule.ends)(schedule), plain, atol=0, rtol=0)


@pytest.mark.parametrize(("lowest", "highest"), [(-30.0, 3.0), (2.0, 2.0), (None, 30.0), (3.0, -3.0)])
def test_ends_beyond_the_schedule_or_in_the_wrong_order_are_refused(lowest, highest):
    with pytest.raises(ValueError, match="must rise within the schedule's -15 to 15"):
        times.LogSNR(4, lowest, highest)(Cosine(-15.0, 15.0))


def test_a_flat_fit_is_log_snr():
    flat = times.Fitted(10, [-9.0, 9.0], [2.0])
    torch.testing.assert_close(flat(Cosine()), times.LogSNR(10)(Cosine()))


def test_a_fitted_grid_has_equal_mass_in_each_step():
    edges, density = np.array([-6.0, -2.0, 0.0, 5.0]), np.array([1.0, 3.0, 2.0])
    log_snr = Cosine().log_snr(times.Fitted(12, edges, density)(Cosine())[1:-1]).numpy()
    mass = np.append(0, np.cumsum(density * np.diff(edges)))
    np.testing.assert_allclose(np.diff(np.interp(log_snr, edges, mass)), mass[-1] / 11, rtol=1e-9)
    assert math.isfinite(log_snr.sum())


@each_schedule
def test_a_noise_table_keeps_its_levels_on_any_schedule(schedule):
    wanted = BetaTable(FAST)
    levels = wanted.log_snr(torch.arange(6, 0, -1, dtype=torch.float64) / 6)
    torch.testing.assert_close(schedule.log_snr(times.NoiseTable(6, FAST)(schedule)[:-1]), levels)


def test_the_steps_of_a_noise_table_have_its_betas():
    schedule = LinearBeta(50, 1e-4, 0.05)
    t = times.NoiseTable(6, FAST)(schedule)
    alpha_ts, var_ts = schedule.transition(t[1:], t[:-1])
    torch.testing.assert_close(var_ts, torch.tensor(FAST[::-1], dtype=torch.float64))
    torch.testing.assert_close(alpha_ts.square(), 1 - var_ts)


def test_the_schedules_own_table_is_all_of_its_steps():
    schedule = LinearBeta(50, 1e-4, 0.05)
    torch.testing.assert_close(times.NoiseTable(50, schedule.betas.tolist())(schedule), times.Uniform(50)(schedule))


def test_the_fast_steps_of_diffwave():
    """Kong et al. 2021: each level's place among the square roots of alpha_bar, here within 0.1 steps."""
    roots = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.05, 50)))
    wanted = np.interp(-np.sqrt(np.cumprod(1 - np.array(FAST))), -roots, np.arange(50))
    steps = (times.NoiseTable(6, FAST)(LinearBeta(50, 1e-4, 0.05))[:-1] * 50 - 1).flip(0)
    np.testing.assert_allclose(steps.numpy(), wanted, atol=0.1)


def test_a_noise_table_has_as_many_steps_as_betas():
    with pytest.raises(ValueError, match="n=5: a table of 6 betas is a grid of 6 steps"):
        times.NoiseTable(5, FAST)


def test_a_noise_table_noisier_than_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"ends at a log-SNR of -7\.6, noisier than the schedule's end, -0\.946"):
        times.NoiseTable(3, [0.5, 0.9, 0.99])(LinearBeta(50, 1e-4, 0.05))
