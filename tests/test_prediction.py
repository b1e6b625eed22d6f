"""Laws of the predictions: each is the field's formula, all say the same of the data, and targets come back."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import PREDICTIONS, SCHEDULES, each, subclasses, training_times

from core import prediction
from core.batch import expand
from core.prediction import Prediction
from core.schedules import Cosine, LinearBeta

each_prediction, each_schedule = each(PREDICTIONS, "predicted"), each(SCHEDULES, "schedule")


def pair(schedule, dtype=torch.float64):
    """x_0, eps and the levels (alpha, sigma), one row for each of 50 times."""
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 50, 6, generator=generator, dtype=dtype)
    alpha, sigma = (expand(c, x_0) for c in schedule(training_times(schedule)))
    return x_0, eps, alpha, sigma


def test_every_prediction_is_tested():
    assert {type(p) for p in PREDICTIONS.values()} == subclasses(Prediction)


@each_schedule
@each_prediction
def test_the_target_comes_back_as_the_data(predicted, schedule):
    x_0, eps, alpha, sigma = pair(schedule)
    c_skip, c_out = predicted.c_skip_out(alpha, sigma)
    back = c_skip * (alpha * x_0 + sigma * eps) + c_out * predicted.target(x_0, eps, alpha, sigma)
    torch.testing.assert_close(back, x_0, atol=1e-8, rtol=0)


def test_targets_are_the_textbooks():
    x_0, eps, alpha, sigma = pair(Cosine())
    targets = {name: p.target(x_0, eps, alpha, sigma) for name, p in PREDICTIONS.items()}
    torch.testing.assert_close(targets["epsilon"], eps)
    torch.testing.assert_close(targets["sample"], x_0)
    torch.testing.assert_close(targets["velocity"], alpha * eps - sigma * x_0)
    torch.testing.assert_close(targets["flow"], eps - x_0)


def test_velocity_of_any_scale():
    """c_skip = alpha / (alpha^2 + sigma^2), c_out = -sigma / (alpha^2 + sigma^2)."""
    _, _, alpha, sigma = pair(SCHEDULES["linear_path"])
    c_skip, c_out = prediction.Velocity().c_skip_out(alpha, sigma)
    torch.testing.assert_close(c_skip, alpha / (alpha**2 + sigma**2))
    torch.testing.assert_close(c_out, -sigma / (alpha**2 + sigma**2))


def test_karras_is_table_1():
    """At scale alpha = 1: the four functions of Karras et al. 2022, up to the sign of c_out."""
    _, _, alpha, sigma = pair(SCHEDULES["variance_exploding"])
    data = 0.5
    karras = prediction.Karras(data)
    c_skip, c_out = karras.c_skip_out(alpha, sigma)
    torch.testing.assert_close(c_skip, data**2 / (sigma**2 + data**2))
    torch.testing.assert_close(c_out.abs(), sigma * data / (sigma**2 + data**2).sqrt())
    torch.testing.assert_close(karras.c_in(alpha, sigma), 1 / (sigma**2 + data**2).sqrt())


@pytest.mark.parametrize("sd", [0.5, 2.0])
@each_schedule
def test_karras_has_unit_variance_in_and_out(schedule, sd):
    """Var(c_in x_t) = Var(F) = 1 at every level for data of that standard deviation, from the linear coefficients."""
    karras = prediction.Karras(sd)
    _, _, alpha, sigma = pair(schedule)
    w_x, w_eps = karras.target_weights(alpha, sigma)
    torch.testing.assert_close((w_x * sd) ** 2 + w_eps**2, torch.ones_like(alpha))
    torch.testing.assert_close(karras.c_in(alpha, sigma) ** 2 * ((alpha * sd) ** 2 + sigma**2), torch.ones_like(alpha))


def test_karras_of_columns_is_karras_of_each():
    x_0, eps, alpha, sigma = pair(Cosine())
    both = prediction.Karras([0.5] * 3 + [2.0] * 3).target(x_0, eps, alpha, sigma)
    torch.testing.assert_close(both[:, :3], prediction.Karras(0.5).target(x_0, eps, alpha, sigma)[:, :3])
    torch.testing.assert_close(both[:, 3:], prediction.Karras(2.0).target(x_0, eps, alpha, sigma)[:, 3:])


@pytest.mark.parametrize("name", [n for n in PREDICTIONS if n != "flow"])
def test_input_of_unit_data_has_unit_variance(name):
    _, _, alpha, sigma = pair(SCHEDULES["linear_path"])
    predicted = prediction.Karras(1.0) if name == "karras" else PREDICTIONS[name]
    torch.testing.assert_close(predicted.c_in(alpha, sigma) ** 2 * (alpha**2 + sigma**2), torch.ones_like(alpha))


def test_epsilon_round_trips_in_float32():
    """To 1e-4 of the noise for log-SNR in [-20, 12]; beyond, epsilon is not a sound output in float32."""
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 33, 1000, generator=generator)
    alpha, sigma = (expand(c, x_0) for c in Cosine().alpha_sigma(torch.linspace(-20, 12, 33)))
    x_t = alpha * x_0 + sigma * eps
    c_skip, c_out = prediction.Epsilon().c_skip_out(alpha, sigma)
    back = (x_t - alpha * (c_skip * x_t + c_out * eps)) / sigma
    assert float((back - eps).abs().max()) < 4e-4
    assert float((back - eps).square().mean().sqrt()) < 1e-4


def test_the_noise_level_is_told_as_log_snr_or_as_the_papers_step():
    schedule, t = LinearBeta(1000), torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert torch.equal(prediction.Epsilon().c_noise(log_snr, t), log_snr)
    steps = prediction.Epsilon(num_steps=1000).c_noise(log_snr, t)
    assert steps.tolist() == pytest.approx([0, 499, 999], abs=1e-9)
    assert math.isfinite(float(log_snr.sum()))


@pytest.mark.parametrize("sigma_data", [0, -1, [1.0, 0.0]])
def test_karras_refuses_a_scale_that_is_not_positive(sigma_data):
    with pytest.raises(ValueError, match="sigma_data"):
        prediction.Karras(sigma_data)
