"""x_0 kept within the range that data has."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.batch import expand
from core.denoiser import BaseDenoiser, Cond
from core.guidance.wrapper import Wrapper
from core.reverse import Denoised


class Clipped(Wrapper):
    """x_0 clipped to [low, high], the codec's range: Ho et al. 2020's reference code does it at every step.

    low, high: numbers, or tensors that broadcast against x (a range of its own for each column, say).
    """

    low: Tensor
    high: Tensor

    def __init__(self, denoiser: BaseDenoiser, low: float | Tensor, high: float | Tensor) -> None:
        super().__init__(denoiser)
        for name, bound in (("low", low), ("high", high)):
            self.register_buffer(name, torch.as_tensor(bound).to(_home(denoiser)), persistent=False)
        wide = self.low < self.high
        if not bool(wide.all()):
            worst = [float(bound.expand(wide.shape)[~wide][0]) for bound in (self.low, self.high)]
            raise ValueError(f"cannot clip to [{worst[0]:g}, {worst[1]:g}]")

    def forward(
        self, x_t: Float[Tensor, "b *s"], t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond
    ) -> Denoised:
        denoised = self.denoiser(x_t, t, mask, cond)
        # clipping is not linear: back into the space
        x0 = denoised.x0
        return replace(denoised, x0=self.space.project(x0.clamp(self.low.to(x0.dtype), self.high.to(x0.dtype)), mask))


class DynamicThreshold(Clipped):
    """x_0 clipped to the given quantile of its own size and scaled back into the range: Saharia et al. 2022, 2.3.

    The quantile is taken of |x_0 - centre| / half the range in each sample and is never less than 1, so that samples
    that lie within the range stay as they are.
    """

    def __init__(
        self, denoiser: BaseDenoiser, low: float | Tensor, high: float | Tensor, quantile: float = 0.995
    ) -> None:
        super().__init__(denoiser, low, high)
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile={quantile}: must lie in (0, 1]")
        self.quantile = quantile

    def forward(
        self, x_t: Float[Tensor, "b *s"], t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond
    ) -> Denoised:
        denoised = self.denoiser(x_t, t, mask, cond)
        low, high = self.low.to(denoised.x0.dtype), self.high.to(denoised.x0.dtype)
        centre, half = (low + high) / 2, (high - low) / 2
        offset = (denoised.x0 - centre) / half
        # padding counts as missing, not as zeros that would lower the quantile
        sizes = torch.where(mask.expand_as(offset) > 0, offset.abs(), torch.nan).flatten(1)
        bound = expand(torch.nanquantile(sizes.float(), self.quantile, dim=1).clamp(min=1), offset)
        x0 = centre + half * offset.clamp(-bound, bound) / bound
        return replace(denoised, x0=self.space.project(x0, mask))


def _home(denoiser: nn.Module) -> torch.device | None:
    """Where the denoiser's weights lie; None for one without any."""
    return next((parameter.device for parameter in denoiser.parameters()), None)
