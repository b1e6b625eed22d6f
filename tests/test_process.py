"""Ho et al.'s closed forms, from their table of betas in plain index arrays of NumPy float64, to 1e-10."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, each, training_times

from core import process, schedules
from core.reverse import Denoised, Large, LogInterpolated, Small, p_x_s_given_x_t

TABLES = {name: SCHEDULES[name] for name in ("beta_table", "linear_beta", "cosine_beta", "sigmoid_beta")}
# two more that are not interpolated at all: a random table, and a long one
TABLES["random"] = schedules.BetaTable(np.random.default_rng(0).uniform(1e-4, 0.3, 40))
TABLES["long"] = schedules.LinearBeta(4000, 1e-5, 5e-3)
each_table = each(TABLES, "schedule")


class IndexArrays:
    """Section 2 and 3 of Ho et al. 2020, the 0-based step i being the paper's t - 1."""

    def __init__(self, betas: np.ndarray) -> None:
        self.betas = betas
        self.alphas = 1 - betas
        self.alpha_bar = np.cumprod(self.alphas)
        self.alpha_bar_prev = np.append(1.0, self.alpha_bar[:-1])
        self.posterior_variance = betas * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)  # eq. 7
        self.fixed_small = np.append(self.posterior_variance[1], self.posterior_variance[1:])
        self.fixed_large = np.append(self.posterior_variance[1], betas[1:])

    def q_mean(self, x_0: np.ndarray) -> np.ndarray:
        return np.sqrt(self.alpha_bar)[:, None] * x_0  # eq. 4

    def posterior_mean(self, x_t: np.ndarray, x_0: np.ndarray) -> np.ndarray:
        of_x_0 = np.sqrt(self.alpha_bar_prev) * self.betas / (1 - self.alpha_bar)  # eq. 7
        of_x_t = np.sqrt(self.alphas) * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)
        return of_x_0[:, None] * x_0 + of_x_t[:, None] * x_t

    def p_mean(self, x_t: np.ndarray, eps: np.ndarray) -> np.ndarray:
        scaled = (self.betas / np.sqrt(1 - self.alpha_bar))[:, None] * eps  # eq. 11
        return (x_t - scaled) / np.sqrt(self.alphas)[:, None]


def setting(schedule):
    """The independent arrays, all steps' times s < t as columns, and (x_t, x_0, eps) with a row for each step."""
    T = schedule.num_steps
    i = torch.arange(T, dtype=torch.float64)[:, None]
    x_t, x_0, eps = np.random.default_rng(1).standard_normal((3, T, 4))
    return IndexArrays(schedule.betas.numpy()), i / T, (i + 1) / T, x_t, x_0, eps


