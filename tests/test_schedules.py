"""Laws of the schedules: a decreasing curve, its inverse, a scale whose ratio it is, transitions that compose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, each, subclasses, training_times

from core import schedules
from core.schedules import Schedule

each_schedule = each(SCHEDULES, "schedule")
VARIANCE_PRESERVING = {name: s for name, s in SCHEDULES.items() if name not in ("linear_path", "variance_exploding")}


def inner_times(schedule: Schedule, count: int = 201) -> torch.Tensor:
    """Increasing times at which the curve is not clamped, float64."""
    low, high = schedule.inverse(torch.tensor(schedule.ends, dtype=torch.float64)).flip(0)
    return torch.linspace(float(low), float(high), count, dtype=torch.float64)


def test_every_schedule_is_tested():
    assert {type(s) for s in SCHEDULES.values()} == subclasses(Schedule)


@each_schedule
def test_log_snr_decreases_from_the_data_to_its_lowest_end(schedule):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert log_snr[0] == math.inf
    assert bool((log_snr[1:].diff() <= 0).all())
    assert bool((schedule.log_snr(inner_times(schedule)).diff() < 0).all())
    assert float(log_snr[-1]) == pytest.approx(schedule.log_snr_min, abs=1e-9)


@each_schedule
def test_inverse_undoes_log_snr(schedule):
    t = inner_times(schedule)
    torch.testing.assert_close(schedule.inverse(schedule.log_snr(t)), t, atol=1e-7, rtol=0)
    log_snr = torch.linspace(*schedule.ends, 201, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(schedule.inverse(log_snr)), log_snr, atol=1e-6, rtol=0)


@each_schedule
def test_the_scale_has_the_curve_as_its_ratio(schedule):
    t = inner_times(schedule)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(2 * (alpha.log() - sigma.log()), schedule.log_snr(t), atol=1e-9, rtol=0)


@each_schedule
def test_at_zero_is_the_data(schedule):
    alpha, sigma = schedule(torch.tensor(0.0))
    assert (float(alpha), float(sigma)) == (1, 0)


@each(VARIANCE_PRESERVING, "schedule")
def test_variance_preserving(schedule):
    alpha, sigma = schedule(torch.linspace(0, 1, 101, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-12, rtol=0)


@each_schedule
def test_transitions_compose(schedule):
    """q(x_t | x_r) is q(x_s | x_r) followed by q(x_t | x_s), and q(x_t | x_0) is the transition from 0."""
    t = inner_times(schedule)
    r, s, t = t[20:-100], t[60:-60], t[100:-20]
    (alpha_sr, var_sr), (alpha_ts, var_ts) = schedule.transition(r, s), schedule.transition(s, t)
    alpha_tr, var_tr = schedule.transition(r, t)
    torch.testing.assert_close(alpha_ts * alpha_sr, alpha_tr, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(alpha_ts**2 * var_sr + var_ts, var_tr, atol=1e-12, rtol=1e-9)
    alpha_t0, var_t0 = schedule.transition(torch.zeros_like(t), t)
    alpha_t, sigma_t = schedule(t)
    torch.testing.assert_close(alpha_t0, alpha_t)
    torch.testing.assert_close(var_t0, sigma_t**2)


@each_schedule
def test_float32_follows_float64(schedule):
    t = training_times(schedule, 1000)
    in_double, in_single = schedule.log_snr(t), schedule.log_snr(t.float())
    assert in_single.dtype == torch.float32
    # 1 - alpha^2 of about 1e-5 has only so many digits in float32
    tolerance = 5e-3 if isinstance(schedule, schedules.PolynomialAlpha) else 2e-4
    torch.testing.assert_close(in_single.double(), in_double, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_schedule
def test_finite_at_the_ends(schedule, dtype):
    """cos(pi/2) is negative in float32: the logarithm of the schedule must not be asked for it."""
    ends = torch.tensor([0.0, torch.finfo(dtype).eps, 1.0], dtype=dtype)
    alpha, sigma = schedule(ends)
    assert bool(torch.isfinite(schedule.log_snr(ends[1:])).all())
    assert bool(torch.isfinite(alpha).all())
    assert bool(torch.isfinite(sigma).all())
    assert float(alpha[-1]) > 0


def test_the_premise_that_cos_of_half_pi_is_negative_in_float32():
    assert float(torch.cos(torch.tensor(1.0) * (math.pi / 2))) < 0


def test_closed_forms():
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    x = t.numpy()
    wanted = {
        schedules.Cosine(): (np.cos(np.pi * x / 2), np.sin(np.pi * x / 2)),
        schedules.LinearPath(): (1 - x, x),
        schedules.VarianceExploding(sigma_max=80.0, rho=7.0): (np.ones_like(x), 80 * x**7),
        schedules.PolynomialAlpha(): (
            np.sqrt((1 - 2e-5) * (1 - x**2) ** 2 + 1e-5),
            np.sqrt(1 - (1 - 2e-5) * (1 - x**2) ** 2 - 1e-5),
        ),
    }
    for schedule, (alpha, sigma) in wanted.items():
        inside = schedule.log_snr(t).numpy() > schedule.log_snr_min
        assert inside.sum() > 90
        for got, expected in zip(schedule(t), (alpha, sigma), strict=True):
            np.testing.assert_allclose(got.numpy()[inside], expected[inside], rtol=1e-9)


def test_tables_of_betas():
    """The paper's betas, from their definitions in index arrays."""
    np.testing.assert_allclose(schedules.LinearBeta().betas.numpy(), np.linspace(1e-4, 0.02, 1000), rtol=1e-14)

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    cosine = [min(1 - alpha_bar((i + 1) / 1000) / alpha_bar(i / 1000), 0.999) for i in range(1000)]
    np.testing.assert_allclose(schedules.CosineBeta().betas.numpy(), cosine, rtol=1e-9, atol=1e-12)
    sigmoid = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.02 - 1e-4) + 1e-4
    np.testing.assert_allclose(schedules.SigmoidBeta().betas.numpy(), sigmoid, rtol=1e-12)


def test_a_table_reaching_pure_noise_is_cut_at_its_lowest_end():
    schedule = schedules.BetaTable([0.1, 0.5, 1.0], log_snr_min=-15.0)
    assert schedule.log_snr_min == -15
    assert bool(torch.isfinite(torch.stack(schedule(torch.tensor([1.0])))).all())


@pytest.mark.parametrize("betas", [[0.1], [0.0, 0.1], [0.1, 1.1], [[0.1, 0.2]]])
def test_tables_that_are_none_are_refused(betas):
    with pytest.raises(ValueError, match="betas must be"):
        schedules.BetaTable(betas)


@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_a_shift_moves_the_curve_and_keeps_its_ends(shift):
    base = schedules.Cosine()
    schedule = schedules.Shifted(base, shift)
    t = torch.linspace(0.2, 0.8, 21, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(t), base.log_snr(t) + shift)
    assert schedule.ends == base.ends


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.Cosine(1.0, -1.0),
        lambda: schedules.Cosine(-math.inf, 9.0),
        lambda: schedules.VarianceExploding(80.0, 0.002),
        lambda: schedules.PolynomialAlpha(precision=0.6),
    ],
)
def test_impossible_ends_are_refused(make):
    with pytest.raises(ValueError, match="need"):
        make()
