"""What guidance has in common, and guidance at some noise levels only."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import expand
from core.denoiser import BaseDenoiser, Cond
from core.reverse import Denoised


class Wrapper(BaseDenoiser):
    """A denoiser around another, with its schedule and space."""

    def __init__(self, denoiser: BaseDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule, self.space = denoiser.schedule, denoiser.space

    @property
    def bare(self) -> BaseDenoiser:
        """What is left without it."""
        return self.denoiser


class Interval(Wrapper):
    """Guidance where sigma / alpha lies in [sigma_min, sigma_max], and none elsewhere: Kynkaanniemi et al. 2024.

    denoiser: the guidance, which may be around another that stays everywhere. Outside nothing is spent on it.
    """

    denoiser: Wrapper

    def __init__(self, denoiser: Wrapper, sigma_min: float = 0.0, sigma_max: float = math.inf) -> None:
        super().__init__(denoiser)
        if not isinstance(denoiser, Wrapper):
            raise TypeError(
                f"an interval needs guidance within it, such as ClassifierFree, not {type(denoiser).__name__}"
            )
        if not 0 <= sigma_min < sigma_max:
            raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: need 0 <= sigma_min < sigma_max")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    @property
    def bare(self) -> BaseDenoiser:
        return self.denoiser.bare

    def forward(
        self, x_t: Float[Tensor, "b *s"], t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond
    ) -> Denoised:
        sigma = torch.exp(-self.schedule.log_snr(t) / 2)  # sigma / alpha
        inside = (sigma >= self.sigma_min) & (sigma <= self.sigma_max)
        count = int(inside.sum())
        if count == 0:
            return self.bare(x_t, t, mask, cond)
        guided: Denoised = self.denoiser(x_t, t, mask, cond)
        if count == len(inside):
            return guided
        bare = self.bare(x_t, t, mask, cond)
        return Denoised(torch.where(expand(inside, x_t) > 0, guided.x0, bare.x0), guided.var_fraction)
