"""How far the shapes of molecules are from those of others: lengths, angles, and the shares of atoms and bonds."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from modalities.molecules.elements import HEAVIEST

_BASE = HEAVIEST + 1  # the numbers of the atoms of a bond or an angle are the digits of its kind
FEW = 10  # a kind of bond or angle seen less often has no distribution to speak of
Kinds = tuple[Int64[Tensor, " k"], Float[Tensor, " k"]]


def bond_lengths(
    positions: Float[Tensor, "b n 3"], numbers: Int64[Tensor, "b n"], orders: Int64[Tensor, "b n n"]
) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"], Float[Tensor, " k"]]:
    """Of every bond: its kind (the two elements, whichever comes first), its order, its length in angstrom."""
    molecule, i, j = orders.triu(1).nonzero().unbind(1)
    kind = _pair(numbers[molecule, i], numbers[molecule, j])
    length = (positions[molecule, i] - positions[molecule, j]).norm(dim=1)
    return kind, orders[molecule, i, j], length


def bond_angles(
    positions: Float[Tensor, "b n 3"], numbers: Int64[Tensor, "b n"], orders: Int64[Tensor, "b n n"]
) -> Kinds:
    """Of every two bonds that share an atom: their kind (its element and those of the ends), their angle in degrees."""
    molecule, centre, end = (orders > 0).nonzero().unbind(1)  # sorted: the bonds of one atom follow one another
    atom = molecule * numbers.shape[1] + centre
    later = torch.searchsorted(atom, atom, right=True) - torch.arange(len(atom)) - 1  # further bonds of this atom
    one = torch.arange(len(atom)).repeat_interleave(later)
    other = one + 1 + torch.arange(len(one)) - (later.cumsum(0) - later).repeat_interleave(later)
    arms = positions[molecule, end] - positions[molecule, centre]
    arms = arms / arms.norm(dim=1, keepdim=True).clamp(min=1e-12)
    kind = numbers[molecule, centre][one] * _BASE**2 + _pair(*(numbers[molecule, end][bond] for bond in (one, other)))
    # by the half-angle, exact also where the cosine is flat
    angle = 2 * torch.atan2((arms[one] - arms[other]).norm(dim=1), (arms[one] + arms[other]).norm(dim=1))
    return kind, angle.rad2deg()


def _pair(a: Tensor, b: Tensor) -> Tensor:
    return torch.minimum(a, b) * _BASE + torch.maximum(a, b)


def distance_by_kind(ours: Kinds, real: Kinds) -> float | None:
    """The Wasserstein distance of values of one kind, averaged over kinds by their shares in the real data.

    Over the kinds that both have at least `FEW` values of, None if there is no such kind: what is missing or new
    is not seen here but in the `total_variation` of the kinds.
    """
    total = weight = 0.0
    for kind, count in zip(*real[0].unique(return_counts=True), strict=True):
        mine = ours[1][ours[0] == kind]
        if min(len(mine), count) >= FEW:
            total += count.item() * wasserstein(mine, real[1][real[0] == kind])
            weight += count.item()
    return total / weight if weight else None


def wasserstein(a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> float:
    r"""$\int |F_a(x) - F_b(x)| dx$ of the two distribution functions: how far values must be moved, on average."""
    a, b = a.double().sort().values, b.double().sort().values
    x = torch.cat([a, b]).sort().values
    F_a, F_b = (torch.searchsorted(values, x[:-1], right=True).double() / len(values) for values in (a, b))
    return ((F_a - F_b).abs() * x.diff()).sum().item()


def total_variation(a: Int64[Tensor, " n"], b: Int64[Tensor, " m"]) -> float | None:
    """Half the sum of the differences of the shares: 0 for equal shares, 1 for no kind in common. None without any."""
    if not len(a) or not len(b):
        return None
    kinds, where = torch.cat([a, b]).unique(return_inverse=True)
    shares = [index.bincount(minlength=len(kinds)).double() / len(index) for index in where.split([len(a), len(b)])]
    return ((shares[0] - shares[1]).abs().sum() / 2).item()
