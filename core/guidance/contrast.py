"""Guidance by two answers: away from a worse one, through a better one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import NO_CONDITIONS, expand
from core.denoiser import BaseDenoiser, Cond
from core.guidance.wrapper import Wrapper
from core.reverse import Denoised

X = Float[Tensor, "b *s"]


class ClassifierFree(Wrapper):
    """u + scale (c - u) for the conditional c and the unconditional u: Ho & Salimans 2022, eq. 6 (scale = 1 + w).

    negative: conditions that u has instead of none, by name, one value for all samples: what not to be like. Samples
    without conditions of their own are led away from it. Both answers come from one call on a doubled batch. scale = 1
    is the plain conditional model, at no extra cost. The formula is the same for x_0, eps and v, which are linear in
    each other.
    """

    def __init__(self, denoiser: BaseDenoiser, scale: float = 1.5, negative: Mapping[str, float] | None = None) -> None:
        super().__init__(denoiser)
        self.scale, self.negative = scale, dict(negative or {})

    def forward(self, x_t: X, t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond) -> Denoised:
        if self.scale == 1 or not (cond.keys() - NO_CONDITIONS or self.negative):
            return self.denoiser(x_t, t, mask, cond)
        c, u = self._conditions(cond, len(x_t), x_t.device)
        twice = {name: torch.cat([c[name], u[name]]) for name in c}
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([mask, mask]), twice)
        conditional, unconditional = both.x0.chunk(2)
        x0 = self._combined(conditional, unconditional, mask)
        return Denoised(x0, None if both.var_fraction is None else both.var_fraction.chunk(2)[0])

    def _conditions(self, cond: Cond, n: int, device: torch.device) -> tuple[Cond, Cond]:
        """Of c and of u, by the same names. A sample that is null stays so in c, and in u unless that is negative."""
        none = torch.zeros(n, dtype=torch.bool, device=device)
        if not self.negative:
            return {**cond, "drop": cond.get("drop", none)}, {**cond, "drop": ~none}
        if not cond.keys() - NO_CONDITIONS:
            other = {name: torch.full((n,), value, device=device) for name, value in self.negative.items()}
            return {**cond, **other, "drop": ~none}, {**cond, **other, "drop": none}
        if unknown := sorted(self.negative.keys() - cond.keys()):
            raise ValueError(f"negative conditions {', '.join(unknown)}: these samples have {', '.join(sorted(cond))}")
        other = {name: torch.full_like(cond[name], value) for name, value in self.negative.items()}
        return {**cond, "drop": cond.get("drop", none)}, {**cond, **other, "drop": none}

    def _combined(self, conditional: X, unconditional: X, mask: Tensor) -> X:
        return torch.lerp(unconditional, conditional, self.scale)


class Rescaled(ClassifierFree):
    """Classifier-free guidance whose answer is scaled towards the standard deviation of the conditional one.

    Lin et al. 2024, section 3.4: share = 1 takes all of it, 0 none. It keeps large scales from overshooting. The
    standard deviation is a sample's own, over its real elements.
    """

    def __init__(
        self,
        denoiser: BaseDenoiser,
        scale: float = 3.0,
        share: float = 0.7,
        negative: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(denoiser, scale, negative)
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: must lie in [0, 1]")
        self.share = share

    def _combined(self, conditional: X, unconditional: X, mask: Tensor) -> X:
        guided = super()._combined(conditional, unconditional, mask)
        ratio = _std(conditional, mask) / _std(guided, mask).clamp(min=1e-12)
        # scaling is linear: it stays in the space
        return guided * expand(1 + self.share * (ratio - 1), guided)


def _std(x: X, mask: Tensor) -> Float[Tensor, " b"]:
    """Of each sample, over its real elements."""
    real = mask.expand_as(x).flatten(1)
    flat, count = x.flatten(1), real.sum(1)
    mean = (flat * real).sum(1) / count
    return (((flat - mean[:, None]) ** 2 * real).sum(1) / count).sqrt()


class Autoguided(Wrapper):
    """w + scale (d - w): away from a weaker denoiser of the same task: Karras et al. 2024, autoguidance.

    weaker: smaller, or an earlier checkpoint of the same training; on the same schedule and space, with the same
    conditions.
    """

    def __init__(self, denoiser: BaseDenoiser, weaker: BaseDenoiser, scale: float = 2.0) -> None:
        super().__init__(denoiser)
        self.weaker, self.scale = weaker, scale

    def forward(self, x_t: X, t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond) -> Denoised:
        better = self.denoiser(x_t, t, mask, cond)
        if self.scale == 1:
            return better
        worse = self.weaker(x_t, t, mask, cond)
        return Denoised(torch.lerp(worse.x0, better.x0, self.scale), better.var_fraction)
