"""The closed forms of the forward process and its reversal, under their textbook names.

Each function takes two times s < t of one schedule; with a table of betas, s = i/T and t = (i+1)/T, these are Ho et
al.'s formulas of step i. The coefficients are computed in the dtype of the times, which broadcast against x: a number
or (B, 1, ..., 1).
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from core.schedules import Schedule

X = Float[Tensor, "*x"]
Time = Float[Tensor, "*level"]


class Gaussian(NamedTuple):
    """N(mean, var); var broadcasts against mean."""

    mean: X
    var: Time


def q_x_t_given_x_0(schedule: Schedule, x_0: X, t: Time) -> Gaussian:
    """q(x_t | x_0) = N(alpha_t x_0, sigma_t^2): Ho et al. 2020, eq. 4."""
    alpha_t, sigma_t = schedule(t)
    return Gaussian(alpha_t * x_0, sigma_t**2)


def q_x_t_given_x_s(schedule: Schedule, x_s: X, s: Time, t: Time) -> Gaussian:
    """q(x_t | x_s), one step of noise: Ho et al. 2020, eq. 2, where 1 - beta_t = alpha_ts^2 and beta_t = var_ts."""
    alpha_ts, var_ts = schedule.transition(s, t)
    return Gaussian(alpha_ts * x_s, var_ts)


def q_x_s_given_x_t_x_0(schedule: Schedule, x_t: X, x_0: X, s: Time, t: Time) -> Gaussian:
    """The posterior q(x_s | x_t, x_0), one step back where the data is known: Ho et al. 2020, eq. 6-7."""
    return Gaussian(posterior_mean(schedule, x_t, x_0, s, t), posterior_variance(schedule, s, t))


def posterior_mean(schedule: Schedule, x_t: X, x_0: X, s: Time, t: Time) -> X:
    """The mean of q(x_s | x_t, x_0), mu-tilde of Ho et al. 2020, eq. 7."""
    (alpha_s, sigma_s), (_, sigma_t) = schedule(s), schedule(t)
    alpha_ts, var_ts = schedule.transition(s, t)
    return (alpha_ts * sigma_s**2 / sigma_t**2) * x_t + (alpha_s * var_ts / sigma_t**2) * x_0


def posterior_variance(schedule: Schedule, s: Time, t: Time) -> Time:
    """The variance of q(x_s | x_t, x_0), beta-tilde of Ho et al. 2020, eq. 7."""
    _, var_ts = schedule.transition(s, t)
    return var_ts * (schedule(s)[1] / schedule(t)[1]) ** 2


def p_mean_from_eps(schedule: Schedule, x_t: X, eps: X, s: Time, t: Time) -> X:
    """The mean of p_theta(x_s | x_t) for a predicted noise: Ho et al. 2020, eq. 11."""
    alpha_ts, var_ts = schedule.transition(s, t)
    return (x_t - var_ts / schedule(t)[1] * eps) / alpha_ts


def x_0_from_eps(schedule: Schedule, x_t: X, eps: X, t: Time) -> X:
    """The data that x_t and its noise imply: Ho et al. 2020, eq. 15."""
    alpha_t, sigma_t = schedule(t)
    return (x_t - sigma_t * eps) / alpha_t


def eps_from_x_0(schedule: Schedule, x_t: X, x_0: X, t: Time) -> X:
    """The noise that x_t and the data imply."""
    alpha_t, sigma_t = schedule(t)
    return (x_t - alpha_t * x_0) / sigma_t


def move_along_eps(schedule: Schedule, x_t: X, eps: X, t: Time, s: Time) -> X:
    """x_s on the path of x_t that keeps its noise: Song, Meng & Ermon 2021, eq. 13; exact for the mean eps of the step.

    It solves d(x / alpha) = eps d(sigma / alpha), the flow's equation, which no schedule appears in otherwise.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    return alpha_s / alpha_t * x_t + (sigma_s - alpha_s * sigma_t / alpha_t) * eps
