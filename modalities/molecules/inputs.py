"""What every network on molecules does first: its input taken apart, and positions told from their centre."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from core.space import ZeroCentreOfMass

POSITIONS = 3  # columns, before the features


class Atoms(NamedTuple):
    """positions: in angstrom, from the centre of each molecule; the mask has a number for each atom, of x's type."""

    positions: Float[Tensor, "b n 3"]
    features: Float[Tensor, "b n f"]
    mask: Float[Tensor, "b n 1"]


def atoms(x: Float[Tensor, "b n columns"], mask: Float[Tensor, "b n_or_1 1"], features: int, scale: float) -> Atoms:
    """x's parts. scale: angstrom for one unit of its positions. ValueError for another shape than (B, N, 3 + features).

    The mask of molecules without padding may be (B, 1, 1). Far from the origin differences of positions would lose
    digits, and a network must not see where a molecule is.
    """
    if x.ndim != 3 or x.shape[-1] != POSITIONS + features:
        raise ValueError(f"x has shape {tuple(x.shape)}; this network wants (batch, atoms, {POSITIONS + features})")
    mask = mask.to(x.dtype).expand(-1, x.shape[1], -1)
    positions, others = x.split([POSITIONS, features], dim=-1)
    return Atoms(centred(positions, mask) * scale, others, mask)


def centred(positions: Float[Tensor, "b n 3"], mask: Float[Tensor, "b n 1"]) -> Float[Tensor, "b n 3"]:
    """Positions from the mean of the real atoms; 0 in padding."""
    return ZeroCentreOfMass(POSITIONS).project(positions, mask)
