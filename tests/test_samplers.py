"""DDIM and DDPM step for step against index arrays in NumPy, and laws of the one sampling loop."""

from __future__ import annotations

import inspect
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, SPACES, each, gaussian, known, random_mask
from torch import Tensor, nn

from core import samplers, times
from core.batch import Batch
from core.denoiser import BaseDenoiser, Denoiser
from core.prediction import Epsilon
from core.reverse import Denoised, Large, LogInterpolated, Small
from core.samplers import (
    DDIM,
    DDPM,
    AdamsBashforth,
    Denoise,
    DPMSolverPP,
    Heun,
    PredictorCorrector,
    Sampler,
    UniPC,
    sample,
)
from core.schedules import BetaTable, Cosine, LinearBeta

T = 1000
SAMPLERS: dict[str, Sampler] = {
    "ddpm_small": DDPM(),
    "ddpm_large": DDPM(Large()),
    "ddim_0": DDIM(),
    "ddim_half": DDIM(0.5),
    "ddim_1": DDIM(1.0),
    "heun": Heun(),
    "heun_churn": Heun(churn=0.3, churn_max=20.0, churn_noise=1.003),
    "dpmpp_1": DPMSolverPP(1),
    "dpmpp_2": DPMSolverPP(),
    "dpmpp_3": DPMSolverPP(3),
    "dpmpp_sde_1": DPMSolverPP(1, sde=True),
    "dpmpp_sde_2": DPMSolverPP(sde=True),
    "dpmpp_sde_3_half": DPMSolverPP(3, sde=0.5),
    "unipc_2": UniPC(2),
    "unipc_3": UniPC(),
    "unip_3": UniPC(corrector=False),
    "adams_bashforth": AdamsBashforth(),
    "pndm": AdamsBashforth(equal_steps=True),
    "predictor_corrector": PredictorCorrector(),
    "predictor_corrector_2": PredictorCorrector(Heun(), corrections=2),
}
each_sampler, each_schedule = each(SAMPLERS, "sampler"), each(SCHEDULES, "schedule")


def eps_theta(x, step):
    """A made-up noise predictor, of NumPy arrays or tensors: not linear in x, and of the step."""
    return x / (1 + x**2) + 0.3 * x + 0.001 * step - 0.4


