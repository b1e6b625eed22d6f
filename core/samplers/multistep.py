"""Multistep samplers: what the network said at earlier steps, interpolated, makes a step of higher order.

With lambda = log(alpha / sigma), half the log-SNR, x_0 the denoised data and eta the share of new noise, a step is

    x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) D + sigma_s sqrt(1 - e^(-2 eta h)) z

exactly, for any schedule, where h = lambda_s - lambda_t and D is the mean of x_0(lambda) over the step with weight
e^((1 + eta) lambda): Lu et al. 2022 (DPM-Solver++), proposition 4.1, and their solution of the reverse SDE. The
samplers here put the polynomial through their last answers for x_0(lambda), or for the noise; that is linear in the
answers, so x stays in any space. Coefficients are Python's floats: as tensors of one number they would cost more than
all else around the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

import torch

from core.process import eps_from_x_0, move_along_eps
from core.samplers.loop import Denoise, Noise, State, Time, X

MAX_ORDER = 4
TERMS = 20  # of the exponential's series, which below 1 leave out less than float64 can hold


@dataclass(frozen=True)
class History:
    """The network's answers, the newest first, and where they were given: lambda, or sigma / alpha."""

    places: tuple[float, ...] = ()
    answers: tuple[X, ...] = ()

    def adding(self, place: float, answer: X, most: int) -> History:
        """With one more, and only the newest `most` of them."""
        return History((place, *self.places)[:most], (answer, *self.answers)[:most])


def mean_of_polynomial(history: History, origin: float, width: float, moments: Sequence[float]) -> X:
    """The mean of the polynomial through the answers, over the step of `width` from `origin`.

    moments: the means of u^0, u^1, ..., u the place relative to the origin and the width, for as many answers as there
    may be.
    """
    if len(history.answers) == 1:
        return history.answers[0]
    nodes = [(place - origin) / width for place in history.places]
    return weighted(exact_on_powers(nodes, moments[: len(nodes)]), history.answers)


