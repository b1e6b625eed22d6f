"""Molecules out of SDF and XYZ files, one record after another; what cannot be used is named, with the reason.

A file is text to this module: nothing in it is executed or unpickled.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from typing import Any, TextIO

import numpy as np
from jaxtyping import Float, Int64

from core.errors import UserError, reason_of
from modalities.molecules.elements import HEAVIEST, atomic_numbers

FARTHEST = 1e4  # angstrom from the origin; float32 has steps of .001 there
LARGEST = float(np.finfo(np.float32).max)
PAIR = re.compile(r'([A-Za-z_][\w.-]*)=("[^"]*"|\S+)')  # in the comment of an XYZ frame
COLUMNS = "species:S:1:pos:R:3"  # of extended XYZ, that a frame must begin with
TO_SHOW = 40  # characters of a wrong line
MOST_ATOMS = 10_000  # of a molecule: networks here see all pairs of atoms
MOST_LINES = 10 * MOST_ATOMS  # of one record of an SDF file
MOST_CHARACTERS = 1_000_000  # of a line
ERRORS = "rdApp.error"  # RDKit's name of this log


@dataclass(frozen=True)
class Record:
    """One molecule: atomic numbers (n,), positions (n, 3) in angstrom, and the numbers that the file says about it."""

    numbers: Int64[np.ndarray, " n"]
    positions: Float[np.ndarray, "n 3"]
    properties: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ValueError says in a few words why it is no molecule."""
        if not len(self.numbers):
            raise ValueError("no atoms")
        if (dummy := np.flatnonzero(self.numbers == 0)).size:
            raise ValueError(f"atom {dummy[0] + 1} is a dummy, no element")
        if self.numbers.max() > HEAVIEST:
            raise ValueError(f"an element of number {self.numbers.max()}, which is not from 1 to {HEAVIEST}")
        if not np.isfinite(self.positions).all():
            raise ValueError("a coordinate that is no number")

    def to_learn_from(self) -> Record:
        """The record itself. ValueError if no molecule looks like that, as those that a model draws may."""
        if not (np.abs(self.positions) <= FARTHEST).all():
            raise ValueError(f"a coordinate that is not within {FARTHEST:,.0f} angstrom")
        places = self.positions.astype(np.float32) + 0.0  # makes -0 the same as 0
        if len(np.unique(places, axis=0)) < len(places):
            raise ValueError("two atoms in one place")
        return self


class Unwanted(str):
    """Why a molecule is left out by what the user has chosen, which is no fault of the record."""


def too_large(atoms: int, max_atoms: int | None) -> Unwanted | None:
    """Why a molecule of so many atoms is left out."""
    if max_atoms is None or atoms <= max_atoms:
        return None
    return Unwanted(f"{atoms} atoms, more than data.max_atoms={max_atoms}")


# the place of an entry in its file, such as "record 17", and the molecule there, or why there is none
Entry = tuple[str, Record | str]


def bounded(file: TextIO) -> Iterator[str]:
    """The lines of a file. OSError for one that is longer than any of a molecule's, before all of it is read."""
    while line := file.readline(MOST_CHARACTERS):
        if len(line) == MOST_CHARACTERS:
            raise OSError(f"a line of {MOST_CHARACTERS:,} characters or more")
        yield line


def attempt(read: Callable[..., Record | Unwanted], *arguments: object) -> Record | str:
    """The record, or in one line why there is none."""
    try:
        return read(*arguments)
    except (ValueError, RuntimeError, UserError) as error:  # RDKit's own errors are ValueErrors or RuntimeErrors
        return reason_of(error)


def condition_name(name: str) -> str:
    """A property's name as that of a condition: every run of other characters than letters and digits is one `_`."""
    return re.sub(r"\W+", "_", name).strip("_")


def numeric(pairs: Iterable[tuple[str, str | None]]) -> dict[str, float]:
    """The pairs whose value is a number in float32, under their names as conditions."""
    found = {}
    for name, text in pairs:
        try:
            value = float(text or "")
        except (ValueError, TypeError):  # csv gives a list for columns beyond the header's
            continue
        if abs(value) <= LARGEST:  # nor is NaN
            found[condition_name(name)] = value
    return found


# XYZ


def read_xyz(file: Iterable[str], drawn: bool = False) -> Iterator[Entry]:
    """The frames of an XYZ file: a number of atoms, a comment, and for each atom a line `symbol x y z`, in angstrom.

    More columns are passed over; an atomic number may stand for the symbol. The properties are the comment's
    `key=value` pairs. Where no number of atoms is found, the rest of the file is one entry that cannot be used.

    drawn: whether a model drew them, so that they are taken even if no molecule looks like that.
    """
    lines = iter(file)
    number = 0
    for line in lines:
        if not (count := line.strip()):
            continue
        number += 1
        if not (count.isdecimal() and len(count) < 10):
            yield f"from record {number} on", f"{_shown(line)} is not a number of atoms"
            return
        comment = next(lines, "")
        if int(count) > MOST_ATOMS:
            for _ in islice(lines, int(count)):
                pass
            yield f"record {number}", f"{int(count):,} atoms, more than the {MOST_ATOMS:,} that a molecule may have"
            continue
        yield f"record {number}", attempt(_frame, int(count), comment, list(islice(lines, int(count))), drawn)