class StepNetwork(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        return eps_theta(x, c_noise[:, None])


def step_denoiser(schedule: BetaTable) -> Denoiser:
    return Denoiser(StepNetwork(), schedule, Epsilon(num_steps=schedule.num_steps))


def ours(sampler, schedule: BetaTable, grid: times.Times, x: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
    """x after each step, from given noise."""
    x_t = torch.tensor(x)
    denoise, state, path = Denoise(step_denoiser(schedule), Batch.full(x_t)), None, []
    for (t, s), eps in zip(pairwise(grid(schedule)), torch.tensor(noise), strict=False):
        x_t, state = sampler.step(denoise, x_t, t, s, state, lambda eps=eps: eps)
        path.append(x_t.numpy())
    return path


def ddim_by_index(betas, steps, eta: float, x: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
    """Song et al. 2021, eq. 12 and 16, `steps` being increasing 0-based indices of the table."""
    alpha_bar = np.append(np.cumprod(1 - np.asarray(betas)), 1.0)  # index -1 is the data
    path = []
    for i, j, z in zip(steps[::-1], [*steps[-2::-1], -1], noise, strict=False):
        a, a_prev = alpha_bar[i], alpha_bar[j]
        sigma = eta * np.sqrt((1 - a_prev) / (1 - a)) * np.sqrt(1 - a / a_prev)
        eps = eps_theta(x, i)
        x_0 = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
        x = np.sqrt(a_prev) * x_0 + np.sqrt(1 - a_prev - sigma**2) * eps + sigma * z  # sigma is 0 at the last step
        path.append(x)
    return path


def ddpm_by_index(betas, large: bool, x: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
    """Ho et al. 2020, algorithm 2."""
    alpha_bar, path = np.cumprod(1 - betas), []
    for i, z in zip(range(len(betas))[::-1], noise, strict=False):
        mean = (x - betas[i] / np.sqrt(1 - alpha_bar[i]) * eps_theta(x, i)) / np.sqrt(1 - betas[i])
        small = betas[i] * (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i]) if i else 0.0
        x = mean + np.sqrt(betas[i] if large else small) * z * (i > 0)
        path.append(x)
    return path


def unwanted() -> Tensor:
    """The noise of a step that needs none."""
    raise AssertionError("the last step adds no noise")


def start(steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, 4)), rng.standard_normal((steps, 3, 4))


def same(path: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(path) == len(wanted)
    for x, y in zip(path, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-9)


def test_every_sampler_is_tested():
    found = {c for _, c in inspect.getmembers(samplers, inspect.isclass) if hasattr(c, "step") and c is not Sampler}
    assert {type(s) for s in SAMPLERS.values()} == found


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
def test_ddim_step_for_step(grid, steps, eta):
    x, noise = start(len(steps))
    schedule = LinearBeta(T)
    wanted = ddim_by_index(np.linspace(1e-4, 0.02, T), steps, eta, x, noise)
    same(ours(DDIM(eta), schedule, grid, x, noise), wanted)


@pytest.mark.parametrize("large", [False, True])
def test_ddpm_step_for_step(large):
    betas = np.linspace(1e-3, 0.2, 60)
    x, noise = start(60)
    path = ours(DDPM(Large() if large else Small()), BetaTable(betas), times.Uniform(60), x, noise)
    same(path, ddpm_by_index(betas, large, x, noise))


@each_schedule
def test_ddpm_is_ddim_with_eta_one(schedule):
    """On the same noise, and on any grid."""
    denoiser = known(schedule, lambda x, alpha, sigma: torch.tanh(x))
    template = Batch.full(torch.zeros(3, 4, dtype=torch.float64))
    paths = [sample(denoiser, sampler, template, times.Uniform(12)(schedule)) for sampler in (DDPM(), DDIM(1.0))]
    torch.testing.assert_close(*paths, rtol=1e-9, atol=1e-9)


class Recording(Denoise):
    """Remembers where it was asked, and its last answer."""

    def __init__(self, denoiser: BaseDenoiser, batch: Batch) -> None:
        super().__init__(denoiser, batch)
        self.asked: list[Tensor] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Denoised:
        self.asked.append(t)
        self.last = super().__call__(x_t, t)
        return self.last


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_sampler
@each_schedule
def test_the_last_step_returns_the_denoised_data_exactly(schedule, sampler, dtype):
    """At one evaluation and with no noise, but for what Heun's churn adds before it."""
    denoiser = known(schedule, lambda x, alpha, sigma: torch.tanh(x))
    x_t = torch.randn(3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    noise = (lambda: torch.ones_like(x_t)) if getattr(sampler, "churn", 0) else unwanted
    for t in (torch.tensor(1e-3, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)):
        denoise = Recording(denoiser, Batch.full(x_t))
        x_s, _ = sampler.step(denoise, x_t, t, torch.zeros_like(t), None, noise)
        assert x_s.dtype == dtype
        assert torch.equal(x_s, denoise.last.x0)
        assert denoise.nfe == 1


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_is_a_share(eta):
    with pytest.raises(ValueError, match="eta"):
        DDIM(eta)


# --- the loop ---


class Mixing(nn.Module):
    """A network in which every element of a sample depends on all of it, but on no other sample."""

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        total = (x * mask).flatten(1).sum(1)[:, None, None]
        return torch.sin(x + total + c_noise[:, None, None] / 7 + cond["label"][:, None, None])


def request(size: int, dtype: torch.dtype) -> Batch:
    mask = random_mask([2 + i % 4 for i in range(size)], 5, dtype)
    return Batch(torch.zeros(size, 5, 4, dtype=dtype), mask, {"label": torch.arange(size)})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@each(SPACES, "space")
@each_sampler
def test_a_batch_size_changes_no_sample(sampler, space, dtype, tolerance):
    denoiser, whole = Denoiser(Mixing(), Cosine(), Epsilon(), space), request(7, dtype)
    grid = times.LogSNR(10)(Cosine())
    together = sample(denoiser, sampler, whole, grid, seed=3, indices=torch.arange(100, 107))
    for rows in (torch.tensor([2]), torch.tensor([5, 0, 3])):
        apart = sample(denoiser, sampler, whole[rows], grid, seed=3, indices=100 + rows)
        torch.testing.assert_close(apart, together[rows], atol=tolerance, rtol=tolerance)


@each_sampler
def test_other_seeds_and_other_indices_give_other_samples(sampler):
    denoiser, one = Denoiser(Mixing(), Cosine(), Epsilon()), request(1, torch.float64)
    grid = times.LogSNR(5)(Cosine())
    draws = [
        sample(denoiser, sampler, one, grid, seed=seed, indices=torch.tensor([i])) for seed in (0, 1) for i in (0, 1)
    ]
    for i, x in enumerate(draws):
        assert all(float((x - y).abs().max()) > 1e-3 for y in draws[:i])


@each_sampler
def test_the_values_of_the_template_are_not_read(sampler):
    denoiser, empty = Denoiser(Mixing(), Cosine(), Epsilon()), request(3, torch.float64)
    filled = empty.with_x(torch.full_like(empty.x, float("nan")))
    grid = times.Uniform(4)(Cosine())
    assert torch.equal(sample(denoiser, sampler, empty, grid), sample(denoiser, sampler, filled, grid))


@each_schedule
def test_sampling_starts_at_the_marginal_of_unit_data(schedule):
    """One step of a denoiser that hands back x_t shows the start."""
    denoiser = known(schedule, lambda x, alpha, sigma: x)
    template = Batch.full(torch.zeros(200, 50, dtype=torch.float64))
    start = sample(denoiser, DDIM(), template, times.LogSNR(1)(schedule))
    alpha, sigma = schedule(times.LogSNR(1)(schedule)[0])
    assert float(start.std()) == pytest.approx(float((alpha**2 + sigma**2).sqrt()), rel=4 / (2 * 10000) ** 0.5)


def test_callback_and_constraint_see_every_step():
    denoiser, template = known(Cosine(), gaussian(0, 1)), Batch.full(torch.zeros(2, 3, dtype=torch.float64))
    grid, seen = times.Uniform(5)(Cosine()), []
    x = sample(
        denoiser,
        DDIM(),
        template,
        grid,
        constrain=lambda x, s: x.clone().index_fill_(1, torch.tensor([0]), float(s) + 1),
        callback=lambda i, s, x: seen.append((i, float(s), float(x[0, 0]))),
    )
    assert [i for i, _, _ in seen] == [0, 1, 2, 3, 4, 5]  # 0 is the noise
    assert [s for _, s, _ in seen] == pytest.approx(grid.tolist())
    assert all(value == s + 1 for _, s, value in seen[1:])
    assert x[:, 0].tolist() == [1, 1]


@each(SPACES, "space")
def test_a_constraint_cannot_leave_the_space(space):
    denoiser, template = Denoiser(Mixing(), Cosine(), Epsilon(), space), request(3, torch.float64)
    x = sample(denoiser, DDIM(), template, times.LogSNR(5)(Cosine()), constrain=lambda x, s: x + 1)
    torch.testing.assert_close(space.project(x, template.mask), x)


def test_evaluations_are_counted():
    denoise = Denoise(known(Cosine(), gaussian(0, 1)), Batch.full(torch.zeros(2, 3)))
    for t in (0.9, 0.5, 0.1):
        denoise(torch.zeros(2, 3), torch.tensor(t))
    assert denoise.nfe == 3


@pytest.mark.parametrize("wrong", [[1.0], [0.0, 1.0], [1.0, 1.0, 0.0], [1.5, 0.0], [0.5, -0.1]])
def test_times_that_are_no_grid_are_refused(wrong):
    denoiser = known(Cosine(), gaussian(0, 1))
    with pytest.raises(ValueError, match="times must decrease"):
        sample(denoiser, DDIM(), Batch.full(torch.zeros(1, 2)), torch.tensor(wrong))


def test_a_learned_variance_samples_between_the_fixed_ones():
    """With the fraction 0 it is `Small`, with 1 `Large` (no noise is added in the last step)."""

    class WithFraction(nn.Module):
        def __init__(self, fraction: float) -> None:
            super().__init__()
            self.inner, self.fraction = known(Cosine(), gaussian(0.3, 0.7)), fraction
            self.schedule, self.space = self.inner.schedule, self.inner.space

        def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: dict) -> Denoised:
            x0 = self.inner(x_t, t, mask, cond).x0
            return Denoised(x0, torch.full_like(x0, self.fraction))

    template, grid = Batch.full(torch.zeros(4, 3, dtype=torch.float64)), times.Uniform(10)(Cosine())
    small, large = (sample(WithFraction(0.0), DDPM(v), template, grid) for v in (Small(), Large()))
    ends = [sample(WithFraction(f), DDPM(LogInterpolated()), template, grid) for f in (0.0, 1.0)]
    torch.testing.assert_close(ends[0], small)
    torch.testing.assert_close(ends[1], large)
    assert float((small - large).abs().max()) > 1e-2
