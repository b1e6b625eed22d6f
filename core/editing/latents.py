"""Between two samples: the noise that DDIM makes each of, mixed on the sphere (Song, Meng & Ermon 2021, sec. 5.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch, expand
from core.denoiser import BaseDenoiser
from core.samplers import DDIM, Callback, invert, sample

X = Float[Tensor, "b *s"]


def slerp(a: X, b: X, share: Float[Tensor, " b"]) -> X:
    """The way from a (share 0) to b (share 1) on the great circle of their directions, each sample its own."""
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1)).clamp(min=1e-12)
    angle = torch.arccos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
    of_a, of_b = torch.sin((1 - share) * angle) / torch.sin(angle), torch.sin(share * angle) / torch.sin(angle)
    return expand(of_a, a) * a + expand(of_b, b) * b


def interpolate(
    denoiser: BaseDenoiser,
    first: Batch,
    second: Batch,
    shares: Float[Tensor, " n"],
    times: Float[Tensor, " steps_plus_1"],
    *,
    refinements: int = 4,
    callback: Callback | None = None,
) -> Float[Tensor, "n *s"]:
    """Samples between `first` and `second`, of one sample each: share 0 is the first, 1 the second.

    Both are inverted to their noise at times[0], mixed by `slerp`, and sampled with `DDIM()` over the decreasing
    `times`, with the conditions of the nearer one. In diffusion coordinates; both have one shape and mask. callback:
    told of each step to the noise of both and back, see `sample`.
    """
    if len(first) != 1 or first.x.shape != second.x.shape or not torch.equal(first.mask, second.mask):
        shapes = f"{tuple(first.x.shape)} and {tuple(second.x.shape)}"
        raise ValueError(f"first and second must be one sample each, of one shape and mask, got {shapes}")
    if not bool(((shares >= 0) & (shares <= 1)).all()):
        raise ValueError(f"shares must lie in [0, 1], got {shares.tolist()}")
    n, rising = len(shares), times.flip(0)
    noise = [invert(denoiser, one, rising, refinements=refinements, callback=callback) for one in (first, second)]
    here, there = (x.expand(n, *x.shape[1:]) for x in noise)
    start = slerp(here, there, shares.to(here))
    nearer = (shares >= 0.5).long().to(start.device)
    cond = {name: torch.cat([first.cond[name], second.cond[name]])[nearer] for name in first.cond}
    template = Batch(start, first.mask.expand(n, *first.mask.shape[1:]), cond)
    return sample(denoiser, DDIM(), template, times, start=start, callback=callback)
