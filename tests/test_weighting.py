"""Laws of the weightings: each is its paper's form, on the error that the paper states it on."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import PREDICTIONS, SCHEDULES, WEIGHTINGS, each, gaussian, known, subclasses, training_times

from core import weighting as w
from core.batch import Batch, expand
from core.schedules import Cosine, LinearBeta

each_schedule, each_prediction = each(SCHEDULES, "schedule"), each(PREDICTIONS, "predicted")


def errors(schedule, predicted, weighting):
    """(loss, SNR, squared errors of x_0, of eps and of v) for a denoiser that is wrong, one row a time."""
    t = training_times(schedule, 30)
    x_0, eps = torch.randn(2, 30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoiser, batch = known(schedule, gaussian(0.3, 0.7), predicted, weighting=weighting), Batch.full(x_0)
    x_t = denoiser.q_sample(batch, t, eps)
    x0_hat = denoiser(x_t, t, batch.mask, {}).x0
    alpha, sigma = (expand(c, x_t) for c in schedule(t))
    eps_hat = (x_t - alpha * x0_hat) / sigma
    v_error = alpha * (eps - eps_hat) - sigma * (x_0 - x0_hat)
    squares = [(error**2).mean(1) for error in (x_0 - x0_hat, eps - eps_hat, v_error)]
    return denoiser.loss(batch, t, eps), ((alpha / sigma) ** 2).flatten(), *squares


def close(loss, wanted) -> None:
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-12)


def test_every_weighting_is_tested():
    assert {type(x) for x in WEIGHTINGS.values()} == subclasses(w.Weighting)


@each_schedule
@each_prediction
def test_textbook_forms(predicted, schedule):
    loss, _, _, eps, _ = errors(schedule, predicted, w.EpsilonLoss())
    close(loss, eps)
    loss, _, x_0, _, _ = errors(schedule, predicted, w.SampleLoss())
    close(loss, x_0)
    # Hang et al. 2023: min(SNR, gamma) on x_0, min(SNR, gamma) / SNR on eps
    loss, snr, x_0, eps, _ = errors(schedule, predicted, w.MinSNR(5.0))
    close(loss, snr.clamp(max=5) * x_0)
    close(loss, snr.clamp(max=5) / snr * eps)
    # Salimans & Ho 2022: max(|x_0 error|^2, |eps error|^2)
    loss, snr, x_0, eps, _ = errors(schedule, predicted, w.TruncatedSNR(1.0))
    close(loss, torch.maximum(x_0, eps))
    # Choi et al. 2022: 1 / (k + SNR)^gamma on eps
    loss, snr, _, eps, _ = errors(schedule, predicted, w.P2(0.5, 2.0))
    close(loss, eps / (2 + snr) ** 0.5)


@pytest.mark.parametrize("name", ["cosine", "linear_beta", "polynomial"])
@each_prediction
def test_snr_plus_one_is_the_error_of_v(predicted, name):
    """SNR + 1 on x_0 is |v - v_theta|^2 where the variance is preserved; so is the network's loss of `Velocity`."""
    _, snr, x_0, _, v = errors(SCHEDULES[name], predicted, w.SampleLoss())
    close((snr + 1) * x_0, v)
    loss, *_, v = errors(SCHEDULES[name], PREDICTIONS["velocity"], w.NetworkLoss())
    close(loss, v)


@each_prediction
def test_limits(predicted):
    schedule = Cosine()
    loss = {x: errors(schedule, predicted, x)[0] for x in (w.EpsilonLoss(), w.SampleLoss())}
    epsilon, sample = loss.values()
    close(errors(schedule, predicted, w.MinSNR(math.inf))[0], epsilon)
    close(errors(schedule, predicted, w.TruncatedSNR(0.0))[0], epsilon)
    close(errors(schedule, predicted, w.P2(0.0, 1.0))[0], epsilon)
    close(errors(schedule, predicted, w.TruncatedSNR(1e9))[0], 1e9 * sample)
    close(errors(schedule, predicted, w.MinSNR(1e-9))[0], 1e-9 * sample)


def test_network_loss_of_epsilon_is_the_epsilon_loss():
    loss, _, _, eps, _ = errors(Cosine(), PREDICTIONS["epsilon"], w.NetworkLoss())
    close(loss, eps)


def test_variational_bound_telescopes():
    """Over a table's steps it is 1/2 (SNR(s) - SNR(t)) a step; their mean is T times less than their sum."""
    schedule, T = LinearBeta(100), 100
    t = (torch.arange(T, dtype=torch.float64) + 1) / T
    steps = w.VariationalBound(T).weight(schedule, t) / T
    snr = schedule.log_snr(t).exp()
    torch.testing.assert_close(steps[1:], 0.5 * (snr[:-1] - snr[1:]))
    assert float(steps[1:].sum()) == pytest.approx(0.5 * float(snr[0] - snr[-1]))
    assert float(steps[0]) == 0  # s = 0 is the decoder's: no more than the schedule's highest training level counts


def test_variational_bound_of_many_steps_is_the_derivative():
    schedule = Cosine()
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.log_snr(t).exp().sum(), t)
    torch.testing.assert_close(w.VariationalBound(10**6).weight(schedule, t.detach()), -slope / 2, rtol=1e-4, atol=0)


def test_the_bound_needs_a_step():
    with pytest.raises(ValueError, match="num_steps=0"):
        w.VariationalBound(0)


def test_columns_weigh_columns():
    schedule, predicted = Cosine(), PREDICTIONS["velocity"]
    columns = torch.eye(4)
    parts = [errors(schedule, predicted, w.Columns(w.EpsilonLoss(), column))[0] for column in columns]
    whole = errors(schedule, predicted, w.EpsilonLoss())[0]
    close(sum(parts), whole)
    mixed = errors(schedule, predicted, w.Columns(w.EpsilonLoss(), [3.0, 3.0, 3.0, 1.0]))[0]
    close(mixed, 3 * (parts[0] + parts[1] + parts[2]) + parts[3])
