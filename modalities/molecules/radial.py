"""Functions of the distance between two atoms, as networks are told it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

FIRST, LAST = 0.6, 2.8  # centres, in sqrt(angstrom): .36 and 7.8 angstrom


def distances(r: Float[Tensor, "*edges 3"], dim: int = -1) -> Float[Tensor, "*edges"]:
    """|r|, in angstrom, raised by less than 1e-4 where it is 0, so that coincident atoms have a gradient.

    dim: the axis of the three coordinates.
    """
    return (r.square().sum(dim) + 1e-8).sqrt()


def centres(number: int, like: Tensor) -> Float[Tensor, " number"]:
    """Where the Gaussians are highest, in sqrt(angstrom)."""
    return torch.linspace(FIRST, LAST, number, dtype=like.dtype, device=like.device)


def steepness(number: int) -> float:
    """s of the Gaussians exp(-s^2 (sqrt(d) - centre)^2): their standard deviation is the distance of two centres."""
    return (number - 1) / (LAST - FIRST) / 2**0.5


def gaussians(
    d: Float[Tensor, "*edges"], number: int, dim: int = -1, heights: Float[Tensor, " number"] | None = None
) -> Float[Tensor, "*edges number"]:
    """At least two Gaussians of sqrt(d), each as wide as they are apart: so they are narrower in d where bonds are.

    d: in angstrom. dim: where their axis stands in the result. heights: their peaks, 1 unless given.
    """
    along = [1] * (d.ndim + 1)
    along[dim] = number
    scale = steepness(number)
    offset = (scale * d.sqrt()).unsqueeze(dim) - (scale * centres(number, d)).view(along)
    logs = d.new_zeros(number) if heights is None else heights.log()
    exponent = torch.addcmul(logs.view(along), offset, offset, value=-1)
    return exponent.clamp(min=-40).exp()  # numbers below float32's normal range slow a CPU down
