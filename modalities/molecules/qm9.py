"""The default data: all of QM9, 130,831 molecules of up to 29 atoms, from the tables in the package `qm9pack`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from core.cache import building, cache_dir
from core.cli import say
from core.errors import UserError
from modalities.molecules.data import MoleculeData, write_cache

CACHE_VERSION = "v2"  # a new one whenever the reading, the split or the layout changes
MOLECULES = 130_831
ELEMENTS = ("H", "C", "N", "O", "F")
TRAIN, VAL, TEST = 100_000, 17_748, 13_083
BRACKETS = str.maketrans("", "", "[]")
EV = 27.211386245988  # electronvolts in a hartree (CODATA 2018)

# our name: the table's column, and the factor to our unit
PROPERTIES = {
    "mu": ("Dipole_debye", 1.0),
    "alpha": ("Polarizability_bohr3", 1.0),
    "homo": ("HOMO_au", EV),
    "lumo": ("LUMO_au", EV),
    "gap": ("HOMO_LUMO_gap_au", EV),
    "r2": ("R2_bohr2", 1.0),
    "zpve": ("ZPVE_au", EV),
    "u0": ("InternalEnergy_0K_au", EV),
    "u298": ("InternalEnergy_298K_au", EV),
    "h298": ("Enthalphy_298K_au", EV),
    "g298": ("GibbsFreeEnergy_298K_au", EV),
    "cv": ("Heatcapacity_Cv_cal_mol_K", 1.0),
}


class Qm9(MoleculeData):
    """QM9 (Ramakrishnan et al. 2014) with all hydrogens, less the molecules that failed its consistency check.

    Properties: mu (debye), alpha (bohr^3), r2 (bohr^2), cv (cal/mol/K), and in electronvolts homo, lumo, gap, zpve,
    u0, u298, h298, g298. The split is the field's: 100,000 for training, 17,748 for validation, 13,083 for testing.

    properties, half, rotate, kept: see `MoleculeData`. Raises UserError if `qm9pack` is missing or holds other tables.
    """

    def __init__(
        self, properties: Sequence[str] = (), half: str | None = None, rotate: bool = False, kept: float = 0.0
    ) -> None:
        cache = cache_dir("qm9") / CACHE_VERSION
        if not cache.exists():
            tables = installed_tables()
            say("reading the 130,831 molecules of QM9, once: some 10 seconds")
            with building(cache) as folder:
                parse(tables, folder)
        super().__init__("qm9", cache, properties, half, rotate, kept)


def installed_tables() -> list[Path]:
    """The three tables of the package, which is found but never run: importing it fails beside new setuptools."""
    spec = find_spec("qm9pack")
    if spec is None or spec.origin is None:
        raise UserError("data=qm9 needs the package qm9pack: pip install qm9pack")
    tables = [Path(spec.origin).parent / "data" / f"qm9_part{number}.csv" for number in (1, 2, 3)]
    for table in tables:
        if not table.exists():
            raise UserError(f"data=qm9 expects a table in {table}: pip install --force-reinstall qm9pack")
    return tables


def parse(tables: Sequence[Path], folder: Path) -> None:
    """Fills a cache from the tables. UserError for a row that cannot be read, or another number of them."""
    positions: list[float] = []
    symbols, sizes = [], []
    columns: dict[str, list[float]] = {name: [] for name in PROPERTIES}
    for table in tables:
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                try:
                    found = row["Elements"][2:-2].split("','")
                    # "0." is a number here, which JSON does not allow
                    atoms = [float(number) for number in row["XYZ_Ang"].translate(BRACKETS).split(",")]
                    if len(atoms) != 3 * len(found) or not np.isfinite(atoms).all():
                        raise ValueError(f"{len(atoms)} coordinates of {len(found)} atoms, or one that is not finite")
                    if other := set(found) - set(ELEMENTS):
                        raise ValueError(f"an element {min(other)!r}")
                    for name, (column, factor) in PROPERTIES.items():
                        columns[name].append(float(row[column]) * factor)
                except (KeyError, ValueError, TypeError) as error:
                    raise UserError(f"{table}: molecule {len(sizes) + 1} cannot be read: {error!r}") from error
                positions.extend(atoms)
                symbols.append(found)
                sizes.append(len(found))
    if len(sizes) != MOLECULES:
        raise UserError(f"{tables[0].parent} holds {len(sizes):,} molecules, not {MOLECULES:,}")
    place = {symbol: number for number, symbol in enumerate(ELEMENTS)}
    write_cache(
        folder,
        ELEMENTS,
        np.array(positions, dtype=np.float32).reshape(-1, 3),
        np.array([place[symbol] for symbol in chain.from_iterable(symbols)], dtype=np.uint8),
        np.array(sizes, dtype=np.int64),
        {name: np.array(values, dtype=np.float32) for name, values in columns.items()},
        split(len(sizes)),
    )


def split(molecules: int) -> dict[str, Int64[np.ndarray, " _"]]:
    """The split of Anderson, Hy & Kondor (2019), which the field compares on: a permutation by NumPy's seed 0."""
    order = np.random.RandomState(0).permutation(molecules)
    return {"train": order[:TRAIN], "val": order[TRAIN : TRAIN + VAL], "test": order[TRAIN + VAL :]}
