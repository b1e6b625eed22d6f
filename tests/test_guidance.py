"""Laws of guidance and clipping: the formula in x_0 and in eps, and answers that stay in range and in the space."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import SCHEDULES, SPACES, each, random_mask
from torch import Tensor, nn

from core.batch import Batch, expand
from core.denoiser import Denoiser
from core.guidance import ClassifierFree, Clipped, DynamicThreshold
from core.prediction import Epsilon, Sample, Velocity
from core.reverse import Denoised
from core.samplers import DDIM, sample
from core.schedules import Cosine
from core.times import Uniform


class Toy(nn.Module):
    """Answers with the label plus a function of x, or without the label where it is dropped; it records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict] = []

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        self.calls.append(dict(cond))
        label = cond.get("label", torch.zeros(len(x))).to(x.dtype)
        drop = cond.get("drop", torch.zeros(len(x), dtype=torch.bool))
        return torch.where(drop, -1.0, label).reshape(-1, *[1] * (x.ndim - 1)) * torch.cos(x) + torch.sin(2 * x)


def setting(prediction=None, schedule=None):
    denoiser = Denoiser(Toy(), schedule or Cosine(), prediction or Velocity())
    x_t = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64)
    return denoiser, x_t, t, Batch.full(x_t, {"label": torch.tensor([0, 1, 2, 3])})


def halves(denoiser, x_t, t, batch) -> tuple[Tensor, Tensor]:
    """(conditional, unconditional) x_0, each in a call of its own."""
    dropped = {**batch.cond, "drop": torch.ones(len(x_t), dtype=torch.bool)}
    return denoiser(x_t, t, batch.mask, batch.cond).x0, denoiser(x_t, t, batch.mask, dropped).x0


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("prediction", [Epsilon(), Sample(), Velocity()], ids=["epsilon", "sample", "velocity"])
@each(SCHEDULES, "schedule")
def test_classifier_free_is_its_formula_in_x0_and_in_eps(schedule, prediction, scale):
    denoiser, x_t, t, batch = setting(prediction, schedule)
    c, u = halves(denoiser, x_t, t, batch)
    guided = ClassifierFree(denoiser, scale)(x_t, t, batch.mask, batch.cond).x0
    torch.testing.assert_close(guided, u + scale * (c - u), rtol=1e-9, atol=1e-9)
    alpha, sigma = (expand(level, x_t) for level in schedule(t))
    eps_c, eps_u, eps = ((x_t - alpha * x0) / sigma for x0 in (c, u, guided))
    # Ho & Salimans 2022, eq. 6: (1 + w) eps_c - w eps_u with w = scale - 1
    torch.testing.assert_close(eps, scale * eps_c - (scale - 1) * eps_u, rtol=1e-8, atol=1e-8)


def test_scale_one_and_zero_are_the_two_models():
    denoiser, x_t, t, batch = setting()
    c, u = halves(denoiser, x_t, t, batch)
    assert torch.equal(ClassifierFree(denoiser, 1.0)(x_t, t, batch.mask, batch.cond).x0, c)
    torch.testing.assert_close(ClassifierFree(denoiser, 0.0)(x_t, t, batch.mask, batch.cond).x0, u)
    assert float((c - u).abs().max()) > 0.1


def test_the_network_is_told_whom_to_drop_in_one_call():
    denoiser, x_t, t, batch = setting()
    ClassifierFree(denoiser, 2.0)(x_t, t, batch.mask, batch.cond)
    (call,) = denoiser.network.calls
    assert call["drop"].tolist() == [False] * 4 + [True] * 4
    assert call["label"].tolist() == [0, 1, 2, 3] * 2


def test_a_sample_that_is_null_already_is_not_guided():
    denoiser, x_t, t, batch = setting()
    _, u = halves(denoiser, x_t, t, batch)
    cond = {**batch.cond, "drop": torch.tensor([True, False, True, False])}
    guided = ClassifierFree(denoiser, 3.0)(x_t, t, batch.mask, cond).x0
    torch.testing.assert_close(guided[::2], u[::2])
    assert bool(((guided - u)[1::2].abs().amax(1) > 0.1).all())


@pytest.mark.parametrize(("scale", "cond"), [(1.0, {"label": torch.arange(4)}), (3.0, {})], ids=["scale_1", "no_cond"])
def test_guidance_that_does_nothing_costs_nothing(scale, cond):
    denoiser, x_t, t, batch = setting()
    ClassifierFree(denoiser, scale)(x_t, t, batch.mask, cond)
    (call,) = denoiser.network.calls
    assert call.keys() == cond.keys()


class Wild(nn.Module):
    """A denoiser whose answer is what it is given."""

    def __init__(self, x0: Tensor, space) -> None:
        super().__init__()
        self.x0, self.space, self.schedule = x0, space, Cosine()

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: dict) -> Denoised:
        return Denoised(self.space.project(self.x0, mask))


def wild(
    space, low: float | Tensor, high: float | Tensor, wrapper, spread: float = 4.0
) -> tuple[Tensor, Tensor, Tensor]:
    """(x_0, what the wrapper makes of it, mask)."""
    mask = random_mask([2, 5, 6], 6)
    values = torch.randn(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inner = Wild((low + high) / 2 + spread * values, space)
    arguments = torch.zeros(3, 6, 5, dtype=torch.float64), torch.ones(3), mask, {}
    return inner(*arguments).x0, wrapper(inner, low, high)(*arguments).x0, mask


each_wrapper = pytest.mark.parametrize("wrapper", [Clipped, DynamicThreshold])


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 3.0)])
@each_wrapper
def test_clipped_answers_are_in_range(wrapper, low, high):
    x0, clipped, mask = wild(SPACES["euclidean"], low, high, wrapper)
    real = mask.expand_as(x0) > 0
    assert float(x0[real].max()) > high
    assert low - 1e-12 <= float(clipped[real].min())
    assert float(clipped[real].max()) <= high + 1e-12


