"""The variational bound on -log p(x) over a finite grid of times: Ho et al. 2020, eq. 5; Kingma et al. 2021, eq. 11."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core import random
from core.batch import Batch
from core.codec import Codec
from core.denoiser import BaseDenoiser
from core.process import q_x_t_given_x_0
from core.reverse import ReverseVariance, Small, bound_term


@dataclass(frozen=True)
class Bound:
    """Upper bound on -log p(x), in nats a sample (B,), by its parts; dim: the true degrees of freedom (B,)."""

    prior: Float[Tensor, " b"]
    diffusion: Float[Tensor, " b"]
    decoder: Float[Tensor, " b"]
    dim: Float[Tensor, " b"]

    @property
    def nats(self) -> Float[Tensor, " b"]:
        return self.prior + self.diffusion + self.decoder

    @property
    def bits_per_dim(self) -> Float[Tensor, " b"]:
        """Bits per true degree of freedom."""
        return self.nats / (self.dim * math.log(2))


@torch.no_grad()
def variational_bound(
    denoiser: BaseDenoiser,
    codec: Codec,
    batch: Batch,
    times: Float[Tensor, " steps_plus_1"],
    *,
    variance: ReverseVariance | None = None,
    seed: int = 0,
    indices: Int[Tensor, " b"] | None = None,
    callback: Callable[[int], None] | None = None,
) -> Bound:
    """L_T + sum L_{t-1} + L_0 on the grid `times` (decreasing to 0), each term with one draw of noise a sample.

    batch: data, before `codec.encode`; a lossy codec raises `LossyCodecError`. The data should be what the codec calls
    its own: for pixels, their integer levels. variance: of the reverse steps, the posterior's unless given.
    callback: told the number of terms done, after each.
    """
    encoded, variance = codec.encode(batch), variance or Small()
    x0, schedule, space = encoded.x, denoiser.schedule, denoiser.space
    dim = space.dim(x0, encoded.mask)
    # asked first: a lossy codec must refuse before the long sum, not after it
    codec.log_prob(encoded, x0, torch.ones_like(x0), dim)
    numbers = (torch.arange(len(x0)) if indices is None else indices).to(x0.device)
    terms = []
    for i, (t, s) in enumerate(pairwise(times)):
        key = random.keys(seed, random.Stream.LIKELIHOOD, numbers, i, device=x0.device)
        eps = space.randn_like(x0, encoded.mask, random.normal(key, x0.shape[1:], x0.dtype))
        x_t = denoiser.q_sample(encoded, t, eps)
        denoised = denoiser(x_t, t.to(x0).expand(len(x0)), encoded.mask, encoded.cond)
        terms.append(bound_term(schedule, space, codec, variance, encoded, x_t, denoised, s, t))
        if callback is not None:
            callback(i + 1)
    prior = prior_term(denoiser, encoded, times[0])
    return Bound(prior, torch.stack(terms[:-1] or [torch.zeros_like(dim)]).sum(0), terms[-1], dim)


def prior_term(denoiser: BaseDenoiser, encoded: Batch, t: Float[Tensor, ""]) -> Float[Tensor, " b"]:
    """KL(q(x_t | x_0) || N(0, alpha_t^2 + sigma_t^2)) in nats: how far q(x_1) is from the sampler's start."""
    x0 = encoded.x
    q = q_x_t_given_x_0(denoiser.schedule, x0, t)
    prior_var = torch.hypot(*denoiser.schedule(t)).square()
    dim = denoiser.space.dim(x0, encoded.mask)
    ratio = q.var / prior_var
    return 0.5 * ((q.mean**2 / prior_var).flatten(1).sum(1) + dim * (ratio - 1 - ratio.log()))
