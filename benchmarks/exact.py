"""A denoiser that is exact: data is a mixture of equal, round Gaussians, in any space."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import expand
from core.denoiser import BaseDenoiser, Cond
from core.reverse import Denoised
from core.schedules import Cosine, Schedule
from core.space import Euclidean, Space


class Mixture(BaseDenoiser):
    """Data sum_k weight_k N(centre_k, std^2 P), with P the space's projector: E[x_0 | x_t] in closed form.

    centres: (K, *S), in the space. weights: (K,), of sum 1.
    """

    def __init__(
        self,
        centres: Float[Tensor, "k *s"],
        weights: Float[Tensor, " k"],
        std: float,
        space: Space | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        self.space, self.schedule = space or Euclidean(), schedule or Cosine(-12.0, 12.0)
        whole = torch.ones_like(centres[:, :1, :1]) if centres.ndim > 2 else torch.ones_like(centres[:, :1])
        self.centres, self.weights, self.std = self.space.project(centres, whole), weights, std

    def forward(
        self, x_t: Float[Tensor, "b *s"], t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond
    ) -> Denoised:
        alpha, sigma = (expand(c, x_t) for c in self.schedule(t))
        var = alpha**2 * self.std**2 + sigma**2
        off = x_t[:, None] - (alpha[:, None] * self.centres[None])  # (B, K, *S)
        logits = self.weights.log() - (off**2).flatten(2).sum(2) / (2 * var.flatten(1))
        share = logits.softmax(1).reshape(logits.shape + (1,) * (x_t.ndim - 1))
        gain = alpha * self.std**2 / var
        return Denoised((share * (self.centres[None] + gain[:, None] * off)).sum(1))
