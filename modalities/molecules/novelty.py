"""Which molecules are in the training data, without writing down the SMILES of all of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from core.batch import Batch
from modalities.molecules.bonds import Molecules, largest_piece, perceive
from modalities.molecules.chemistry import one_of, smiles_of

_ROUNDS = 4  # of neighbours of neighbours: how far each atom looks
_ODD = 0x5851F42D4C957F2D  # a multiplier of a linear congruential generator (Knuth's MMIX)


def graph_hash(molecules: Molecules) -> Int64[Tensor, " b"]:
    """A number for the largest piece of each molecule: equal for equal graphs, and almost always only for them.

    It is a hash of the elements and of who is bonded to whom, by rounds of Weisfeiler-Lehman, and blind to the orders
    of the bonds: those of an aromatic ring are ambiguous, and its SMILES does not show them.
    """
    numbers = molecules.numbers * largest_piece(molecules.orders, molecules.numbers)
    real = numbers > 0
    bonded = ((molecules.orders > 0) & real[:, :, None] & real[:, None, :]).long()
    colour = _scramble(numbers)
    for _ in range(_ROUNDS):
        colour = _scramble(colour + 3 * (bonded * colour[:, None, :]).sum(2))
    return _scramble((colour * real).sum(1))


def _scramble(x: Tensor) -> Tensor:
    """One to one on the 64-bit integers, which wrap around."""
    x = (x + 1) * _ODD
    return (x ^ ((x >> 31) & 0x1FFFFFFFF)) * _ODD  # shifted without its sign


def known_smiles(training: Batch, elements: Sequence[str], hashes: Int64[Tensor, " k"]) -> set[str]:
    """The SMILES (see `smiles_of`) of the training molecules that have one of these graph hashes.

    Equal SMILES have equal hashes. So the SMILES of samples that are not among these are nowhere in the training
    data: 100,000 molecules of QM9 are compared in the time of their bonds, instead of half a minute.
    """
    known = set()
    for molecules in perceive(training, elements):
        for row in torch.isin(graph_hash(molecules), hashes).nonzero()[:, 0].tolist():
            known.add(smiles_of(one_of(molecules, row)))
    return known - {None}
