"""Guidance around guidance: answers stay in the space, samples apart from each other, and nothing is asked twice."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import SPACES, each, random_mask
from torch import Tensor, nn

from core import times
from core.batch import Batch, expand
from core.denoiser import BaseDenoiser, Denoiser
from core.guidance import (
    Autoguided,
    ClassifierFree,
    ClassifierGuided,
    Clipped,
    DynamicThreshold,
    Interval,
    Rescaled,
    Wrapper,
)
from core.prediction import Velocity
from core.reverse import Denoised
from core.samplers import DDIM, UniPC, sample
from core.schedules import Cosine
from core.space import Space, ZeroCentreOfMass

SHORT = Cosine(log_snr_min=-7.0, log_snr_max=7.0)


def labelled(n: int, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch.full(torch.zeros(n, 2, dtype=dtype), {"label": torch.arange(n) % 3})


class Bent(nn.Module):
    """A network that is neither linear nor confined to a space; it answers a null condition, and twice if asked."""

    def __init__(self, seed: int = 0, learned: bool = False) -> None:
        super().__init__()
        self.phase, self.learned, self.rows = seed / 3, learned, 0
        self.weight = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        self.rows += len(x)
        label = cond.get("label", torch.full((len(x),), -1.0)).to(x.dtype)
        label = torch.where(cond.get("drop", torch.zeros(len(x), dtype=torch.bool)), -1.0, label)
        y = self.weight.to(x.dtype) * torch.sin(2 * x + expand(label, x) + self.phase) + 0.3 * x
        return torch.cat([y, torch.cos(x + expand(label, x))], dim=1) if self.learned else y


def bent(space: Space | None = None, seed: int = 0) -> Denoiser:
    return Denoiser(Bent(seed), SHORT, Velocity(), space)


def pulled(x0: Tensor, mask: Tensor, cond: object) -> Tensor:
    """A log p of every element, with bounded slopes."""
    return (torch.sin(2 * x0 + 0.4) * mask).flatten(1).sum(1)


MAKERS: dict[str, Callable[[BaseDenoiser], Wrapper]] = {
    "classifier_free": lambda d: ClassifierFree(d, 3.0),
    "negative": lambda d: ClassifierFree(d, 3.0, {"label": 2}),
    "rescaled": lambda d: Rescaled(d, 3.0, 0.7),
    "autoguided": lambda d: Autoguided(d, bent(d.space, seed=1), 2.5),
    "gradient": lambda d: ClassifierGuided(d, pulled, 0.7),
    "clipped": lambda d: Clipped(ClassifierFree(d, 3.0), -0.8, 0.8),
    "threshold": lambda d: DynamicThreshold(Rescaled(d, 3.0), -0.8, 0.8, 0.9),
    "interval": lambda d: Interval(Rescaled(d, 3.0), 0.5, 2.0),
    "nested": lambda d: ClassifierGuided(Interval(ClassifierFree(d, 3.0), 0.5, 2.0), pulled, 0.3),
    "two_gradients": lambda d: ClassifierGuided(ClassifierGuided(d, pulled, 0.3), pulled, 0.2),
}
each_maker = each(MAKERS, "make")


@each(SPACES, "space")
@each_maker
def test_every_answer_stays_in_the_space(make: Callable[[BaseDenoiser], Wrapper], space: Space) -> None:
    mask, generator = random_mask([2, 5, 6, 6], 6), torch.Generator().manual_seed(0)
    x_t = space.project(torch.randn(4, 6, 5, dtype=torch.float64, generator=generator), mask)
    t = torch.tensor([0.2, 0.5, 0.6, 0.95], dtype=torch.float64)
    wrapped = make(bent(space))
    with torch.no_grad():
        x0, plain = (d(x_t, t, mask, {"label": torch.arange(4)}).x0 for d in (wrapped, bent(space)))
    torch.testing.assert_close(space.project(x0, mask), x0)
    assert float((x0 - plain).abs().max()) > 0.01
    if isinstance(space, ZeroCentreOfMass):  # samples too, for a sampler that remembers
        template = Batch(torch.zeros_like(x_t), mask, {"label": torch.arange(4)})
        found = sample(wrapped, UniPC(3), template, times.Uniform(6)(SHORT))
        torch.testing.assert_close(space.project(found, mask), found)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@each_maker
def test_a_batch_is_its_samples(make: Callable[[BaseDenoiser], Wrapper], dtype: torch.dtype, error: float) -> None:
    """16 at once and 4 times 4 of them; the numbers keep their type."""
    template, grid = labelled(16, dtype), times.Uniform(6)(SHORT)
    at_once = sample(make(bent()), DDIM(0.5), template, grid)
    rows = torch.arange(16).split(4)
    parts = [sample(make(bent()), DDIM(0.5), template[part], grid, indices=part) for part in rows]
    assert at_once.dtype == dtype
    torch.testing.assert_close(at_once, torch.cat(parts), rtol=0, atol=error)


@each_maker
def test_no_graph_is_left(make: Callable[[BaseDenoiser], Wrapper]) -> None:
    template, t = labelled(4), torch.linspace(0.2, 0.9, 4, dtype=torch.float64)
    wrapped = make(bent())
    with torch.no_grad():
        denoised = wrapped(template.x, t, template.mask, template.cond)
    assert denoised.x0.grad_fn is None
    assert not denoised.x0.requires_grad
    assert all(parameter.grad is None for parameter in wrapped.parameters())
    assert torch.is_grad_enabled()


def test_a_gradient_needs_no_graph_of_its_caller() -> None:
    template, t = labelled(4), torch.linspace(0.2, 0.9, 4, dtype=torch.float64)
    wrapped = ClassifierGuided(bent(), pulled)
    denoised = wrapped(template.x, t, template.mask, template.cond)
    assert denoised.x0.grad_fn is None
    with torch.no_grad():
        torch.testing.assert_close(denoised.x0, wrapped(template.x, t, template.mask, template.cond).x0, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_autoguidance_is_its_formula(scale: float) -> None:
    """Karras et al. 2024: w + scale (d - w), for d and the weaker w."""
    template, t = labelled(4), torch.linspace(0.2, 0.9, 4, dtype=torch.float64)
    better, worse = bent(), bent(seed=1)
    with torch.no_grad():
        d, w, found = (
            one(template.x, t, template.mask, template.cond).x0
            for one in (better, worse, Autoguided(better, worse, scale))
        )
    assert float((d - w).abs().max()) > 0.1
    torch.testing.assert_close(found, w + scale * (d - w))


def test_two_intervals_are_their_common_part() -> None:
    template, t = labelled(9), torch.linspace(0.1, 0.95, 9, dtype=torch.float64)
    x_t = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    both = Interval(Interval(ClassifierFree(bent(), 3.0), 0.3, 2.0), 0.8, 4.0)
    common = Interval(ClassifierFree(bent(), 3.0), 0.8, 2.0)
    found, wanted = (d(x_t, t, template.mask, template.cond).x0 for d in (both, common))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    guided, plain = (d(x_t, t, template.mask, template.cond).x0 for d in (ClassifierFree(bent(), 3.0), bent()))
    sigma = torch.exp(-SHORT.log_snr(t) / 2)
    inside = (sigma >= 0.8) & (sigma <= 2.0)
    assert 0 < int(inside.sum()) < 9
    torch.testing.assert_close(wanted, torch.where(inside[:, None], guided, plain))


def test_an_interval_leaves_what_its_guidance_is_around() -> None:
    """A gradient in an interval, around classifier-free guidance that holds everywhere."""
    template, t = labelled(4), torch.full((4,), 0.05, dtype=torch.float64)
    free = ClassifierFree(bent(), 3.0)
    outside = Interval(ClassifierGuided(free, pulled), sigma_min=1.0)
    found, wanted = (d(template.x + 0.3, t, template.mask, template.cond).x0 for d in (outside, free))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


# ---- what is evaluated


def rows_of(make: Callable[[BaseDenoiser], BaseDenoiser], steps: int = 10) -> tuple[float, float]:
    """Rows a sample of the network, and of the weaker one where there is one."""
    denoiser = bent()
    wrapped = make(denoiser)
    sample(wrapped, DDIM(), labelled(4), times.LogSNR(steps)(SHORT))
    weaker = [
        module.rows for module in wrapped.modules() if isinstance(module, Bent) and module is not denoiser.network
    ]
    return denoiser.network.rows / 4, sum(weaker) / 4


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (lambda d: d, (10, 0)),
        (lambda d: ClassifierFree(d, 1.0), (10, 0)),
        (lambda d: ClassifierFree(d, 3.0), (20, 0)),
        (lambda d: ClassifierFree(d, 3.0, {"label": 1}), (20, 0)),
        (lambda d: Rescaled(d, 3.0), (20, 0)),
        (lambda d: Autoguided(d, bent(seed=1)), (10, 10)),
        (lambda d: Autoguided(d, bent(seed=1), 1.0), (10, 0)),
        (lambda d: ClassifierGuided(d, pulled), (10, 0)),
        (lambda d: ClassifierGuided(ClassifierFree(d, 3.0), pulled), (20, 0)),
        (lambda d: Interval(ClassifierFree(d, 3.0), sigma_min=1.0), (15, 0)),
        (lambda d: Interval(ClassifierFree(d, 3.0), sigma_max=1e-3), (10, 0)),
        (lambda d: Interval(Autoguided(d, bent(seed=1)), sigma_max=1.0), (10, 5)),
    ],
)
def test_the_network_is_asked_as_often_as_it_must(make: Callable, rows: tuple[int, int]) -> None:
    """The grid's ten times before the data lie symmetrically about sigma = alpha: five above 1 and five below."""
    assert rows_of(make) == rows


