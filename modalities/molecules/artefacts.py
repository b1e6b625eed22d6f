"""Molecules on disk: one XYZ file per sample, all of them as one SDF, and the molecules of a folder read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.batch import Batch
from core.errors import UserError
from core.folders import files_in
from modalities.molecules import depiction
from modalities.molecules.elements import check
from modalities.molecules.molecule import Molecule, molecules
from modalities.molecules.records import sdf_records, to_batch, xyz_records

SDF = "samples.sdf"
V2000_FARTHEST, V2000_MOST = 9999.0, 999  # angstrom, atoms or bonds, which the columns of the older format can hold


def xyz_name(number: int) -> str:
    """The file of a molecule."""
    return f"{number:05d}.xyz"


def write_files(batch: Batch, elements: Sequence[str], folder: Path, first: int) -> None:
    """One XYZ file per molecule, numbered from `first`: 00000.xyz, 00001.xyz, ...

    The second line has its conditions, such as `gap=6.81`. ValueError names molecules that are not finite; then nothing
    is written.
    """
    found = molecules(batch, elements, first)
    folder.mkdir(parents=True, exist_ok=True)
    for molecule in found:
        about = " ".join(f"{name}={value:.8g}" for name, value in molecule.properties.items())
        atoms = zip(molecule.symbols, molecule.positions, strict=True)
        lines = [f"{symbol:<2} {x:14.6f} {y:14.6f} {z:14.6f}" for symbol, (x, y, z) in atoms]
        text = "\n".join([str(len(molecule)), about, *lines]) + "\n"
        (folder / xyz_name(molecule.number)).write_text(text, encoding="utf-8")


def write_sdf(batch: Batch, elements: Sequence[str], path: Path) -> None:
    """All molecules in one SDF, in 3D, with the bonds that the field's rule infers and no others.

    Each is named by its number, and tagged with its conditions, `stable`, `connected` and `valid` (yes or no), and
    `smiles` if valid. What the columns of the usual V2000 format cannot hold is written in V3000; RDKit reads both,
    molecules that are not valid with sanitize=False. ValueError names molecules that are not finite.
    """
    records = [_sdf_record(molecule) for molecule in molecules(batch, elements)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(records), encoding="utf-8")


def _sdf_record(molecule: Molecule) -> str:
    from rdkit import Chem

    mol = Chem.Mol(molecule.mol)
    mol.SetProp("_Name", f"{molecule.number:05d}")
    mol.UpdatePropertyCache(strict=False)
    farthest = np.abs(molecule.positions).max(initial=0)
    large = farthest > V2000_FARTHEST or max(len(molecule), len(molecule.pairs)) > V2000_MOST
    block = Chem.MolToMolBlock(mol, kekulize=False, forceV3000=bool(large))
    tags = {name: f"{value:.8g}" for name, value in molecule.properties.items()}
    tags |= {name: "yes" if getattr(molecule, name) else "no" for name in ("stable", "connected", "valid")}
    if molecule.valid:
        tags["smiles"] = depiction.smiles(molecule)
    return block + "".join(f">  <{name}>\n{value}\n\n" for name, value in tags.items()) + "$$$$\n"


def read(folder: Path, elements: Sequence[str]) -> Batch:
    """The molecules of a folder's XYZ files, in the order of their names; those of its SDFs if it has no XYZ files.

    Properties that all of them have are its conditions. Bonds are not read: they follow from the positions.
    UserError names a file and record that cannot be read, is empty or has an element that is not among `elements`.
    """
    check(elements)
    try:
        files = files_in(folder, {".xyz"}, "molecules")
    except UserError:
        files = files_in(folder, {".xyz", ".sdf"}, "molecules")
    found = []
    for file in files:
        for record in (xyz_records if file.suffix.lower() == ".xyz" else sdf_records)(file):
            if isinstance(record, UserError):
                raise record
            if unknown := sorted(set(record.symbols) - set(elements)):
                raise UserError(f"{file}: element {unknown[0]} is not among this model's: {', '.join(elements)}")
            found.append(record)
    return to_batch(found, elements)
