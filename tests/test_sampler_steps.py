"""Each sampler step for step against its paper, in plain NumPy: index arrays, algorithms, integrals by quadrature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, each, known
from torch import Tensor, nn

from core import times
from core.batch import Batch
from core.denoiser import BaseDenoiser, Denoiser
from core.prediction import Epsilon
from core.reverse import Large, Small
from core.samplers import DDIM, DDPM, AdamsBashforth, Denoise, DPMSolverPP, Heun, PredictorCorrector, Sampler, UniPC
from core.schedules import BetaTable, LinearBeta, Schedule, VarianceExploding

T = 1000
Path = list[np.ndarray]
each_schedule = each(SCHEDULES, "schedule")


def start(draws: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, 4)), rng.standard_normal((draws, 3, 4))


def ours(sampler: Sampler, denoiser: BaseDenoiser, grid: Tensor, x: np.ndarray, noise: np.ndarray) -> Path:
    """x after each step, from given noise."""
    x_t, draws = torch.tensor(x), iter(torch.tensor(noise))
    denoise, state, path = Denoise(denoiser, Batch.full(x_t)), None, []
    for t, s in pairwise(grid):
        x_t, state = sampler.step(denoise, x_t, t, s, state, lambda: next(draws))
        path.append(x_t.numpy())
    return path


def same(path: Path, wanted: Path) -> None:
    assert len(path) == len(wanted)
    for x, y in zip(path, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-9)


# --- tables of betas ---


def eps_theta(x, step):
    """A made-up noise predictor, of NumPy arrays or tensors: not linear in x, and of the step."""
    return x / (1 + x**2) + 0.3 * x + 0.001 * step - 0.4


class StepNetwork(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        return eps_theta(x, c_noise[:, None])


def step_denoiser(schedule: BetaTable) -> Denoiser:
    return Denoiser(StepNetwork(), schedule, Epsilon(num_steps=schedule.num_steps))


def ddim_by_index(betas, steps, eta: float, x: np.ndarray, noise: np.ndarray) -> Path:
    """Song et al. 2021, eq. 12 and 16, `steps` being increasing 0-based indices of the table."""
    alpha_bar = np.append(np.cumprod(1 - np.asarray(betas)), 1.0)  # index -1 is the data
    path = []
    for i, j, z in zip(steps[::-1], [*steps[-2::-1], -1], noise, strict=True):
        a, a_prev = alpha_bar[i], alpha_bar[j]
        sigma = eta * np.sqrt((1 - a_prev) / (1 - a)) * np.sqrt(1 - a / a_prev)
        eps = eps_theta(x, i)
        x_0 = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
        x = np.sqrt(a_prev) * x_0 + np.sqrt(1 - a_prev - sigma**2) * eps + sigma * z  # sigma is 0 at the last step
        path.append(x)
    return path


def ddpm_by_index(betas, large: bool, x: np.ndarray, noise: np.ndarray) -> Path:
    """Ho et al. 2020, algorithm 2."""
    alpha_bar, path = np.cumprod(1 - betas), []
    for i, z in zip(range(len(betas))[::-1], noise, strict=True):
        mean = (x - betas[i] / np.sqrt(1 - alpha_bar[i]) * eps_theta(x, i)) / np.sqrt(1 - betas[i])
        small = betas[i] * (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i]) if i else 0.0
        x = mean + np.sqrt(betas[i] if large else small) * z * (i > 0)
        path.append(x)
    return path


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("grid", "steps"),
    [
        (times.Leading(20), list(range(0, T, 50))),
        (times.Quadratic(10), [0, 9, 39, 88, 158, 246, 355, 483, 632, 800]),
        (times.Trailing(5), [199, 399, 599, 799, 999]),
    ],
    ids=["uniform", "quadratic", "trailing"],
)
def test_ddim(grid, steps, eta):
    (x, noise), schedule = start(len(steps)), LinearBeta(T)
    wanted = ddim_by_index(np.linspace(1e-4, 0.02, T), steps, eta, x, noise)
    same(ours(DDIM(eta), step_denoiser(schedule), grid(schedule), x, noise), wanted)


@pytest.mark.parametrize("large", [False, True])
def test_ddpm(large):
    betas = np.linspace(1e-3, 0.2, 60)
    (x, noise), schedule = start(60), BetaTable(betas)
    path = ours(DDPM(Large() if large else Small()), step_denoiser(schedule), times.Uniform(60)(schedule), x, noise)
    same(path, ddpm_by_index(betas, large, x, noise))


def test_pndm():
    """Liu et al. 2022, eq. 11 and 12, from the table's alpha-bar; the first three steps of lower order."""
    steps, (x, noise) = list(range(0, T, 50)), start(0)
    schedule, alpha_bar = LinearBeta(T), np.cumprod(1 - np.linspace(1e-4, 0.02, T))
    path, answers, y = [], [], x
    for i, j in pairwise(steps[::-1]):
        answers.append(eps_theta(y, i))
        coefficients = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12]}.get(
            len(answers), [55 / 24, -59 / 24, 37 / 24, -9 / 24]
        )
        eps = sum(c * e for c, e in zip(coefficients, answers[::-1], strict=False))
        a, b = alpha_bar[i], alpha_bar[j]
        y = np.sqrt(b / a) * y - (b - a) / (np.sqrt(a) * (np.sqrt((1 - b) * a) + np.sqrt((1 - a) * b))) * eps
        path.append(y)
    grid = times.Leading(20)(schedule)[:-1]
    same(ours(AdamsBashforth(equal_steps=True), step_denoiser(schedule), grid, x, noise), path)