def exact_on_powers(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The weights with sum_j weights_j nodes_j^k = moments_k for each k: a Vandermonde system.

    Bjorck & Pereyra 1970: Newton's divided differences, transposed.
    """
    n, w = len(nodes), list(moments)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, n - 1):
            w[i] -= w[i + 1]
    return w


def weighted(weights: Sequence[float], answers: Sequence[X]) -> X:
    """sum_j weights_j answers_j."""
    return reduce(torch.add, [w * answer for w, answer in zip(weights, answers, strict=True)])


def exponential_moments(rate_h: float, count: int) -> list[float]:
    """The means of u^k, k < count, under the density proportional to e^(rate_h u) on [0, 1]: phi-functions.

    By parts, m_k = 1 / (1 - e^(-rate_h)) - (k / rate_h) m_{k-1}.
    """
    if rate_h < 1:  # by parts, k / rate_h would magnify rounding: integrate the series of the exponential
        terms = list(accumulate(range(1, TERMS), lambda term, n: term * rate_h / n, initial=1.0))
        integrals = [sum(term / (n + k + 1) for n, term in enumerate(terms)) for k in range(count)]
        return [integral / integrals[0] for integral in integrals]
    moments, share = [1.0], -math.expm1(-rate_h)
    for k in range(1, count):
        moments.append(1 / share - k / rate_h * moments[-1])
    return moments


def uniform_moments(count: int) -> list[float]:
    """The means of u^k, k < count, on [0, 1]."""
    return [1 / (k + 1) for k in range(count)]


@dataclass(frozen=True)
class Step:
    """The coefficients of one step from t to s in data prediction; see the module's formula."""

    lambda_t: float
    h: float
    of_x: float
    of_data: float
    of_noise: float

    @classmethod
    def between(cls, denoise: Denoise, t: Time, s: Time, eta: float = 0.0) -> Step:
        log_snr = denoise.schedule.log_snr(torch.stack([t, s]))
        lambda_t, lambda_s = (log_snr / 2).tolist()
        (_, alpha_s), (sigma_t, sigma_s) = (c.tolist() for c in denoise.schedule.alpha_sigma(log_snr))
        h = lambda_s - lambda_t
        kept = math.exp(-eta * h) if eta else 1.0
        new = -math.expm1(-2 * eta * h) if eta else 0.0
        of_data = -alpha_s * math.expm1(-(1 + eta) * h)
        return cls(lambda_t, h, sigma_s / sigma_t * kept, of_data, sigma_s * math.sqrt(new))

    def __call__(self, x_t: X, data: X) -> X:
        return self.of_x * x_t + self.of_data * data


@dataclass(frozen=True)
class DPMSolverPP:
    """DPM-Solver++ of `order` 1, 2 or 3, multistep (Lu et al. 2022, algorithm 2 for order 2), and its SDE form.

    sde: eta, the share of new noise: 0 (or False) solves the flow, 1 (or True) the reverse SDE: SDE-DPM-Solver++. Order
    1 is DDIM at these two; in between, the noise of a step is the SDE's, which is not that of DDIM's eta. Order 2 takes
    the interpolation at the step's middle, as the paper does; order 3 integrates it.
    """

    order: int = 2
    sde: float = 0.0

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order={self.order}: must be 1, 2 or 3")
        if not 0 <= self.sde <= 1:
            raise ValueError(f"sde={self.sde}: must lie in [0, 1]")

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        eta = float(self.sde)
        to_s = Step.between(denoise, t, s, eta)
        if to_s.h == 0:  # beyond a schedule's end the times differ, but not the noise
            return x_t, state
        x0 = denoise(x_t, t).x0
        if s == 0:
            return x0, None
        history = (state or History()).adding(to_s.lambda_t, x0, self.order)
        # of order 2 the paper takes the line at the step's middle: its mean there is that without the weight
        moments = uniform_moments(2) if self.order == 2 else exponential_moments((1 + eta) * to_s.h, self.order)
        x_s = to_s(x_t, mean_of_polynomial(history, to_s.lambda_t, to_s.h, moments))
        return (x_s + to_s.of_noise * noise() if eta else x_s), history


@dataclass(frozen=True)
class UniPC:
    """UniPC-p (Zhao et al. 2023): a predictor of order p and, at no further evaluation, a corrector of order p + 1.

    The answer at a predicted x_t first corrects x_t itself, by the polynomial through it and the earlier ones; then it
    serves the next prediction. The coefficients are those of the paper's full linear system (theorem 3.1), with which
    its choice of B(h) cancels. corrector: False leaves the predictor, UniP-p.
    """

    order: int = 3
    corrector: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.order < MAX_ORDER:
            raise ValueError(f"order={self.order}: must be 1, 2 or 3")

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        to_s = Step.between(denoise, t, s)
        if to_s.h == 0:
            return x_t, state
        x0 = denoise(x_t, t).x0
        if s == 0:
            return x0, None
        history, corrected = History(), x_t
        if state is not None:
            x_before, before, history = state
            if self.corrector:
                ahead = history.adding(to_s.lambda_t, x0, self.order + 1)
                corrected = self._move(before, x_before, ahead)
        history = history.adding(to_s.lambda_t, x0, self.order)
        return self._move(to_s, corrected, history), (corrected, to_s, history)

    @staticmethod
    def _move(step: Step, x: X, history: History) -> X:
        moments = exponential_moments(step.h, len(history.answers))
        return step(x, mean_of_polynomial(history, step.lambda_t, step.h, moments))


@dataclass(frozen=True)
class AdamsBashforth:
    """The method of Adams and Bashforth on d(x / alpha) = eps d(sigma / alpha), of order 1 to 4.

    equal_steps: take the coefficients of equal steps whatever the steps are, such as (55, -59, 37, -9) / 24: PNDM (Liu
    et al. 2022, eq. 12) without its Runge-Kutta start. Otherwise those of the actual ones (Zhang & Chen 2023, DEIS).
    """

    order: int = 4
    equal_steps: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise ValueError(f"order={self.order}: must be 1, 2, 3 or 4")

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        schedule = denoise.schedule
        kappa_t, kappa_s = (float(sigma / alpha) for alpha, sigma in (schedule(t), schedule(s)))
        if kappa_t == kappa_s:
            return x_t, state
        x0 = denoise(x_t, t).x0
        if s == 0:
            return x0, None
        history = (state or History()).adding(kappa_t, eps_from_x_0(schedule, x_t, x0, t), self.order)
        places, width = history, kappa_s - kappa_t
        if self.equal_steps:
            places = History(tuple(kappa_t - k * width for k in range(len(history.places))), history.answers)
        mean_eps = mean_of_polynomial(places, kappa_t, width, uniform_moments(self.order))
        return move_along_eps(schedule, x_t, mean_eps, t, s), history
