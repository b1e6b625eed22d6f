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
from modalities.molecules import bonds, chemistry
from modalities.molecules.elements import numbers, symbol_of

if TYPE_CHECKING:
    from rdkit import Chem

CHUNK = 256  # molecules whose pairs of atoms are looked at together
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

Positions = Float[np.ndarray, "n 3"]
Numbers = Int64[np.ndarray, " n"]
Orders = Int64[np.ndarray, "n n"]


@dataclass(frozen=True)
class Molecule:
    """n atoms without padding, and their bonds.

    number: which one of its batch it is.  positions: in angstrom.  numbers: atomic numbers.
    orders: 0 to 3 for each pair, by `bonds.bond_orders`.  stable_atoms, connected: by `bonds` too.
    properties: what it was asked to be, or is known to be, by name.
    """

    number: int
    positions: Positions
    numbers: Numbers
    orders: Orders
    stable_atoms: Bool[np.ndarray, " n"]
    connected: bool
    properties: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def stable(self) -> bool:
        """Whether all its atoms are, and it has one at least."""
        return bool(len(self) and self.stable_atoms.all())

    @property
    def symbols(self) -> list[str]:
        return [symbol_of(number) for number in self.numbers.tolist()]

    @property
    def formula(self) -> str:
        """In Hill's order: carbon and hydrogen first, where there is carbon, and then by the alphabet."""
        count = Counter(self.symbols)
        first = [symbol for symbol in ("C", "H") if "C" in count and symbol in count]
        order = first + sorted(count.keys() - set(first))
        return "".join(symbol + (str(count[symbol]) if count[symbol] > 1 else "") for symbol in order)

    @cached_property
    def mol(self) -> Chem.Mol:
        """As RDKit's molecule, unsanitised, with its one conformer."""
        arrays = (self.positions, self.numbers, self.orders)
        return chemistry.to_rdkit(*(torch.from_numpy(array) for array in arrays))

    @cached_property
    def smiles(self) -> str | None:
        """Of the largest fragment; None if RDKit refuses the molecule."""
        return chemistry.smiles_of(self.mol)

    @property
    def valid(self) -> bool:
        return self.smiles is not None

    @property
    def pairs(self) -> list[tuple[int, int, int]]:
        """The bonds: two atoms, the lower first, and the order."""
        found = np.argwhere(np.triu(self.orders))
        return [(int(i), int(j), int(self.orders[i, j])) for i, j in found]


def molecules(batch: Batch, elements: Sequence[str], first: int = 0) -> list[Molecule]:
    """The molecules of a batch, counted from `first`; the element of an atom is the one with the highest score.

    ValueError names those with positions that are not finite.
    """
    batch = batch.to("cpu")
    atoms = numbers(batch.x, batch.mask, elements)
    positions = batch.x[..., :3].double()
    bad = (~(positions.isfinite().all(-1) | (atoms == 0)).all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{len(bad)} of {len(atoms)} molecules are not finite, the first is number {first + bad[0]}")
    found = []
    for begin in range(0, len(atoms), CHUNK):
        rows = slice(begin, begin + CHUNK)
        orders = bonds.bond_orders(positions[rows], atoms[rows])
        stable, connected = bonds.stable_atoms(orders, atoms[rows]), bonds.connected(orders, atoms[rows])
        for k in range(len(orders)):
            row = begin + k
            here = atoms[row] > 0
            found.append(
                Molecule(
                    first + row,
                    positions[row, here].numpy(),
                    atoms[row, here].numpy(),
                    orders[k][here][:, here].numpy(),
                    stable[k, here].numpy(),
                    bool(connected[k]),
                    properties(batch, row),
                )
            )
    return found


def properties(batch: Batch, row: int) -> dict[str, float]:
    """The conditions of a molecule that are plain numbers."""
    return {name: float(value[row]) for name, value in batch.cond.items() if value.ndim == 1 and name != "drop"}


def spread(total: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 ... total - 1, evenly spaced, the first and the last among them.

    What is asked for together is often sorted by size, so the first few would all be alike.
    """
    if total <= most:
        return list(range(total))
    return torch.linspace(0, total - 1, most, dtype=torch.float64).round().long().tolist()