# --- any schedule ---


def x_0_theta(x, alpha, sigma):
    """Made-up denoised data, of NumPy arrays or tensors: not linear in x."""
    return x / (1 + x**2) + 0.3 * alpha - 0.2 * sigma / (1 + sigma)


class Levels:
    """A schedule's numbers on uneven times, the last one above 0, and its denoiser; all else is the paper's."""

    def __init__(self, schedule: Schedule, n: int = 9) -> None:
        self.grid = times.Uniform(n)(schedule)[:-1]
        self.denoiser = known(schedule, x_0_theta)
        self.alpha, self.sigma = (c.numpy() for c in schedule(self.grid))
        self.kappa = self.sigma / self.alpha
        self.lam = -np.log(self.kappa)

    def x_0(self, x: np.ndarray, i: int) -> np.ndarray:
        return x_0_theta(x, self.alpha[i], self.sigma[i])

    def eps(self, x: np.ndarray, i: int) -> np.ndarray:
        return (x - self.alpha[i] * self.x_0(x, i)) / self.sigma[i]

    def __iter__(self) -> Iterator[int]:
        """The places that a step leads to."""
        return iter(range(1, len(self.grid)))


@each_schedule
def test_dpm_solver_pp_2m(schedule):
    """Lu et al. 2022, algorithm 2."""
    level, (x, noise) = Levels(schedule), start(0)
    path, before, y = [], None, x
    for i in level:
        h, answer = level.lam[i] - level.lam[i - 1], level.x_0(y, i - 1)
        data = answer
        if before is not None:
            r = (level.lam[i - 1] - level.lam[i - 2]) / h
            data = (1 + 1 / (2 * r)) * answer - 1 / (2 * r) * before
        y = level.sigma[i] / level.sigma[i - 1] * y - level.alpha[i] * (np.exp(-h) - 1) * data
        before = answer
        path.append(y)
    same(ours(DPMSolverPP(2), level.denoiser, level.grid, x, noise), path)


