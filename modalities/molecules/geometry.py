"""What the field's rule hides: whether valid molecules have a believable shape, by PoseBusters and by a force field.

RDKit fills up open valences by itself. Here it may not: every hydrogen of the data is explicit, so what is missing is
missing, and an open valence is a radical.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from core.errors import UserError
from modalities.molecules.chemistry import sanitised

if TYPE_CHECKING:
    from posebusters import PoseBusters
    from rdkit import Chem

# Of PoseBusters' checks of single molecules, those of the shape. Those of the graph are made here: its way of catching
# RDKit's messages refuses every molecule once the error stream that it first saw is closed. One is left out: it
# compares the energy with those of 50 embedded conformers, which takes seconds per molecule of QM9 (its strained cages
# hardly embed) and refuses none; `strain_energy` says more of it in two milliseconds.
MODULES = ("distance_geometry", "flatness")
RELAXATION_STEPS = 2000


def as_it_is(mol: Chem.Mol) -> Chem.Mol | None:
    """A sanitised copy that keeps its open valences, as radicals; None if RDKit refuses it."""
    from rdkit import Chem

    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetNoImplicit(True)
    return sanitised(mol)


def posebusters_pass(mol: Chem.Mol) -> tuple[bool, bool]:
    """Whether a molecule (see `as_it_is`) passes PoseBusters' geometry checks, and whether all of its checks.

    Geometry: bond lengths, bond angles and distances of the other atoms, within RDKit's bounds and a quarter (angles
    by the distance of their ends, hydrogens apart); aromatic rings and double bonds flat, other six-rings not.
    All: also connected, without radicals, and convertible to InChI and back. A check that cannot be made is not
    passed. (Buttenschoen et al. 2024)
    """
    from rdkit import Chem

    with _quiet():
        geometry = bool(_buster().bust(mol).eq(True).all(axis=None))
        back = Chem.MolFromInchi(Chem.MolToInchi(mol))
    return geometry, geometry and back is not None and not radicals(mol) and len(Chem.GetMolFrags(mol)) == 1


def radicals(mol: Chem.Mol) -> int:
    """How many electrons have no partner in a molecule (see `as_it_is`)."""
    return sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())


def strain_energy(mol: Chem.Mol) -> float | None:
    """How much energy a molecule (see `as_it_is`) loses when its shape relaxes in the MMFF94 force field, in kcal/mol.

    None where the force field has no parameters for it, or its atoms lie on one another.
    """
    from rdkit import Chem
    from rdkit.Chem import rdForceFieldHelpers

    relaxed = Chem.Mol(mol)  # the force field moves its atoms, and does not keep it alive
    with _quiet():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(relaxed)
        if properties is None:
            return None
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(relaxed, properties)
        before = field.CalcEnergy()
        field.Minimize(maxIts=RELAXATION_STEPS)
        strain = before - field.CalcEnergy()
    return strain if math.isfinite(strain) else None


@cache
def _buster() -> PoseBusters:
    try:
        from posebusters import PoseBusters
    except ModuleNotFoundError as error:
        raise UserError("the figures of molecules need posebusters: pip install 'polydiffusion[molecules]'") from error
    buster = PoseBusters("mol")
    buster.config["modules"] = [module for module in buster.config["modules"] if module["function"] in MODULES]
    return buster


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither RDKit nor PoseBusters says why they refuse a molecule: a share is counted, not each case."""
    from rdkit import rdBase

    logger = logging.getLogger("posebusters")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with rdBase.BlockLogs():
            yield
    finally:
        logger.setLevel(level)
