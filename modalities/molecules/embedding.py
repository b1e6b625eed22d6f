"""Molecules out of lists of SMILES: hydrogens added, embedded in 3D by ETKDG and relaxed by the MMFF94 force field."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from core.cli import is_first_process
from core.errors import UserError
from modalities.molecules.reading import Entry, Record, Unwanted, atoms_of, attempt, numeric, rdkit_errors, too_large

STEPS = 5000  # of the force field's minimiser; molecules of 30 atoms need some hundred
COLUMN = "smiles"


@dataclass(frozen=True)
class Line:
    """What a file says about one molecule. number: of its line or record, from 1, which seeds the embedding too."""

    place: str
    number: int
    smiles: str
    properties: Mapping[str, float]


def read_list(file: Iterable[str]) -> Iterator[Line]:
    """The SMILES of a text file: the first word of each line, that is not empty or a comment (#).

    A first line that begins with the word smiles is a header.
    """
    for number, line in enumerate(file, start=1):
        words = line.split()
        if not words or words[0].startswith("#") or (number == 1 and words[0].lower() == COLUMN):
            continue
        yield Line(f"line {number}", number, words[0], {})


def read_table(file: Iterable[str], column: str | None = None) -> Iterator[Line]:
    """The SMILES of a CSV file with a header, and as properties its other columns that are numbers.

    column: where the SMILES are; None: the column `smiles`, in capitals or not. UserError if it is not there.
    """
    rows = csv.DictReader(file)
    names = list(rows.fieldnames or [])
    chosen = [name for name in names if (name.lower() == COLUMN if column is None else name == column)]
    if names and not chosen:
        raise UserError(f"data.column={column or 'null'}: no column {column or COLUMN} among {', '.join(names)}")
    for number, row in enumerate(rows, start=1):
        others = numeric((name, text) for name, text in row.items() if name and name != chosen[0])
        yield Line(f"record {number}", number, (row[chosen[0]] or "").strip(), others)


def embed_all(lines: Iterable[Line], max_atoms: int | None = None, workers: int | None = None) -> Iterator[Entry]:
    """Each line's molecule, in order. workers: so many at once, None: as many as there are cores.

    The result is the same for any number of workers. Threads do: RDKit embeds and relaxes outside Python's lock.
    """
    from rich.console import Console

    from core.progress import counting

    lines = list(lines)
    one = partial(_embed, max_atoms=max_atoms)
    console = Console(quiet=not is_first_process())
    threads = workers or os.cpu_count() or 1
    with (
        rdkit_errors(),
        counting(console, "embedding SMILES", len(lines)) as count,
        ThreadPoolExecutor(threads) as pool,
    ):
        for line, found in zip(lines, pool.map(partial(attempt, one), lines), strict=True):
            yield line.place, found
            count(1)


def _embed(line: Line, max_atoms: int | None) -> Record | Unwanted:
    """ValueError says why there is no such molecule in 3D."""
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    shown = line.smiles if len(line.smiles) < 80 else f"{line.smiles[:77]}..."
    # RDKit's own complaint about what is no text would end in an error of its logging
    readable = line.smiles.isascii() and line.smiles.isprintable()
    mol = Chem.MolFromSmiles(line.smiles, sanitize=False) if readable and line.smiles else None
    if mol is None:
        raise ValueError(f"{shown!r} is no SMILES")
    Chem.SanitizeMol(mol)  # its errors are ValueErrors
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        raise ValueError(f"{shown} has a dummy atom, no element")
    if charge := Chem.GetFormalCharge(mol):
        raise ValueError(f"{shown} has a net charge of {charge:+}: molecules must be neutral")
    if (pieces := len(Chem.GetMolFrags(mol))) != 1:
        raise ValueError(f"{shown} is {pieces} molecules, not one")
    mol = Chem.AddHs(mol)
    if unwanted := too_large(mol.GetNumAtoms(), max_atoms):
        return unwanted  # before the work
    settings = rdDistGeom.ETKDGv3()
    settings.randomSeed = line.number
    if rdDistGeom.EmbedMolecule(mol, settings) != 0:
        settings.useRandomCoords = True  # slower, and finds some that the first way does not
        if rdDistGeom.EmbedMolecule(mol, settings) != 0:
            raise ValueError(f"ETKDG finds no 3D structure of {shown}")
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        raise ValueError(f"MMFF94 has no parameters for {shown}")
    if rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=STEPS) != 0:
        raise ValueError(f"MMFF94 does not relax {shown} within {STEPS:,} steps")
    return Record(*atoms_of(mol), line.properties).to_learn_from()
