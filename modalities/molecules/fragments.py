"""Parts of molecules to be kept in training: of all sizes and shapes, so that a network learns to go on from any."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from core import random

TWO = 0.2  # share of parts that grow from two atoms, as the ends that a linker joins
ROUGHNESS = 0.8  # how much a part's outline differs from a ball


def fragments(
    positions: Float[Tensor, "b n 3"],
    heavy: Float[Tensor, "b n 1"],
    mask: Float[Tensor, "b n 1"],
    u: Float[Tensor, "b 4"],
) -> Float[Tensor, "b n 1"]:
    """1 at the atoms of a part of each molecule, never all of it; u: uniform numbers from which it follows.

    The atoms nearest to one atom or to two, by distances that are stretched at random. One third of the parts have
    heavy atoms alone, one third the hydrogens of their heavy atoms too, one third whatever lies near.
    """
    real, h = mask[..., 0] > 0, heavy[..., 0] > 0
    n = positions.shape[1]
    r = random.uniform(random.keys(0, (u[:, 0] * 2**23).long(), device=u.device), (n + 1,)).to(positions)
    d = torch.cdist(positions, positions)
    first, second = (_one_of(real, share) for share in (u[:, 1], r[:, n] / TWO % 1))
    rows = torch.arange(len(d), device=d.device)
    near = torch.where((r[:, n] < TWO)[:, None], torch.minimum(d[rows, first], d[rows, second]), d[rows, first])
    stretched = near * (1 + ROUGHNESS * (r[:, :n] - 0.5))
    own = d.masked_fill(~h[:, None], torch.inf).argmin(2)  # of each hydrogen, its heavy atom; of a heavy one, itself
    kind = (3 * u[:, 2]).long()[:, None]
    candidates = torch.where(kind == 2, real, h)
    order = stretched.masked_fill(~candidates, torch.inf).argsort(1).argsort(1)
    wanted = 1 + (u[:, 3] * candidates.sum(1)).long()
    chosen = (order < wanted[:, None]) & candidates
    chosen = torch.where(kind == 1, chosen.gather(1, own) & real & h.any(1, keepdim=True), chosen)
    whole = (chosen | ~real).all(1, keepdim=True)
    return (chosen & ~whole).to(mask)[..., None]


def _one_of(real: Tensor, share: Tensor) -> Tensor:
    """The number of one of each molecule's atoms, which come first."""
    n = real.sum(1)
    return torch.minimum((share * n).long(), n - 1)
