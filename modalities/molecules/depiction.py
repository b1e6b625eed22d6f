"""Structural formulas: molecules drawn flat by RDKit, whatever their bonds are, and written as SMILES."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from modalities.molecules.bonds import HEAVIEST
from modalities.molecules.chemistry import sanitised
from modalities.molecules.elements import atomic_numbers
from modalities.molecules.molecule import Molecule
from modalities.molecules.rendering import COLORS, color, facing

if TYPE_CHECKING:
    from rdkit import Chem
    from rdkit.Chem.Draw import MolDraw2D, MolDrawOptions

UNSTABLE = (1.0, 0.72, 0.68)  # colour behind atoms that are not stable
INK = (0.16, 0.17, 0.2)
DARKER = 0.82  # letters are thinner than balls
DEFAULTS = r"(fill-rule:evenodd|stroke-(linecap:butt|linejoin:miter|miterlimit:10|opacity:1));?"  # said at each line
BOND = 1.5  # usual length of a bond in a formula, in RDKit's units
MOST_BONDS = 2  # per atom, in what can be laid out; heaps of atoms have more, and are drawn as they lie


def _skeleton(molecule: Molecule) -> Chem.Mol:
    """The molecule without the hydrogens that need not be drawn; atoms have their row, and `unstable` if they are.

    An unstable hydrogen that is not drawn counts for its neighbour. Open valences are not filled up, and an invalid
    molecule keeps its bonds as they are.
    """
    from rdkit import Chem, rdBase

    mol = Chem.RWMol(molecule.mol)
    unstable = set()
    for atom in mol.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetIntProp("row", atom.GetIdx())
        if not molecule.stable_atoms[atom.GetIdx()]:
            near = [other.GetIdx() for other in atom.GetNeighbors()] if atom.GetAtomicNum() == 1 else []
            unstable.update([atom.GetIdx(), *near])
    for k in unstable:
        mol.GetAtomWithIdx(k).SetBoolProp("unstable", True)
    whole = sanitised(mol)
    with rdBase.BlockLogs():
        mol = Chem.RemoveHs(mol if whole is None else whole, sanitize=False)
        mol.UpdatePropertyCache(strict=False)
        if whole is None:
            Chem.FastFindRings(mol)
    for atom in mol.GetAtoms():
        atom.SetNumRadicalElectrons(0)  # would be dots; what is unstable is marked
    return mol


def _lay_out(mol: Chem.Mol, molecule: Molecule) -> None:
    """Gives a skeleton flat coordinates: RDKit's, or for heaps and what RDKit finds none for, as the atoms lie."""
    from rdkit.Chem import rdDepictor

    if len(molecule.bonds) > MOST_BONDS * len(molecule):
        _lay_down(mol, molecule)
    else:
        try:
            rdDepictor.Compute2DCoords(mol)
        except RuntimeError:  # "Cannot normalize a zero length vector", of some tangles
            _lay_down(mol, molecule)
        else:
            _shelve(mol)
    _part(mol)


def _lay_down(mol: Chem.Mol, molecule: Molecule) -> None:
    """As the atoms lie when seen at their widest."""
    lie = molecule.positions @ facing(molecule.positions).T
    lengths = [np.linalg.norm(lie[i] - lie[j]) for i, j, _ in molecule.bonds]
    lie *= BOND / max(np.mean(lengths), 1e-6)
    for atom in mol.GetAtoms():  # some hydrogens may be gone
        x, y, _ = lie[atom.GetIntProp("row")]
        mol.GetConformer().SetAtomPosition(atom.GetIdx(), (x, y, 0.0))


