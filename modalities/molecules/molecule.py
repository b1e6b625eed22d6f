"""Single molecules out of a batch: their atoms, the bonds between them, and what the field's rule says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from core.batch import Batch
from modalities.molecules import chemistry
from modalities.molecules.bonds import bond_orders, connected, stable_atoms
from modalities.molecules.elements import numbers, symbol_of

if TYPE_CHECKING:
    from rdkit import Chem

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
VERDICTS = ("stable", "valid", "connected")  # on a molecule, by their names

Positions = Float[np.ndarray, "n 3"]
Numbers = Int64[np.ndarray, " n"]
Orders = Int64[np.ndarray, "n n"]


@dataclass(frozen=True)
class Molecule:
    """n >= 1 atoms without padding; their bonds, and all that follows from them, are perceived once, when asked for.

    index: which one of its batch it is.  positions: in angstrom.  numbers: atomic numbers.
    properties: what it was asked to be, or is known to be, by name.
    """

    index: int
    positions: Positions
    numbers: Numbers
    properties: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def orders(self) -> Orders:
        """The bond order of each pair of atoms, 0 to 3, by `bond_orders`: in single precision, as for the figures."""
        positions = torch.from_numpy(self.positions).float()
        return bond_orders(positions[None], torch.from_numpy(self.numbers)[None])[0].numpy()

    @property
    def bonds(self) -> list[tuple[int, int, int]]:
        """Two atoms, the lower first, and the order."""
        found = np.argwhere(np.triu(self.orders))
        return [(int(i), int(j), int(self.orders[i, j])) for i, j in found]

    @cached_property
    def stable_atoms(self) -> Bool[np.ndarray, " n"]:
        """Which atoms have bonds whose orders sum to their valence."""
        return stable_atoms(torch.from_numpy(self.orders)[None], torch.from_numpy(self.numbers)[None])[0].numpy()

    @property
    def stable(self) -> bool:
        """Whether all its atoms are."""
        return bool(self.stable_atoms.all())

    @cached_property
    def connected(self) -> bool:
        """Whether it is in one piece."""
        return bool(connected(torch.from_numpy(self.orders)[None], torch.from_numpy(self.numbers)[None]))

    @cached_property
    def mol(self) -> Chem.Mol:
        """As RDKit's molecule, unsanitised, with its one conformer."""
        arrays = (self.positions, self.numbers, self.orders)
        return chemistry.to_rdkit(*(torch.from_numpy(array) for array in arrays))

    @cached_property
    def valid(self) -> bool:
        """By the field's rule: whether RDKit sanitises it, with open valences filled up."""
        return chemistry.smiles_of(self.mol) is not None

    @property
    def symbols(self) -> list[str]:
        """Of its elements, atom by atom."""
        return [symbol_of(number) for number in self.numbers.tolist()]

    @property
    def formula(self) -> str:
        """In Hill's order: carbon and hydrogen first, where there is carbon, and then by the alphabet."""
        count = Counter(self.symbols)
        first = [symbol for symbol in ("C", "H") if "C" in count and symbol in count]
        order = first + sorted(count.keys() - set(first))
        return "".join(symbol + (str(count[symbol]) if count[symbol] > 1 else "") for symbol in order)


def molecules(batch: Batch, elements: Sequence[str], first: int = 0) -> list[Molecule]:
    """The molecules of a batch (B, N, 3 + elements) in angstrom, counted from `first`.

    The element of an atom is the one with the highest score. ValueError names molecules whose positions are not finite.
    """
    batch = batch.to("cpu")
    atoms = numbers(batch.x, batch.mask, elements)
    positions = batch.x[..., :3].double()
    bad = (~(positions.isfinite().all(-1) | (atoms == 0)).all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{len(bad)} of {len(atoms)} molecules are not finite, the first is number {first + bad[0]}")
    return [
        Molecule(first + row, positions[row, real].numpy(), atoms[row, real].numpy(), _properties(batch, row))
        for row, real in enumerate(atoms > 0)
    ]


def _properties(batch: Batch, row: int) -> dict[str, float]:
    """The conditions of a molecule that are plain numbers."""
    return {name: float(value[row]) for name, value in batch.cond.items() if value.ndim == 1 and name != "drop"}


def spread(total: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 ... total - 1, evenly spaced, the first and the last among them.

    What is asked for together is often sorted by size, so the first few would all be alike.
    """
    if total <= most:
        return list(range(total))
    return torch.linspace(0, total - 1, most, dtype=torch.float64).round().long().tolist()
