"""What is known stays: sampling with a part of x_0 given (Lugmayr et al. 2022, eq. 8; Song et al. 2021, appendix I)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from core import random
from core.batch import Batch
from core.denoiser import BaseDenoiser


@dataclass(frozen=True)
class Known:
    """After each step, the kept part of x_s is replaced by that of the known data at the same noise level.

    x_s + K (y_s - x_s), with y_s ~ q(y_s | known) and K the space's projector onto the kept part: so the sample stays
    in the space. Every step takes fresh noise, a function of (seed, sample, s).

    known: in diffusion coordinates; its values matter where `keep` is 1. keep: broadcastable to x.
    """

    denoiser: BaseDenoiser
    known: Batch
    keep: Float[Tensor, "b *k"]
    seed: int
    indices: Int[Tensor, " b"]

    def __call__(self, x_s: Float[Tensor, "b *s"], s: Float[Tensor, ""]) -> Float[Tensor, "b *s"]:
        space, mask, known = self.denoiser.space, self.known.mask, self.known.x
        # s names the step: 32 bits tell all times of a grid apart
        key = random.keys(self.seed, random.Stream.KNOWN, self.indices, int(float(s) * 2**32), device=x_s.device)
        eps = space.randn_like(x_s, mask, random.normal(key, x_s.shape[1:], x_s.dtype))
        y_s = self.denoiser.q_sample(self.known, s.to(x_s), eps) if s > 0 else known
        return x_s + space.restrict(self.keep).project(y_s - x_s, mask)
