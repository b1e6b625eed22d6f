"""Molecules for tests: small ones by hand, and the first ones of QM9 as they stand in its tables."""

from __future__ import annotations

import csv
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from modalities.molecules.elements import atomic_numbers

ELEMENTS = ["H", "C", "N", "O", "F"]
T = 1.09 / 3**0.5  # a corner of the cube around a tetrahedron with arms of 1.09
ATOMS = {  # symbols, and positions in angstrom
    "methane": ("CHHHH", [[0, 0, 0], [T, T, T], [T, -T, -T], [-T, T, -T], [-T, -T, T]]),
    "methyl": ("CHHH", [[0, 0, 0], [T, T, T], [T, -T, -T], [-T, T, -T]]),
    "water": ("OHH", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]),
    "ethene": (
        "CCHHHH",
        [[0.67, 0, 0], [-0.67, 0, 0], [1.24, 0.93, 0], [1.24, -0.93, 0], [-1.24, 0.93, 0], [-1.24, -0.93, 0]],
    ),
    "cyanide": ("HCN", [[-1.07, 0, 0], [0, 0, 0], [1.15, 0, 0]]),
    "nitrogen": ("NN", [[0, 0, 0], [1.1, 0, 0]]),
}
Atoms = tuple[str, Float[Tensor, "n 3"]]


def atoms_of(name: str) -> Atoms:
    symbols, places = ATOMS[name]
    return symbols, torch.tensor(places, dtype=torch.float64)


def together(*molecules: Atoms, apart: float = 20.0) -> Atoms:
    """One molecule of several, far from one another."""
    shift = torch.tensor([apart, 0, 0], dtype=torch.float64)
    return "".join(m[0] for m in molecules), torch.cat([places + i * shift for i, (_, places) in enumerate(molecules)])


def batch_of(*molecules: Atoms, elements: list[str] = ELEMENTS) -> Batch:
    """Molecules of one-letter elements, padded to the largest."""
    n = max(len(symbols) for symbols, _ in molecules)
    x, mask = torch.zeros(len(molecules), n, 3 + len(elements)), torch.zeros(len(molecules), n, 1)
    for row, (symbols, places) in enumerate(molecules):
        x[row, : len(symbols), :3] = places
        for atom, symbol in enumerate(symbols):
            x[row, atom, 3 + elements.index(symbol)] = mask[row, atom] = 1
    return Batch(x, mask)


def arrays(*molecules: Atoms) -> tuple[Float[Tensor, "b n 3"], Tensor]:
    """Positions in double precision and atomic numbers, padded to the largest."""
    n = max(len(symbols) for symbols, _ in molecules)
    positions = torch.zeros(len(molecules), n, 3, dtype=torch.float64)
    numbers = torch.zeros(len(molecules), n, dtype=torch.int64)
    for row, (symbols, places) in enumerate(molecules):
        positions[row, : len(symbols)] = places
        numbers[row, : len(symbols)] = torch.tensor(atomic_numbers(list(symbols)))
    return positions, numbers


def first_of_qm9(count: int, table: int = 0) -> Batch:
    """The first molecules of one of the three tables: the first table has the smallest of all."""
    from modalities.molecules.qm9 import installed_tables

    molecules = []
    with installed_tables()[table].open(newline="") as file:
        for row in islice(csv.DictReader(file), count):
            values = [float(value) for value in row["XYZ_Ang"].replace("[", "").replace("]", "").split(",")]
            symbols = "".join(row["Elements"][2:-2].split("','"))
            molecules.append((symbols, torch.tensor(values, dtype=torch.float64).reshape(-1, 3)))
    return batch_of(*molecules)
