"""Atoms and bonds as RDKit's molecules, and what RDKit says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from modalities.molecules.bonds import Molecules

if TYPE_CHECKING:
    from rdkit import Chem


def to_rdkit(
    positions: Float[Tensor, "n 3"] | None, numbers: Int64[Tensor, " n"], orders: Int64[Tensor, "n n"]
) -> Chem.Mol:
    """A molecule of these atoms and bonds, as they are: nothing is checked, perceived or added.

    positions: in angstrom, they become its one conformer; without them it has none.
    """
    from rdkit import Chem

    kinds = (None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
    mol = Chem.RWMol()
    for number in numbers.tolist():
        mol.AddAtom(Chem.Atom(number))
    for i, j in orders.triu(1).nonzero().tolist():
        mol.AddBond(i, j, kinds[orders[i, j]])
    if positions is not None:
        conformer = Chem.Conformer(len(numbers))
        conformer.SetPositions(np.ascontiguousarray(positions.double().numpy(force=True)))
        mol.AddConformer(conformer)
    return mol.GetMol()


def one_of(molecules: Molecules, row: int) -> Chem.Mol:
    """The molecule of a row, without its padding (see `to_rdkit`)."""
    real = molecules.numbers[row] > 0
    return to_rdkit(molecules.positions[row][real], molecules.numbers[row][real], molecules.orders[row][real][:, real])


def sanitised(mol: Chem.Mol) -> Chem.Mol | None:
    """A copy with its valences checked and its rings and aromatic bonds perceived; None if RDKit refuses it."""
    from rdkit import Chem, rdBase

    mol = Chem.Mol(mol)
    with rdBase.BlockLogs():
        refused = Chem.SanitizeMol(mol, catchErrors=True)
    return None if refused else mol


def smiles_of(mol: Chem.Mol) -> str | None:
    """The canonical SMILES of the largest fragment (the first of equals), by the field's rule; None if invalid.

    Valid is what has atoms and RDKit sanitises. It fills up open valences by itself, so radicals and pieces pass.
    """
    from rdkit import Chem

    mol = sanitised(mol)
    if mol is None:
        return None
    fragments = Chem.GetMolFrags(mol)
    if len(fragments) > 1:
        mol = max(Chem.GetMolFrags(mol, asMols=True), key=lambda fragment: fragment.GetNumAtoms())
    return Chem.MolToSmiles(mol) or None
