"""Laws of guidance where the truth is known: mixtures of Gaussians and their exact denoisers, gradients of a log p.

The flow that guided samples follow is integrated here a second time, from densities alone: in log-SNR l a
variance-preserving schedule has dx / dl = sigma^2 / 2 (x + score), and the guided score is u + w (c - u).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
import torch
from conftest import SCHEDULES, each, gaussian, known
from torch import Tensor, nn

from core import times
from core.batch import Batch, expand
from core.denoiser import Denoiser
from core.guidance import ClassifierFree, ClassifierGuided, Interval
from core.prediction import Sample
from core.samplers import DDIM, Heun, Sampler, UniPC, sample
from core.schedules import Cosine, Schedule

MEANS = torch.tensor([[-1.0, 0.2], [0.8, -0.6], [0.3, 1.1]], dtype=torch.float64)  # of the classes, in the plane
SDS = torch.tensor([0.4, 0.6, 0.5], dtype=torch.float64)
SHORT = Cosine(log_snr_min=-7.0, log_snr_max=7.0)


class Mixture(nn.Module):
    """E[x_0 | x_t, label] for equally frequent Gaussian classes, or E[x_0 | x_t] where the label is dropped."""

    def __init__(self, means: Tensor = MEANS, sds: Tensor = SDS) -> None:
        super().__init__()
        self.means, self.sds, self.rows = means, sds, 0

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        self.rows += len(x)
        alpha, sigma = (c[:, None] for c in SHORT.alpha_sigma(c_noise))
        means, sds = self.means.to(x), self.sds.to(x)
        var = alpha**2 * sds**2 + sigma**2  # (B, classes)
        off = x[:, None] - alpha[..., None] * means
        log_p = -(off**2).sum(-1) / (2 * var) - x.shape[1] / 2 * var.log()
        posterior = torch.nn.functional.one_hot(cond["label"], len(means)).to(x)
        if "drop" in cond:
            posterior = torch.where(cond["drop"][:, None], log_p.softmax(1), posterior)
        of_class = means + (alpha * sds**2 / var)[..., None] * off
        return (posterior[..., None] * of_class).sum(1)


def mixture(schedule: Schedule = SHORT) -> Denoiser:
    return Denoiser(Mixture(), schedule, Sample())


def labelled(n: int, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch.full(torch.zeros(n, 2, dtype=dtype), {"label": torch.arange(n) % 3})


def test_what_is_kept_is_no_condition_to_be_guided_by() -> None:
    """One pass of the network without conditions; with one, both passes are told what is kept."""
    seen: list[dict[str, Tensor]] = []

    def network(x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        seen.append(cond)
        return x

    keep, x_t, t = torch.eye(2), torch.zeros(2, 2), torch.full((2,), 0.5)
    bare = Denoiser(nn.Module(), SHORT, Sample())
    bare.network.forward = network  # type: ignore[method-assign]
    guided, mask = ClassifierFree(bare, 3.0), torch.ones(2, 1)
    guided(x_t, t, mask, {"keep": keep})
    guided(x_t, t, mask, {"keep": keep, "label": torch.tensor([0, 1])})
    ClassifierFree(bare, 3.0, {"label": 1})(x_t, t, mask, {"keep": keep})
    assert [len(cond["keep"]) for cond in seen] == [2, 4, 4]
    assert torch.equal(seen[1]["keep"], torch.cat([keep, keep]))
    assert torch.equal(seen[2]["keep"], torch.cat([keep, keep]))


# ---- samples follow the guided flow


def score(x: Tensor, log_snr: float, label: Tensor | None) -> Tensor:
    """The gradient of the log-density of noisy data: of a class each, or of all of them."""
    alpha2 = 1 / (1 + math.exp(-log_snr))
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        var = alpha2 * SDS**2 + 1 - alpha2
        log_p = -((x[:, None] - alpha2**0.5 * MEANS) ** 2).sum(-1) / (2 * var) - var.log()
        log_p = log_p.logsumexp(1) if label is None else log_p.gather(1, label[:, None])
        return torch.autograd.grad(log_p.sum(), x)[0]


NOISE = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@cache
def integrated(scale: float, steps: int = 120) -> Tensor:
    """From NOISE at its end to the data's by the classical Runge-Kutta method, and to x_0 by Tweedie's formula."""
    x, label = NOISE, labelled(12).cond["label"]

    def guided(y: Tensor, log_snr: float) -> Tensor:
        u = score(y, log_snr, None)
        return u + scale * (score(y, log_snr, label) - u)

    def slope(y: Tensor, log_snr: float) -> Tensor:
        return (y + guided(y, log_snr)) / (2 * (1 + math.exp(log_snr)))

    at, end = SHORT.ends
    h = (end - at) / steps
    for _ in range(steps):
        k1 = slope(x, at)
        k2 = slope(x + h / 2 * k1, at + h / 2)
        k3 = slope(x + h / 2 * k2, at + h / 2)
        k4 = slope(x + h * k3, at + h)
        x, at = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), at + h
    sigma2 = 1 / (1 + math.exp(end))
    return (x + sigma2 * guided(x, end)) / (1 - sigma2) ** 0.5


@pytest.mark.parametrize(
    ("sampler", "steps", "error"),
    [(DDIM(), 1000, 1e-2), (Heun(), 150, 1e-3), (UniPC(3), 80, 1e-3)],
    ids=["ddim", "heun", "unipc"],
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_samples_follow_the_guided_flow(sampler: Sampler, steps: int, error: float, scale: float) -> None:
    guided, template = ClassifierFree(mixture(), scale), labelled(12)
    found = sample(guided, sampler, template, times.LogSNR(steps)(SHORT), start=NOISE)
    assert float((found - integrated(scale)).abs().max()) < error


def test_the_integration_is_exact_and_tells_scales_apart() -> None:
    torch.testing.assert_close(integrated(2.0), integrated(2.0, steps=240), rtol=0, atol=1e-5)
    for one, other in pairwise((0.0, 1.0, 2.0)):
        assert float((integrated(one) - integrated(other)).abs().max()) > 0.1


def test_an_interval_is_a_flow_that_changes_its_field_twice() -> None:
    """Steps of DDIM, each with the denoiser of its noise level."""
    low, high = 0.5, 3.0
    template, grid = labelled(6), times.LogSNR(200)(SHORT)
    start = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = sample(Interval(ClassifierFree(mixture(), 3.0), low, high), DDIM(), template, grid, start=start)

    x = start
    for t, s in pairwise(grid):
        sigma = float(torch.exp(-SHORT.log_snr(t) / 2))
        inside = ClassifierFree(mixture(), 3.0 if low <= sigma <= high else 1.0)
        x0 = inside(x, t.expand(6), template.mask, template.cond).x0
        (alpha_t, sigma_t), (alpha_s, sigma_s) = SHORT(t), SHORT(s)
        x = alpha_s * x0 + sigma_s * (x - alpha_t * x0) / sigma_t
    torch.testing.assert_close(found, x)


# ---- gradients: what is exact


MEAN, SD = 0.7, 0.5


def linear(direction: Tensor) -> Callable[[Tensor, Tensor, object], Tensor]:
    return lambda x0, mask, cond: (direction * x0).flatten(1).sum(1)


def setting(schedule: Schedule, n: int = 5, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """(x_t, t, a direction)."""
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(n, width, dtype=torch.float64, generator=generator)
    return x_t, torch.linspace(0.1, 1.0, n, dtype=torch.float64), torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@each(SCHEDULES, "schedule")
def test_a_linear_log_p_moves_a_gaussian_exactly(schedule: Schedule, scale: float) -> None:
    """N(mean, sd^2) times exp(a x_0) is N(mean + sd^2 a, sd^2): the guided denoiser is its exact one."""
    x_t, t, a = setting(schedule)
    mask = torch.ones(5, 1, dtype=torch.float64)
    guided = ClassifierGuided(known(schedule, gaussian(MEAN, SD)), linear(a), scale)
    moved = known(schedule, gaussian(MEAN + scale * SD**2 * a, SD))
    torch.testing.assert_close(guided(x_t, t, mask, {}).x0, moved(x_t, t, mask, {}).x0, rtol=1e-8, atol=1e-8)


@each(SCHEDULES, "schedule")
def test_a_measurement_gives_the_score_of_its_formula(schedule: Schedule) -> None:
    """log N(y; a x_0, tau^2) adds k a (y - a x_0) / tau^2, k = d x_0 / d x_t, as in Dhariwal & Nichol 2021, eq. 14."""
    x_t, t, a = setting(schedule)
    mask, y, tau = torch.ones(5, 1, dtype=torch.float64), 1.3, 0.8

    def log_prob(x0: Tensor, mask: Tensor, cond: object) -> Tensor:
        return -((y - x0 @ a) ** 2) / (2 * tau**2)

    plain = known(schedule, gaussian(MEAN, SD))
    x0, guided = (d(x_t, t, mask, {}).x0 for d in (plain, ClassifierGuided(plain, log_prob, 1.5)))
    alpha, sigma = (expand(c, x_t) for c in schedule(t))
    k = alpha * SD**2 / (alpha**2 * SD**2 + sigma**2)
    slope = 1.5 * k * a * (y - x0 @ a)[:, None] / tau**2
    eps, eps_guided = ((x_t - alpha * x) / sigma for x in (x0, guided))
    torch.testing.assert_close(eps_guided, eps - sigma * slope, rtol=1e-7, atol=1e-7)


def test_samples_of_a_linear_log_p_are_those_of_the_moved_gaussian() -> None:
    a, grid = torch.tensor([0.5, -1.0], dtype=torch.float64), times.Uniform(20)(SHORT)
    template = Batch.full(torch.zeros(8, 2, dtype=torch.float64))
    guided = ClassifierGuided(known(SHORT, gaussian(MEAN, SD)), linear(a), 2.0)
    moved = known(SHORT, gaussian(MEAN + 2 * SD**2 * a, SD))
    for sampler in (DDIM(1.0), UniPC(3)):
        torch.testing.assert_close(sample(guided, sampler, template, grid), sample(moved, sampler, template, grid))


def test_a_classifier_of_data_tends_to_the_true_one_as_the_noise_goes() -> None:
    """Where the classes are Gaussians: what it adds to the unconditional answer, against what the condition adds."""
    template, x0 = labelled(6), torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)

    def log_prob(x: Tensor, mask: Tensor, cond: dict) -> Tensor:
        log_p = -((x[:, None] - MEANS) ** 2).sum(-1) / (2 * SDS**2) - 2 * SDS.log()
        return log_p.log_softmax(1).gather(1, cond["label"][:, None])[:, 0]

    dropped = {**template.cond, "drop": torch.ones(6, dtype=torch.bool)}
    errors = []
    for log_snr in (3.0, 5.0, 7.0):
        t = SHORT.inverse(torch.tensor(log_snr, dtype=torch.float64)).expand(6)
        x_t = float(SHORT(t[0])[0]) * x0
        c, u = (mixture()(x_t, t, template.mask, cond).x0 for cond in (template.cond, dropped))
        guided = ClassifierGuided(mixture(), log_prob)(x_t, t, template.mask, dropped).x0
        errors.append(float((guided - c).norm() / (c - u).norm()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.02


def test_a_gradient_around_a_gradient_goes_through_it() -> None:
    """A linear log p around a measurement: its slope is J b with J = k - k^2 sigma^2 / alpha a a^T / tau^2."""
    x_t, t, a = setting(SHORT)
    b, tau, mask = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64), 0.8, torch.ones(5, 1, dtype=torch.float64)

    def measured(x0: Tensor, mask: Tensor, cond: object) -> Tensor:
        return -((1.3 - x0 @ a) ** 2) / (2 * tau**2)

    inner = ClassifierGuided(known(SHORT, gaussian(MEAN, SD)), measured)
    found = ClassifierGuided(inner, linear(b))(x_t, t, mask, {}).x0 - inner(x_t, t, mask, {}).x0
    alpha, sigma = (expand(c, x_t) for c in SHORT(t))
    k = alpha * SD**2 / (alpha**2 * SD**2 + sigma**2)
    slope = k * b - k**2 * sigma**2 / alpha * a * (a @ b) / tau**2
    torch.testing.assert_close(found, sigma**2 / alpha * slope)


def test_linear_log_ps_around_each_other_add_up() -> None:
    x_t, t, a = setting(SHORT)
    mask, data = torch.ones(5, 1, dtype=torch.float64), known(SHORT, gaussian(MEAN, SD))
    once = ClassifierGuided(data, linear(3 * a))
    twice = ClassifierGuided(ClassifierGuided(data, linear(a)), linear(a), 2.0)
    torch.testing.assert_close(once(x_t, t, mask, {}).x0, twice(x_t, t, mask, {}).x0)