def _shelve(mol: Chem.Mol) -> None:
    """Moves the pieces of a molecule into rows, the largest first, about twice as wide as high together."""
    from rdkit import Chem

    pieces = sorted(Chem.GetMolFrags(mol), key=len, reverse=True)
    if len(pieces) < 2:
        return
    places = mol.GetConformer().GetPositions()
    boxes = [np.ptp(places[list(piece)], axis=0)[:2] + BOND for piece in pieces]
    width = max(max(box[0] for box in boxes), np.sqrt(2 * sum(box[0] * box[1] for box in boxes)))
    x, y, high = 0.0, 0.0, 0.0
    for piece, box in zip(pieces, boxes, strict=True):
        if x > 0 and x + box[0] > width + 1e-6:
            x, y, high = 0.0, y - high, 0.0
        piece = list(piece)
        low, top = places[piece, 0].min(), places[piece, 1].max()
        places[piece] += [x - low, y - top, 0]
        x, high = x + box[0], max(high, box[1])
    mol.GetConformer().SetPositions(places)


def _part(mol: Chem.Mol) -> None:
    """Moves atoms apart that the layout of a tangle has put in one place: RDKit draws no bond of no length."""
    places = mol.GetConformer().GetPositions()
    for atom in range(1, len(places)):
        if np.linalg.norm(places[:atom] - places[atom], axis=1).min() < 0.05:
            places[atom, :2] += 0.3 * BOND * np.array([np.cos(atom), np.sin(atom)])
    mol.GetConformer().SetPositions(places)


def smiles(molecule: Molecule) -> str | None:
    """Canonical, without hydrogens that follow from the valences, all pieces of it; None for an invalid molecule."""
    from rdkit import Chem

    return Chem.MolToSmiles(_skeleton(molecule)) if molecule.valid else None


def png(molecule: Molecule, size: tuple[int, int]) -> bytes:
    """A structural formula of (width, height) pixels on white, its unstable atoms marked."""
    from rdkit.Chem.Draw import rdMolDraw2D

    return _drawn(molecule, rdMolDraw2D.MolDraw2DCairo(*size))


def svg(molecule: Molecule, size: tuple[int, int]) -> str:
    """The same without paper, as an <svg> element that stands for itself in a page."""
    from rdkit.Chem.Draw import rdMolDraw2D

    drawer = rdMolDraw2D.MolDraw2DSVG(*size)
    drawer.drawOptions().clearBackground = False
    text = _drawn(molecule, drawer)
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|\sxmlns(:\w+)?='[^']*'|\sxml:space='[^']*'|\sclass='[^']*'", "", text, flags=re.DOTALL)
    text = re.sub(DEFAULTS, "", text)
    text = re.sub(r"^<svg[^>]*>", f'<svg viewBox="0 0 {size[0]} {size[1]}" aria-hidden="true">', text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _drawn(molecule: Molecule, drawer: MolDraw2D) -> bytes | str:
    from rdkit import Chem, rdBase

    mol = _skeleton(molecule)
    with rdBase.BlockLogs():
        _lay_out(mol, molecule)
    if molecule.valid:
        Chem.Kekulize(mol, clearAromaticFlags=True)
    unstable = [atom.GetIdx() for atom in mol.GetAtoms() if atom.HasProp("unstable")]
    _style(drawer.drawOptions())
    drawer.DrawMolecule(mol, highlightAtoms=unstable, highlightBonds=[])
    drawer.FinishDrawing()
    return drawer.GetDrawingText()


def _style(options: MolDrawOptions) -> None:
    options.prepareMolsBeforeDrawing = False  # which would refuse invalid ones
    options.flagCloseContactsDist = -1
    options.bondLineWidth = 1.6
    options.padding = 0.06
    options.fixedBondLength = 28
    options.minFontSize = 8
    options.setHighlightColour(UNSTABLE)
    options.highlightRadius = 0.34
    palette = dict.fromkeys(range(1, HEAVIEST + 1), INK)
    for number in atomic_numbers(sorted(COLORS.keys() - {"H", "C"})):
        palette[number] = tuple(DARKER * part for part in color(number))
    options.updateAtomPalette(palette)