def _frame(count: int, comment: str, lines: list[str], drawn: bool) -> Record:
    if len(lines) < count:
        raise ValueError(f"the file ends after {len(lines)} of its {count} atoms")
    pairs = {name: value.strip('"') for name, value in PAIR.findall(comment)}
    if not pairs.get("Properties", COLUMNS).startswith(COLUMNS):
        raise ValueError(f"columns in another order than {COLUMNS}")
    symbols, positions = [], np.empty((count, 3))
    for row, line in enumerate(lines):
        try:
            symbol, x, y, z = line.split()[:4]
            positions[row] = [float(text.replace("*^", "e")) for text in (x, y, z)]  # QM9's own files have *^
        except ValueError as error:
            raise ValueError(f"atom {row + 1}: {_shown(line)} is not a symbol and three numbers") from error
        symbols.append(symbol.capitalize())
    known = {symbol: _number(symbol) for symbol in dict.fromkeys(symbols)}
    record = Record(np.array([known[s] for s in symbols], dtype=np.int64), positions, numeric(pairs.items()))
    return record if drawn else record.to_learn_from()


def _number(symbol: str) -> int:
    return int(symbol) if symbol.isdecimal() and len(symbol) < 4 else atomic_numbers([symbol])[0]


def _shown(line: str) -> str:
    """The beginning of a line, as it can be printed."""
    line = line.strip()
    return ascii(line[:TO_SHOW]) + ("..." if len(line) > TO_SHOW else "")


# SDF


def read_sdf(file: Iterable[str], hydrogens: bool = True, drawn: bool = False) -> Iterator[Entry]:
    """The records of an SDF (or the one of a MOL) file, V2000 or V3000. The properties are the data items.

    hydrogens: whether those that the bonds leave out are added, at the places that the bonds' geometry gives.
    drawn: as in `read_xyz`.
    """
    for number, text in enumerate(split_sdf(file), start=1):
        yield f"record {number}", attempt(_of_text, text, hydrogens, drawn)


def split_sdf(file: Iterable[str]) -> Iterator[str]:
    """The text of each record, which ends with a line `$$$$`, or with the file; no more than its first lines."""
    lines: list[str] = []
    for line in file:
        if line.startswith("$$$$"):
            yield "".join(lines)
            lines = []
        elif len(lines) <= MOST_LINES:
            lines.append(line)
    if any(line.strip() for line in lines):
        yield "".join(lines)


def parse_sdf(text: str) -> Any:
    """RDKit's molecule of one record, its atoms and bonds as they are written. ValueError if RDKit cannot read it."""
    from rdkit.Chem import ForwardSDMolSupplier

    with rdkit_errors() as said:
        # of other letters RDKit cuts some in half where it complains, which its logging then cannot read
        content = BytesIO(text.encode("ascii", "replace"))
        mol = next(ForwardSDMolSupplier(content, sanitize=False, removeHs=False), None)
    if mol is None:
        reasons = [line.partition("ERROR: ")[2] for line in said if "ERROR: " in line]
        raise ValueError(reasons[0] if reasons else "nothing that RDKit takes for a molecule")
    return mol


def _of_text(text: str, hydrogens: bool, drawn: bool) -> Record:
    from rdkit import Chem

    if not text.strip():
        raise ValueError("empty")
    if text.count("\n") > MOST_LINES:
        raise ValueError(f"more than the {MOST_LINES:,} lines that a molecule may have")
    mol = parse_sdf(text)
    if charge := Chem.GetFormalCharge(mol):
        raise ValueError(f"a net charge of {charge:+}: molecules must be neutral")
    if not mol.GetNumConformers():
        raise ValueError("no coordinates" if mol.GetNumAtoms() else "no atoms")
    if query := [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() == 0 or atom.HasQuery()]:
        raise ValueError(f"atom {query[0] + 1} is a dummy, no element")
    if not mol.GetConformer().Is3D() and mol.GetNumAtoms() > 1:  # RDKit takes any z but 0 for 3D, whatever is marked
        raise ValueError("no 3D coordinates: it is flat, and not marked 3D")
    items = numeric((name, mol.GetProp(name)) for name in mol.GetPropNames())
    record = Record(*atoms_of(with_hydrogens(mol) if hydrogens else mol), items)
    return record if drawn else record.to_learn_from()


def with_hydrogens(mol: Any) -> Any:
    """The molecule with all hydrogens as atoms. ValueError if its bonds make no sense to RDKit."""
    from rdkit import Chem

    with rdkit_errors():
        try:
            Chem.SanitizeMol(mol)
        except ValueError as error:
            raise ValueError(f"{error}, so hydrogens cannot be added; data.hydrogens=false adds none") from error
        return Chem.AddHs(mol, addCoords=True)


def atoms_of(mol: Any) -> tuple[Int64[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """The atomic numbers and positions (angstrom) of an RDKit molecule."""
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
    return numbers, mol.GetConformer().GetPositions()


@contextmanager
def rdkit_errors() -> Iterator[list[str]]:
    """Yields a list that RDKit's complaints go into, which it otherwise prints."""
    from rdkit import rdBase

    said: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    logger = logging.getLogger("rdkit")
    silent = f"{ERRORS}:disabled" in rdBase.LogStatus()  # other packages switch it off
    level, disabled = logger.level, logger.disabled  # and so does what configures logging anew
    logger.setLevel(logging.DEBUG)
    logger.disabled = False
    rdBase.EnableLog(ERRORS)
    rdBase.LogToPythonLogger()
    logger.addFilter(keep)
    try:
        yield said
    finally:
        logger.removeFilter(keep)
        logger.setLevel(level)
        logger.disabled = disabled
        rdBase.LogToCppStreams()
        if silent:
            rdBase.DisableLog(ERRORS)