def close(got: torch.Tensor, wanted: np.ndarray, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(got.numpy(), np.broadcast_to(wanted, got.shape), rtol=1e-10, atol=atol)


@each_table
def test_forward_process(schedule):
    arrays, s, t, x_s, x_0, _ = setting(schedule)
    step = process.q_x_t_given_x_s(schedule, torch.tensor(x_s), s, t)
    close(step.var, arrays.betas[:, None])
    close(step.mean, np.sqrt(arrays.alphas)[:, None] * x_s)
    q = process.q_x_t_given_x_0(schedule, torch.tensor(x_0), t)
    close(q.var, (1 - arrays.alpha_bar)[:, None])
    close(q.mean, arrays.q_mean(x_0))


@each_table
def test_posterior(schedule):
    arrays, s, t, x_t, x_0, _ = setting(schedule)
    posterior = process.q_x_s_given_x_t_x_0(schedule, torch.tensor(x_t), torch.tensor(x_0), s, t)
    close(posterior.mean, arrays.posterior_mean(x_t, x_0))
    close(posterior.var, arrays.posterior_variance[:, None])


@each_table
def test_reverse_mean_from_epsilon(schedule):
    arrays, s, t, x_t, _, eps = setting(schedule)
    mean = process.p_mean_from_eps(schedule, torch.tensor(x_t), torch.tensor(eps), s, t)
    wanted = arrays.p_mean(x_t, eps)
    np.testing.assert_allclose(mean.numpy(), wanted, rtol=1e-9)
    # eq. 11 is the posterior's mean at the data that epsilon implies
    x_0 = process.x_0_from_eps(schedule, torch.tensor(x_t), torch.tensor(eps), t)
    p = p_x_s_given_x_t(schedule, Small(), torch.tensor(x_t), Denoised(x_0), s, t)
    np.testing.assert_allclose(p.mean.numpy(), wanted, rtol=1e-8, atol=1e-8)


@each_table
def test_fixed_variances(schedule):
    arrays, s, t, *_ = setting(schedule)
    nothing = Denoised(torch.zeros(()))
    close(Small()(schedule, nothing, s, t), arrays.fixed_small[:, None])
    close(Large()(schedule, nothing, s, t), arrays.fixed_large[:, None])


@each_table
def test_learned_variance_lies_between_in_log_space(schedule):
    """Nichol & Dhariwal 2021, eq. 15, from the clipped logarithm of beta-tilde and that of beta."""
    arrays, s, t, *_ = setting(schedule)
    fraction = torch.linspace(-0.5, 1.5, 9, dtype=torch.float64).expand(len(t), 9)
    got = LogInterpolated()(schedule, Denoised(torch.zeros_like(fraction), fraction), s, t)
    v = fraction.numpy()
    log_var = v * np.log(arrays.betas)[:, None] + (1 - v) * np.log(arrays.fixed_small)[:, None]
    np.testing.assert_allclose(got.numpy(), np.exp(log_var), rtol=1e-9)


def test_a_learned_variance_needs_a_denoiser_that_learned_it():
    s, t = torch.tensor(0.1), torch.tensor(0.2)
    with pytest.raises(ValueError, match="learned_variance"):
        LogInterpolated()(SCHEDULES["linear_beta"], Denoised(torch.zeros(1)), s, t)


@each(SCHEDULES, "schedule")
def test_posterior_is_bayes_rule(schedule):
    """q(x_s | x_t, x_0) from the product of two Gaussians in x_s: precisions add. True of every scale."""
    t = training_times(schedule, 40)[:, None]
    s, t = t[:-4], t[4:]
    x_t, x_0 = torch.randn(2, len(t), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior = process.q_x_t_given_x_0(schedule, x_0, s)
    alpha_ts, var_ts = schedule.transition(s, t)
    precision = 1 / prior.var + alpha_ts**2 / var_ts
    mean = (prior.mean / prior.var + alpha_ts * x_t / var_ts) / precision
    posterior = process.q_x_s_given_x_t_x_0(schedule, x_t, x_0, s, t)
    torch.testing.assert_close(posterior.var, 1 / precision, rtol=1e-9, atol=0)
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-8, atol=1e-10)


@each(SCHEDULES, "schedule")
def test_data_and_noise_imply_each_other(schedule):
    t = training_times(schedule)[:, None]
    x_0, eps = torch.randn(2, len(t), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha_t, sigma_t = schedule(t)
    x_t = alpha_t * x_0 + sigma_t * eps
    torch.testing.assert_close(process.x_0_from_eps(schedule, x_t, eps, t), x_0, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(process.eps_from_x_0(schedule, x_t, x_0, t), eps, atol=1e-9, rtol=1e-9)


@each(SCHEDULES, "schedule")
def test_along_its_noise_x_is_noised_data_at_every_time(schedule):
    """alpha_t x_0 + sigma_t eps leads to alpha_s x_0 + sigma_s eps, back and forth in time."""
    rng = np.random.default_rng(0)
    x_0, eps = (torch.tensor(rng.standard_normal(5)) for _ in range(2))
    times = training_times(schedule, 7)
    for t in times:
        for s in times:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
            x_s = process.move_along_eps(schedule, alpha_t * x_0 + sigma_t * eps, eps, t, s)
            torch.testing.assert_close(x_s, alpha_s * x_0 + sigma_s * eps, rtol=1e-9, atol=1e-9)
    at_data = process.move_along_eps(schedule, schedule(t)[0] * x_0 + schedule(t)[1] * eps, eps, t, torch.zeros_like(t))
    torch.testing.assert_close(at_data, x_0, rtol=1e-9, atol=1e-9)
