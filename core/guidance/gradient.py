"""Guidance by the gradient of a function of the denoised data: a classifier, a property, a loss, a measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import expand
from core.denoiser import BaseDenoiser, Cond
from core.guidance.wrapper import Wrapper
from core.reverse import Denoised

X = Float[Tensor, "b *s"]
LogProb = Callable[[X, Tensor, Cond], Float[Tensor, " b"]]  # (x_0, mask, cond) -> log p(y | x_0), up to a constant


def with_slope(
    denoiser: BaseDenoiser,
    x_t: X,
    t: Float[Tensor, " b"],
    mask: Float[Tensor, "b *m"],
    cond: Cond,
    log_prob: Callable[[X], Float[Tensor, " b"]],
) -> tuple[Denoised, X]:
    """What the denoiser says, and the gradient of log_prob(x_0) in x_t, through the denoiser.

    Both without a graph, unless x_t itself has one: so one gradient can be taken around another.
    """
    nested = torch.is_grad_enabled() and x_t.requires_grad
    with torch.enable_grad():
        x = x_t if nested else x_t.detach().requires_grad_()
        denoised = denoiser(x, t, mask, cond)
        (slope,) = torch.autograd.grad(log_prob(denoised.x0).sum(), x, create_graph=nested)
    if nested:
        return denoised, slope
    fraction = denoised.var_fraction
    return Denoised(denoised.x0.detach(), None if fraction is None else fraction.detach()), slope


def tilted(denoiser: BaseDenoiser, denoised: Denoised, slope: X, t: Float[Tensor, " b"], mask: Tensor) -> Denoised:
    """x_0 + sigma^2 / alpha slope: what a score that is larger by `slope` says of the data (Tweedie's formula)."""
    alpha, sigma = (expand(c, slope) for c in denoiser.schedule(t))
    return replace(denoised, x0=denoiser.space.project(denoised.x0 + sigma**2 / alpha * slope, mask))


class ClassifierGuided(Wrapper):
    """The score plus `scale` times the gradient of log p(y | x_0) in x_t: Dhariwal & Nichol 2021, eq. 14.

    Where the paper has a classifier of noisy data, here stands p(y | x_0) at the denoised data: Chung et al. 2023
    (diffusion posterior sampling). It is exact where log p is linear in x_0 and the data is one Gaussian, and tends to
    the truth as the noise goes.

    log_prob: any differentiable function of (x_0, mask, cond) that gives one number a sample: a classifier's log p, or
    minus a loss. It is called on the denoised data in diffusion coordinates. Each call of the denoiser becomes a
    forward and a backward pass.
    """

    def __init__(self, denoiser: BaseDenoiser, log_prob: LogProb, scale: float = 1.0) -> None:
        super().__init__(denoiser)
        self.log_prob, self.scale = log_prob, scale

    def forward(self, x_t: X, t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond) -> Denoised:
        if self.scale == 0:
            return self.denoiser(x_t, t, mask, cond)

        def log_prob(x0: X) -> Float[Tensor, " b"]:
            return self.scale * self.log_prob(x0, mask, cond)

        denoised, slope = with_slope(self.denoiser, x_t, t, mask, cond, log_prob)
        return tilted(self, denoised, slope, t, mask)
