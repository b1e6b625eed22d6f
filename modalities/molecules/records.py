"""Molecules in files, XYZ or SDF: read one after another, and those that cannot be read named by their number."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import torch

from core.batch import Batch
from core.errors import UserError
from modalities.molecules.elements import atomic_numbers, symbol_of
from modalities.molecules.molecule import Positions

FACT = re.compile(r"(?<!\S)([A-Za-z_]\w*)=([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)")  # such as gap=6.81


@dataclass(frozen=True)
class Record:
    """A molecule of a file. positions: in angstrom; properties: the numbers that the file gives by name."""

    symbols: Sequence[str]
    positions: Positions
    properties: dict[str, float] = field(default_factory=dict)


def to_batch(records: Sequence[Record], elements: Sequence[str]) -> Batch:
    """Padded to the largest; conditions are the properties that all records have."""
    largest = max(len(record.symbols) for record in records)
    x, mask = torch.zeros(len(records), largest, 3 + len(elements)), torch.zeros(len(records), largest, 1)
    for row, record in enumerate(records):
        n = len(record.symbols)
        mask[row, :n] = 1
        x[row, :n, :3] = torch.from_numpy(record.positions)
        x[row, torch.arange(n), torch.tensor([3 + elements.index(symbol) for symbol in record.symbols])] = 1
    shared = [name for name in records[0].properties if all(name in record.properties for record in records)]
    return Batch(x, mask, {name: torch.tensor([record.properties[name] for record in records]) for name in shared})


def xyz_records(path: Path) -> Iterator[Record | UserError]:
    """The molecules of an XYZ file, one after another; for one that cannot be read, the error that names it.

    After an error in a molecule's atoms comes the next one; there is none after a wrong number of atoms.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        yield UserError(f"{path} is empty: an XYZ file has the number of atoms, a line of words, and a line per atom")
    begin = 0
    for number in count(1):
        if begin >= len(lines):
            return
        where = f"{path}, molecule {number} (line {begin + 1})"
        head = lines[begin].strip()
        if not head.isdecimal() or int(head) < 1:
            yield UserError(f"{where}: begins with {head[:40]!r}, must be the number of its atoms, at least 1")
            return
        rows = lines[begin + 2 : begin + 2 + int(head)]
        if len(rows) < int(head):
            yield UserError(f"{where}: is truncated: {len(rows)} of {head} atoms")
            return
        try:
            symbols, positions = zip(*map(_atom, rows), strict=True)
            facts = {name: float(value) for name, value in FACT.findall(lines[begin + 1])}
            yield Record(symbols, np.array(positions), facts)
        except UserError as error:
            yield UserError(f"{where}: {error}")
        begin += 2 + int(head)


def _atom(line: str) -> tuple[str, tuple[float, float, float]]:
    """An atom's line: a symbol or an atomic number, and its position; more columns are ignored."""
    words = line.split()
    try:
        x, y, z = (float(word.replace("*^", "e")) for word in words[1:4])
    except ValueError:
        raise UserError(f"{line.strip()[:60]!r} is no atom: must be a symbol and three numbers") from None
    if not all(map(math.isfinite, (x, y, z))):
        raise UserError(f"{line.strip()[:60]!r}: a position must be finite")
    symbol = words[0]
    if symbol.isdecimal():
        if not 1 <= int(symbol) <= 86:
            raise UserError(f"unknown element {symbol}: an atomic number must be from 1 to 86")
        symbol = symbol_of(int(symbol))
    symbol = symbol.capitalize()
    atomic_numbers([symbol])
    return symbol, (x, y, z)


def sdf_records(path: Path) -> Iterator[Record | UserError]:
    """The molecules of an SDF, unsanitised, with the hydrogens it has; for one that cannot be read, an error."""
    from rdkit import Chem, rdBase

    if not path.read_text(encoding="utf-8", errors="replace").strip():
        yield UserError(f"{path} is empty: an SDF has a block per molecule")
        return
    with rdBase.BlockLogs():
        supplier = Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)
        for number, mol in enumerate(supplier, start=1):
            where = f"{path}, molecule {number}"
            if mol is None:
                yield UserError(f"{where}: cannot be read; it is damaged or truncated")
                continue
            positions = mol.GetConformer().GetPositions() if mol.GetNumConformers() else np.zeros((0, 3))
            symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
            try:
                atomic_numbers(symbols)
            except UserError as error:
                yield UserError(f"{where}: {error}")
                continue
            if not symbols:
                yield UserError(f"{where}: has no atoms")
            elif not np.isfinite(positions).all() or not mol.GetConformer().Is3D():
                yield UserError(f"{where}: has no positions in three dimensions")
            else:
                yield Record(symbols, positions, _numbers(mol.GetPropsAsDict(autoConvertStrings=False)))


def _numbers(tags: dict[str, object]) -> dict[str, float]:
    """Those tags that are single finite numbers."""
    return {name: float(str(value)) for name, value in tags.items() if FACT.fullmatch(f"{name}={value}")}
