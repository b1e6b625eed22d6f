"""The field's rule: bonds from the distances of atoms alone, and which atoms they make stable.

Distances are compared with tables of typical bond lengths, and an atom is stable if the orders of its bonds sum to its
valence: the rule by which molecule generators on QM9 are compared (Hoogeboom et al. 2022, appendix E). It knows no
charges and no aromatic bonds, so even the data is not wholly stable by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core.batch import Batch
from modalities.molecules.elements import HEAVIEST, atomic_numbers, symbol_of
from modalities.molecules.elements import numbers as numbers_of

LENGTHS = {  # typical lengths of single, double and triple bonds, in pm
    1: "HH74 HC109 HN101 HO96 HF92 CC154 CN147 CO143 CF135 NN145 NO140 NF136 OO148 OF142 FF142",
    2: "CC134 CN129 CO120 NN125 NO121 OO121",
    3: "CC120 CN116 CO113 NN110",
}
MARGINS = {1: 10, 2: 5, 3: 3}  # how much longer than typical a bond may be, in pm
VALENCES = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}  # of the elements the tables know, by atomic number
_MOST = 16  # no element has a valence as high as this
_PAIRS = 2**20  # pairs of atoms at a time: they stay in the processor's caches


class Molecules(NamedTuple):
    """Some molecules and their bonds, on the CPU."""

    positions: Float[Tensor, "b n 3"]  # angstrom
    numbers: Int64[Tensor, "b n"]  # atomic numbers, 0 in the padding
    orders: Int64[Tensor, "b n n"]


def perceive(batch: Batch, elements: Sequence[str]) -> Iterator[Molecules]:
    """The molecules of a batch (B, N, 3 + elements) in order, a few at a time, with the bonds that the rule sees."""
    rows = max(1, _PAIRS // max(batch.x.shape[1], 1) ** 2)
    for x, mask in zip(batch.x.split(rows), batch.mask.split(rows), strict=True):
        numbers = numbers_of(x, mask, elements).cpu()
        positions = x[..., :3].float().cpu()
        yield Molecules(positions, numbers, bond_orders(positions, numbers))


def bond_orders(positions: Float[Tensor, "b n 3"], numbers: Int64[Tensor, "b n"]) -> Int64[Tensor, "b n n"]:
    """0, 1, 2 or 3 for each pair of atoms, symmetric; 0 in the padding and on the diagonal.

    positions: in angstrom. numbers: atomic numbers, 0 in the padding.
    An order is given where the distance is below (strictly) its limit and those of all lower orders. Pairs that the
    tables do not know, beyond H, C, N, O and F, have single bonds alone: up to the sum of RDKit's covalent radii and
    the same margin of 10 pm.
    """
    distance = torch.zeros(numbers.shape + numbers.shape[1:], dtype=positions.dtype, device=positions.device)
    for column in positions.unbind(-1):  # one axis at a time: a third of the memory
        distance.add_((column[:, :, None] - column[:, None, :]).square_())
    distance.sqrt_().diagonal(dim1=1, dim2=2).fill_(torch.inf)
    limits = _limits(_known(numbers)).to(distance)
    row, column = numbers[:, :, None], numbers[:, None, :]
    within = [distance < limit[row, column] for limit in limits]
    return within[0].long() + (within[0] & within[1]) + (within[0] & within[1] & within[2])


def stable_atoms(orders: Int64[Tensor, "b n n"], numbers: Int64[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """Which atoms have bonds whose orders sum to their valence; False in the padding.

    Elements other than H, C, N, O and F may have any of RDKit's valences (metals: whatever they have).
    """
    total = orders.sum(-1).clamp(max=_MOST)
    return _allowed(_known(numbers)).to(numbers.device)[numbers, total]


def stable_molecules(stable: Bool[Tensor, "b n"], numbers: Int64[Tensor, "b n"]) -> Bool[Tensor, " b"]:
    """Which molecules have at least one atom, and only stable ones."""
    return (stable | (numbers == 0)).all(1) & (numbers > 0).any(1)


def pieces(orders: Int64[Tensor, "b n n"]) -> Bool[Tensor, "b n n"]:
    """Which atoms are reached from which over bonds; each from itself.

    The relation of neighbours, squared as boolean matrices until paths of any length are in it.
    """
    reach = ((orders > 0) | torch.eye(orders.shape[1], dtype=torch.bool, device=orders.device)).float()
    for _ in range(max(orders.shape[1] - 1, 0).bit_length()):
        reach = ((reach @ reach) > 0).float()
    return reach.bool()


def connected(orders: Int64[Tensor, "b n n"], numbers: Int64[Tensor, "b n"]) -> Bool[Tensor, " b"]:
    """Which molecules are one piece. One without any atom is not."""
    return (largest_piece(orders, numbers) == (numbers > 0)).all(1) & (numbers > 0).any(1)


def largest_piece(orders: Int64[Tensor, "b n n"], numbers: Int64[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """The atoms of the piece with the most atoms; of equal ones, of that which has the first atom."""
    real = numbers > 0
    reach = pieces(orders) & real[:, None, :] & real[:, :, None]
    if not real.shape[1]:
        return real
    return reach[torch.arange(len(reach)), reach.sum(2).argmax(1)]


def _known(numbers: Tensor) -> bool:
    return {0, *numbers.unique().tolist()} <= {0, *VALENCES}


@cache
def _limits(known: bool) -> Float[Tensor, "3 n n"]:
    """The length in angstrom below which a pair of atomic numbers has each order; 0 where it never has.

    known: only H, C, N, O and F are needed, so RDKit is not.
    """
    table = torch.zeros(3, HEAVIEST + 1, HEAVIEST + 1, dtype=torch.float64)
    if not known:
        from rdkit.Chem import GetPeriodicTable

        radii = torch.tensor([GetPeriodicTable().GetRcovalent(n) for n in range(1, HEAVIEST + 1)], dtype=torch.float64)
        table[0, 1:, 1:] = radii[:, None] + radii + MARGINS[1] / 100
    for order, lengths in LENGTHS.items():
        for pair in lengths.split():
            one, other = atomic_numbers(pair[:2])
            limit = (int(pair[2:]) + MARGINS[order]) / 100
            table[order - 1, one, other] = table[order - 1, other, one] = limit
    return table


@cache
def _allowed(known: bool) -> Bool[Tensor, "n orders"]:
    """Whether an atom of each number may have each sum of bond orders."""
    table = torch.zeros(HEAVIEST + 1, _MOST + 1, dtype=torch.bool)
    if not known:
        from rdkit.Chem import GetPeriodicTable

        for n in range(1, HEAVIEST + 1):
            valences = list(GetPeriodicTable().GetValenceList(symbol_of(n)))
            table[n] = -1 in valences
            table[n, [v for v in valences if v >= 0]] = True
    for number, valence in VALENCES.items():
        table[number] = False
        table[number, valence] = True
    return table