# ---- the standard deviation of rescaled guidance


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_rescaling_is_its_formula_over_the_real_elements(share: float) -> None:
    """Lin et al. 2024, section 3.4, in plain numbers for each sample."""
    mask, generator = random_mask([2, 5, 6], 6), torch.Generator().manual_seed(0)
    denoiser, label = bent().requires_grad_(False), torch.arange(3)
    x_t, t = torch.randn(3, 6, 4, dtype=torch.float64, generator=generator) * mask, torch.full((3,), 0.6).double()
    free, found = (
        d(x_t, t, mask, {"label": label}).x0 for d in (ClassifierFree(denoiser, 4.0), Rescaled(denoiser, 4.0, share))
    )
    conditional = denoiser(x_t, t, mask, {"label": label}).x0
    for c, guided, got, real in zip(conditional, free, found, mask.expand_as(x_t) > 0, strict=True):
        ratio = c[real].std(correction=0) / guided[real].std(correction=0)
        torch.testing.assert_close(got, share * ratio * guided + (1 - share) * guided)
        if share == 1:
            torch.testing.assert_close(got[real].std(correction=0), c[real].std(correction=0))
    assert float((free - conditional).abs().max()) > 0.1


def test_rescaling_ignores_padding() -> None:
    label, outputs = torch.tensor([1]), []
    x = torch.randn(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for length in (3, 8):
        x_t = torch.zeros(1, length, 4, dtype=torch.float64)
        x_t[:, :3] = x
        mask, t = random_mask([3], length), torch.tensor([0.5], dtype=torch.float64)
        outputs.append(Rescaled(bent(), 4.0, 1.0)(x_t, t, mask, {"label": label}).x0[:, :3])
    torch.testing.assert_close(*outputs)


# ---- learned variances, and what is refused


@each({name: make for name, make in MAKERS.items() if name != "autoguided"}, "make")
def test_a_learned_variance_is_the_conditional_one(make: Callable[[BaseDenoiser], Wrapper]) -> None:
    class Spread(BaseDenoiser):
        """An answer whose variance tells the condition."""

        schedule, space = SHORT, SPACES["euclidean"]

        def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: dict) -> Denoised:
            drop = cond.get("drop", torch.zeros(len(x_t), dtype=torch.bool))
            label = torch.where(drop, -1, cond["label"]).to(x_t)[:, None]
            return Denoised(torch.sin(x_t + label), label.expand_as(x_t) + 0 * x_t)

    template, t = labelled(4), torch.tensor([0.2, 0.5, 0.6, 0.95], dtype=torch.float64)
    fraction = make(Spread())(template.x, t, template.mask, template.cond).var_fraction
    assert fraction is not None
    torch.testing.assert_close(fraction.detach(), template.cond["label"][:, None].expand(4, 2).double())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Interval(bent()), TypeError, "an interval needs guidance within it"),
        (lambda: Interval(ClassifierFree(bent()), 2.0, 2.0), ValueError, "need 0 <= sigma_min < sigma_max"),
        (lambda: Interval(ClassifierFree(bent()), -1.0), ValueError, "sigma_min=-1"),
        (lambda: Interval(ClassifierFree(bent()), 0.0, math.nan), ValueError, "sigma_max=nan"),
        (lambda: Rescaled(bent(), 3.0, 1.5), ValueError, r"share=1.5: must lie in \[0, 1\]"),
    ],
)
def test_impossible_guidance_is_refused(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_negative_condition_must_be_one_of_the_samples() -> None:
    template, t = labelled(3), torch.full((3,), 0.5, dtype=torch.float64)
    wrapped = ClassifierFree(bent(), 3.0, {"gap": 2.0})
    with pytest.raises(ValueError, match="negative conditions gap: these samples have label"):
        wrapped(template.x, t, template.mask, template.cond)
