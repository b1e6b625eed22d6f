"""Molecules on disk: one XYZ file per sample, all of them as one SDF, and the molecules of a folder read back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.errors import UserError
from core.folders import files_in
from modalities.molecules import depiction
from modalities.molecules.elements import atomic_numbers, check, symbol_of
from modalities.molecules.files import RESERVED, entries
from modalities.molecules.molecule import VERDICTS, Molecule
from modalities.molecules.reading import Record, read_sdf, read_xyz

SDF = "samples.sdf"
READERS = {".xyz": partial(read_xyz, drawn=True), ".sdf": partial(read_sdf, hydrogens=False, drawn=True)}
V2000_FARTHEST, V2000_MOST = 9999.0, 999  # angstrom, atoms or bonds, which the columns of the older format can hold


def xyz_name(index: int) -> str:
    """The file of a molecule."""
    return f"{index:05d}.xyz"


def write_files(found: Sequence[Molecule], folder: Path) -> None:
    """One XYZ file per molecule, positions in angstrom, named by its index: 00000.xyz, 00001.xyz, ...

    The second line has its conditions, such as `gap=6.81`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for molecule in found:
        about = " ".join(f"{name}={value:.8g}" for name, value in molecule.properties.items())
        atoms = zip(molecule.symbols, molecule.positions, strict=True)
        lines = [f"{symbol:<2} {x:14.6f} {y:14.6f} {z:14.6f}" for symbol, (x, y, z) in atoms]
        text = "\n".join([str(len(molecule)), about, *lines]) + "\n"
        (folder / xyz_name(molecule.index)).write_text(text, encoding="utf-8")


def write_sdf(found: Sequence[Molecule], path: Path) -> None:
    """All molecules in one SDF, in 3D, with the bonds that the field's rule infers and no others.

    Each is named by its index, and tagged with its conditions, `stable`, `valid` and `connected` (yes or no), and
    `smiles` if valid. What the columns of the usual V2000 format cannot hold is written in V3000; RDKit reads both,
    molecules that are not valid with sanitize=False.
    """
    records = [_sdf_record(molecule) for molecule in found]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(records), encoding="utf-8")


def _sdf_record(molecule: Molecule) -> str:
    from rdkit import Chem

    mol = Chem.Mol(molecule.mol)
    mol.SetProp("_Name", f"{molecule.index:05d}")
    mol.UpdatePropertyCache(strict=False)
    farthest = np.abs(molecule.positions).max()
    large = farthest > V2000_FARTHEST or max(len(molecule), len(molecule.bonds)) > V2000_MOST
    block = Chem.MolToMolBlock(mol, kekulize=False, forceV3000=bool(large))
    tags = {name: f"{value:.8g}" for name, value in molecule.properties.items()}
    tags |= {name: "yes" if getattr(molecule, name) else "no" for name in VERDICTS}
    if molecule.valid:
        tags["smiles"] = depiction.smiles(molecule)
    return block + "".join(f">  <{name}>\n{value}\n\n" for name, value in tags.items()) + "$$$$\n"


def read(folder: Path, elements: Sequence[str]) -> Batch:
    """The molecules of a folder's XYZ files, in the order of their names; those of its SDFs if it has no XYZ files.

    Numbers that the files give for all of them by name are conditions. Bonds are not read: positions imply them.
    UserError names the file and the record that cannot be read, is empty or has an element that is not in `elements`.
    """
    check(elements)
    files = files_in(folder, READERS, "molecules")
    files = [file for file in files if file.suffix.lower() == ".xyz"] or files
    found = [record for file in files for record in records(file, elements)]
    names = [name for name in found[0].properties if name not in RESERVED]
    shared = [name for name in names if all(name in record.properties for record in found)]
    largest = max(len(record.numbers) for record in found)
    x, mask = torch.zeros(len(found), largest, 3 + len(elements)), torch.zeros(len(found), largest, 1)
    for row, record in enumerate(found):
        n = len(record.numbers)
        mask[row, :n], x[row, :n] = 1, atoms_of(record, elements)
    return Batch(x, mask, {name: torch.tensor([record.properties[name] for record in found]) for name in shared})


def records(file: Path, elements: Sequence[str]) -> list[Record]:
    """All molecules of a file. UserError names one that cannot be read or has other elements."""
    found = []
    for _, (place, record) in entries([file], READERS[file.suffix.lower()], pulse=False):
        if not isinstance(record, Record):
            raise UserError(f"{file}, {place}: {record}")
        check_elements(record, elements, f"{file}, {place}")
        found.append(record)
    if not found:
        raise UserError(f"{file} is empty: it must hold a molecule at least")
    return found


def check_elements(record: Record, elements: Sequence[str], where: str) -> None:
    """UserError for a molecule with others than these."""
    if other := set(record.numbers.tolist()) - set(atomic_numbers(elements)):
        symbol = symbol_of(min(other))
        raise UserError(f"{where}: element {symbol}, which is none of this model's: {', '.join(elements)}")


def atoms_of(record: Record, elements: Sequence[str]) -> Float[Tensor, "n columns"]:
    """Positions in angstrom and one-hot elements: the rows of a decoded sample."""
    kinds = torch.tensor(atomic_numbers(elements))
    one_hot = (torch.from_numpy(record.numbers)[:, None] == kinds).float()
    return torch.cat([torch.from_numpy(record.positions).float(), one_hot], dim=1)
