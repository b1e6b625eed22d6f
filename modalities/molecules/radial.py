"""Functions of the distance between two atoms, as networks are told it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

FIRST, LAST = 0.6, 2.8  # centres, in sqrt(angstrom): .36 and 7.8 angstrom


def distances(r: Float[Tensor, "*edges 3"]) -> Float[Tensor, "*edges"]:
    """|r|, raised by less than 1e-4 where it is 0, so that coincident atoms have a gradient."""
    return (r.square().sum(-1) + 1e-8).sqrt()


def gaussians(d: Float[Tensor, "*edges"], number: int) -> Float[Tensor, "*edges number"]:
    """At least two Gaussians of sqrt(d), each as wide as they are apart: so they are narrower in d where bonds are."""
    centres = torch.linspace(FIRST, LAST, number, dtype=d.dtype, device=d.device)
    exponent = -0.5 * ((d.sqrt()[..., None] - centres) * ((number - 1) / (LAST - FIRST))) ** 2
    return exponent.clamp(min=-40).exp()  # subnormal numbers are slow
