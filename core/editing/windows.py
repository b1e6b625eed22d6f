"""Samples larger than in training: overlapping windows, denoised together (MultiDiffusion, Bar-Tal et al. 2023)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from core.denoiser import BaseDenoiser, Cond
from core.guidance import Wrapper
from core.reverse import Denoised
from core.space import Euclidean


class Windows(Wrapper):
    """x_0 of each place is the mean of what the windows over it say, those in whose middle it lies counting more.

    size: of a window along axis `dim` of x, what the denoiser takes. stride: between two windows, half of the size
    unless given; the last one ends where x ends. Two wrappers tile two axes. All windows of a step are one batch.
    """

    def __init__(self, denoiser: BaseDenoiser, size: int, dim: int, stride: int | None = None) -> None:
        super().__init__(denoiser)
        self.size, self.dim, self.stride = size, dim, max(1, size // 2) if stride is None else stride
        if not 1 <= self.stride <= size:
            raise ValueError(f"stride={self.stride}: must lie between 1 and size={size}")
        if not isinstance(denoiser.space, Euclidean):
            raise ValueError(f"windows need a Euclidean space, not {type(denoiser.space).__name__}")

    def forward(
        self, x_t: Float[Tensor, "b *s"], t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond
    ) -> Denoised:
        length = x_t.shape[self.dim]
        if length <= self.size:
            return self.denoiser(x_t, t, mask, cond)
        starts = [*range(0, length - self.size, self.stride), length - self.size]
        many = len(starts)
        windows = torch.cat([x_t.narrow(self.dim, start, self.size) for start in starts])
        masks = [mask.narrow(self.dim, start, self.size) if mask.shape[self.dim] > 1 else mask for start in starts]
        said = self.denoiser(
            windows,
            t.repeat(many),
            torch.cat(masks),
            {name: torch.cat([value] * many) for name, value in cond.items()},
        )
        return Denoised(self._blended(said.x0.chunk(many), starts, x_t))

    def _blended(self, answers: tuple[Tensor, ...], starts: list[int], x_t: Tensor) -> Tensor:
        shape = [1] * x_t.ndim
        shape[self.dim] = self.size
        middle = (self.size + 1) / 2
        places = torch.arange(1, self.size + 1, dtype=x_t.dtype, device=x_t.device)
        weight = (middle - (places - middle).abs()).reshape(shape)  # a triangle
        total, x0 = torch.zeros_like(x_t), torch.zeros_like(x_t)
        for start, answer in zip(starts, answers, strict=True):
            x0.narrow(self.dim, start, self.size).add_(weight * answer)
            total.narrow(self.dim, start, self.size).add_(weight)
        return x0 / total