@each_schedule
def test_sde_dpm_solver_pp_2m(schedule):
    """The multistep form of the reverse SDE in the same paper."""
    level, (x, noise) = Levels(schedule), start(8)
    path, before, y = [], None, x
    for i, z in zip(level, noise, strict=False):
        h, answer = level.lam[i] - level.lam[i - 1], level.x_0(y, i - 1)
        slope = 0.0 if before is None else (answer - before) * h / (level.lam[i - 1] - level.lam[i - 2])
        share, kept = level.alpha[i] * (1 - np.exp(-2 * h)), level.sigma[i] / level.sigma[i - 1] * np.exp(-h)
        y = kept * y + share * answer + share / 2 * slope + level.sigma[i] * np.sqrt(1 - np.exp(-2 * h)) * z
        before = answer
        path.append(y)
    same(ours(DPMSolverPP(2, sde=True), level.denoiser, level.grid, x, noise), path)


def lagrange(places: list[float], answers: Path) -> Callable[[float], np.ndarray]:
    """The polynomial through the answers."""

    def at(place: float) -> np.ndarray:
        basis = [np.prod([(place - q) / (p - q) for q in places if q != p]) for p in places]
        return sum(b * answer for b, answer in zip(basis, answers, strict=True))

    return at


def integral(f: Callable[[float], np.ndarray], a: float, b: float) -> np.ndarray:
    """Over [a, b], by Gauss and Legendre: up to rounding for all that these tests integrate."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    return sum(w * (b - a) / 2 * f((a + b) / 2 + (b - a) / 2 * u) for u, w in zip(nodes, weights, strict=True))


def integrated(level: Levels, y: np.ndarray, i: int, polynomial: Callable, eta: float = 0.0) -> np.ndarray:
    """The linear equation of x, with the polynomial for x_0(lambda), from place i - 1 to i: variation of constants."""
    h = level.lam[i] - level.lam[i - 1]
    data = integral(
        lambda lam: np.exp((1 + eta) * (lam - level.lam[i])) * polynomial(lam), level.lam[i - 1], level.lam[i]
    )
    return level.sigma[i] / level.sigma[i - 1] * np.exp(-eta * h) * y + (1 + eta) * level.alpha[i] * data


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("order", [1, 3])
@each_schedule
def test_dpm_solver_pp_integrates_the_interpolation(schedule, order, eta):
    level, (x, noise) = Levels(schedule), start(8)
    path, places, answers, y = [], [], [], x
    for i, z in zip(level, noise, strict=False):
        places, answers = [*places, level.lam[i - 1]][-order:], [*answers, level.x_0(y, i - 1)][-order:]
        h = level.lam[i] - level.lam[i - 1]
        y = integrated(level, y, i, lagrange(places, answers), eta)
        y = y + level.sigma[i] * np.sqrt(1 - np.exp(-2 * eta * h)) * z
        path.append(y)
    same(ours(DPMSolverPP(order, sde=eta), level.denoiser, level.grid, x, noise), path)


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
@each_schedule
def test_unipc(schedule, order, corrector):
    """Zhao et al. 2023, algorithms 1 and 2: predict, and correct by the answer at what was predicted."""
    level, (x, noise) = Levels(schedule), start(0)
    path, places, answers = [], [level.lam[0]], [level.x_0(x, 0)]
    corrected = x
    for i in level:
        predicted = integrated(level, corrected, i, lagrange(places[-order:], answers[-order:]))
        path.append(predicted)
        places, answers = [*places, level.lam[i]], [*answers, level.x_0(predicted, i)]
        ahead = lagrange(places[-order - 1 :], answers[-order - 1 :])
        corrected = integrated(level, corrected, i, ahead) if corrector else predicted
    same(ours(UniPC(order, corrector), level.denoiser, level.grid, x, noise), path)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@each_schedule
def test_adams_bashforth(schedule, order):
    """x / alpha gains the integral of the polynomial through the noises over sigma / alpha."""
    level, (x, noise) = Levels(schedule), start(0)
    path, places, answers, y = [], [], [], x
    for i in level:
        places, answers = [*places, level.kappa[i - 1]][-order:], [*answers, level.eps(y, i - 1)][-order:]
        gain = integral(lagrange(places, answers), level.kappa[i - 1], level.kappa[i])
        y = level.alpha[i] * (y / level.alpha[i - 1] + gain)
        path.append(y)
    same(ours(AdamsBashforth(order), level.denoiser, level.grid, x, noise), path)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_pndm_is_adams_bashforth_on_equal_steps(order):
    schedule = VarianceExploding(0.01, 10.0, rho=1.0)
    grid, (x, noise) = times.Uniform(12)(schedule)[:-1], start(0)
    paths = (ours(AdamsBashforth(order, equal), known(schedule, x_0_theta), grid, x, noise) for equal in (True, False))
    same(*paths)


@pytest.mark.parametrize(
    "sampler", [Heun(), Heun(0.3), Heun(0.4, churn_min=0.05, churn_max=50, churn_noise=1.007)], ids=["1", "2", "2_part"]
)
def test_heun_is_karras(sampler):
    """Karras et al. 2022, algorithms 1 and 2: x is not scaled and sigma is t, of which the first is the largest."""
    schedule = VarianceExploding()
    level, (x, noise) = Levels(schedule, 12), start(20)
    sigmas, draws, path, y = [*level.sigma, 0.0], iter(noise), [], 80 * x
    for sigma, following in pairwise(sigmas):
        gamma = sampler.churn if sampler.churn_min <= sigma <= sampler.churn_max else 0.0
        raised = min(sigma * (1 + gamma), sigmas[0])
        if gamma:
            y = y + np.sqrt(max(raised**2 - sigma**2, 0.0)) * sampler.churn_noise * next(draws)
        slope = (y - x_0_theta(y, 1.0, raised)) / raised
        x_s = y + (following - raised) * slope
        if following:
            slope_s = (x_s - x_0_theta(x_s, 1.0, following)) / following
            x_s = y + (following - raised) * (slope / 2 + slope_s / 2)
        y = x_s
        path.append(y)
    grid = torch.cat([level.grid, torch.zeros(1, dtype=torch.float64)])
    same(ours(sampler, level.denoiser, grid, 80 * x, noise), path)


@each_schedule
def test_heun_is_karras_algorithm_in_x_over_alpha(schedule):
    """For any other schedule it is theirs in x / alpha and sigma / alpha."""
    level, (x, noise) = Levels(schedule), start(0)
    path, y = [], x / level.alpha[0]
    for i in level:
        width = level.kappa[i] - level.kappa[i - 1]
        slope = level.eps(level.alpha[i - 1] * y, i - 1)
        y = y + width * (slope + level.eps(level.alpha[i] * (y + width * slope), i)) / 2
        path.append(level.alpha[i] * y)
    same(ours(Heun(), level.denoiser, level.grid, x, noise), path)


@pytest.mark.parametrize("corrections", [1, 3])
@each_schedule
def test_langevin_corrector(schedule, corrections):
    """Song et al. 2021, algorithm 4, after the predictor's step; but each sample takes the norms of its own."""
    level, (x, noise) = Levels(schedule), start(30)
    draws, path, y = iter(noise), [], x
    for i in level:
        y = level.alpha[i] * level.x_0(y, i - 1) + level.sigma[i] * level.eps(y, i - 1)
        for _ in range(corrections):
            z, score = next(draws), -level.eps(y, i) / level.sigma[i]
            r = 0.2 * np.linalg.norm(z, axis=1, keepdims=True) / np.linalg.norm(score, axis=1, keepdims=True)
            y = y + 2 * r**2 * score + np.sqrt(2 * 2 * r**2) * z
        path.append(y)
    sampler = PredictorCorrector(DDIM(), corrections, snr=0.2)
    same(ours(sampler, level.denoiser, level.grid, x, noise), path)
