"""Where a modality's samples live: the image of an orthogonal projector P.

Noise is P randn, the network's output is projected, the loss is divided by tr P. Images have P = I, padded waveforms
P = mask, molecules P = mask and zero centre of mass. Every sampler's step is linear in x, so it stays inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import is_full


class Projector(Protocol):
    def project(self, x: Tensor, mask: Tensor) -> Tensor: ...


class Space:
    """The image of P = P^2 = P^T; `mask` (broadcastable to x) is 1 on real elements."""

    def project(self, x: Float[Tensor, "b *s"], mask: Float[Tensor, "b *m"]) -> Float[Tensor, "b *s"]:
        """P x."""
        raise NotImplementedError

    def dim(self, x: Float[Tensor, "b *s"], mask: Float[Tensor, "b *m"]) -> Float[Tensor, " b"]:
        """tr P of each sample: its true degrees of freedom."""
        raise NotImplementedError

    def randn_like(self, x: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """Standard normal noise of the space, P `noise`, from standard normal `noise` shaped like x."""
        return self.project(noise.to(x.dtype), mask)

    def restrict(self, keep: Float[Tensor, "b *k"]) -> Restricted:
        """The projector K onto the part where `keep` is 1; K P = K, so that x + K (y - x) stays in the space."""
        return Restricted(self, keep)

    def beside(self, keep: Float[Tensor, "b *k"] | None) -> Space:
        """The space of what is still free where the part that `keep` marks is known, of P - K; itself for None."""
        return self if keep is None else Beside(self, keep)


@dataclass(frozen=True)
class Restricted:
    """The projector of `space` over the kept elements alone; see `Space.restrict`."""

    space: Space
    keep: Tensor

    def project(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.space.project(x, mask * self.keep)


@dataclass(frozen=True)
class Beside(Space):
    """P - K, a projector too, since K P = P K = K. Without a centre, the kept points move as one against the others."""

    space: Space
    keep: Tensor

    def project(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.space.project(x, mask) - self.space.restrict(self.keep).project(x, mask)

    def dim(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.space.dim(x, mask) - self.space.dim(x, mask * self.keep)


class Euclidean(Space):
    """All of R^n, or the coordinates that the mask leaves: P = mask."""

    def project(self, x: Tensor, mask: Tensor) -> Tensor:
        # a mask of one number a sample can only be 1: nothing to multiply
        return x if is_full(mask) else x * mask

    def dim(self, x: Tensor, mask: Tensor) -> Tensor:
        per_element = x[0].numel() / max(mask[0].numel(), 1)
        return mask.flatten(1).sum(1) * per_element


class ZeroCentreOfMass(Space):
    """Points x: (B, N, C) whose first `columns` columns (the coordinates) have zero mean over the real points.

    mask: (B, N, 1), or (B, N, C) with equal coordinate columns. tr P = (n - 1) * columns + n * (C - columns).
    """

    def __init__(self, columns: int = 3) -> None:
        self.columns = columns

    def project(self, x: Tensor, mask: Tensor) -> Tensor:
        x, mask = x * mask, mask.expand(x.shape[:2] + mask.shape[2:])
        points, real = x[..., : self.columns], mask[..., : self.columns]
        mean = points.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        centred = (points - mean) * real
        return torch.cat([centred, x[..., self.columns :]], dim=-1)

    def dim(self, x: Tensor, mask: Tensor) -> Tensor:
        real = mask.expand_as(x)
        # each coordinate column of a sample with at least one point loses one degree of freedom: its mean
        return real.flatten(1).sum(1) - real[..., : self.columns].amax(1).sum(1)