@each(SPACES, "space")
@each_wrapper
def test_clipped_answers_are_in_the_space(wrapper, space):
    x0, clipped, mask = wild(space, -1.0, 1.0, wrapper)
    torch.testing.assert_close(space.project(clipped, mask), clipped)
    assert float((clipped - x0).abs().max()) > 1


@each_wrapper
def test_answers_within_the_range_stay(wrapper):
    x0, clipped, _ = wild(SPACES["euclidean"], -1.0, 1.0, wrapper, spread=0.1)
    torch.testing.assert_close(clipped, x0)


def test_clipping_is_the_clamp():
    x0, clipped, _ = wild(SPACES["euclidean"], -1.0, 1.0, Clipped)
    assert torch.equal(clipped, x0.clamp(-1, 1))


LOW, HIGH = torch.tensor([-1.0, 0.0, -3.0, -0.5, 1.0]), torch.tensor([1.0, 2.0, -2.0, 4.0, 1.5])


@each_wrapper
def test_each_column_has_its_own_range(wrapper):
    x0, clipped, mask = wild(SPACES["euclidean"], LOW, HIGH, wrapper)
    for column, (low, high) in enumerate(zip(LOW.tolist(), HIGH.tolist(), strict=True)):
        real = mask[..., 0] > 0
        x, got = x0[..., column][real], clipped[..., column][real]
        assert low - 1e-12 <= float(got.min())
        assert float(got.max()) <= high + 1e-12
        if wrapper is Clipped:
            assert torch.equal(got, x.clamp(low, high))
    assert not clipped[(mask == 0).expand_as(clipped)].any()


def test_ranges_of_columns_are_like_single_ranges():
    """On x_0 that is moved and scaled to the range of -1 to 1 in each column, and back."""
    centre, half = (LOW + HIGH) / 2, (HIGH - LOW) / 2
    for wrapper in (Clipped, DynamicThreshold):
        x0, clipped, mask = wild(SPACES["euclidean"], LOW, HIGH, wrapper)
        plain = Wild((x0 - centre) / half, SPACES["euclidean"])
        once = wrapper(plain, -1.0, 1.0)(torch.zeros_like(x0), torch.ones(3), mask, {}).x0
        real = mask.expand_as(x0) > 0
        torch.testing.assert_close(clipped[real], (centre + half * once)[real])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_wrapper
def test_ranges_keep_the_dtype_and_are_no_weights(wrapper, dtype):
    inner = Wild(torch.randn(3, 6, 5, dtype=dtype), SPACES["euclidean"])
    wrapped = wrapper(inner, LOW, HIGH)
    assert wrapped(torch.zeros(3, 6, 5, dtype=dtype), torch.ones(3), torch.ones(3, 1, 1), {}).x0.dtype == dtype
    assert wrapped.state_dict() == {}


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1.0])
def test_dynamic_threshold_is_saharia_et_al(quantile):
    """s = max(1, the quantile of |x_0| over the real elements); clip to [-s, s], divide by s."""
    x0, clipped, mask = wild(SPACES["euclidean"], -1.0, 1.0, lambda *a: DynamicThreshold(*a, quantile=quantile))
    for x, got, real in zip(x0, clipped, mask.expand_as(x0) > 0, strict=True):
        s = max(1.0, float(torch.quantile(x[real].abs(), quantile)))
        torch.testing.assert_close(got[real], x[real].clamp(-s, s) / s, rtol=1e-6, atol=1e-6)


def test_dynamic_threshold_ignores_padding():
    outputs = []
    for length in (3, 30):
        x0 = torch.zeros(1, length, 2, dtype=torch.float64)
        x0[:, :3] = torch.tensor([[0.5, -4.0], [2.0, 1.0], [3.0, -0.1]])
        wrapped = DynamicThreshold(Wild(x0, SPACES["euclidean"]), -1.0, 1.0, quantile=0.8)
        outputs.append(wrapped(torch.zeros_like(x0), torch.ones(1), random_mask([3], length), {}).x0[:, :3])
    assert torch.equal(*outputs)


def test_wrappers_compose_and_sample():
    denoiser, _, _, batch = setting()
    wrapped = DynamicThreshold(Clipped(ClassifierFree(denoiser, 3.0), -2.0, 2.0), -1.0, 1.0)
    x = sample(wrapped, DDIM(), batch, Uniform(6)(Cosine()))
    assert float(x.abs().max()) <= 1 + 1e-12
    assert wrapped.schedule is denoiser.schedule
    assert wrapped.space is denoiser.space


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: Clipped(d, 1.0, 1.0), r"^cannot clip to \[1, 1\]$"),
        (lambda d: Clipped(d, math.nan, 1.0), "cannot clip"),
        (lambda d: Clipped(d, LOW, LOW.maximum(torch.tensor(0.0))), r"^cannot clip to \[0, 0\]$"),  # the second column
        (lambda d: Clipped(d, -1.0, torch.tensor([[1.0], [-2.0]])), r"^cannot clip to \[-1, -2\]$"),
        (lambda d: DynamicThreshold(d, -1.0, 1.0, quantile=0.0), "quantile=0"),
        (lambda d: DynamicThreshold(d, -1.0, 1.0, quantile=1.1), "quantile=1.1"),
    ],
)
def test_impossible_ranges_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(setting()[0])
