"""How good molecules are: by the rule that the field compares generators with, and by what that rule hides.

The rule (see `bonds`) counts stable atoms, and takes for valid whatever RDKit can fill up with hydrogens: radicals and
pieces pass. So beside it: connectedness, PoseBusters' checks, strain, and how far lengths, angles and composition are
from those of real molecules. The same figures of real molecules are the ones to compare with.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.batch import Batch
from core.metrics import Headline, share
from modalities.molecules.bonds import Molecules, connected, perceive, stable_atoms, stable_molecules
from modalities.molecules.chemistry import one_of, smiles_of
from modalities.molecules.distributions import (
    FEW,
    bond_angles,
    bond_lengths,
    distance_by_kind,
    total_variation,
    wasserstein,
)
from modalities.molecules.geometry import as_it_is, posebusters_pass, radicals, strain_energy
from modalities.molecules.novelty import graph_hash, known_smiles

if TYPE_CHECKING:
    from rdkit import Chem

ENOUGH = 20  # molecules on each side, for distances of distributions
CHECKED = 500  # molecules at most, the first ones, for what takes 15 ms of each


def evaluate(samples: Batch, reference: Batch, training: Batch | None, elements: Sequence[str]) -> dict[str, float]:
    """Every figure of `samples` against held-out `reference` molecules, both (B, N, 3 + elements) in angstrom.

    Also called with real molecules as `samples`: that is the floor, to be printed beside the figures at the same n.
    Shares are from 0 to 1. With `training`, the novelty is added. A figure that nothing can be said of (of valid
    molecules, where there are none), or for which there are too few molecules (see `too_few`), is left out.

    atom_stability, molecule_stability, validity, uniqueness (of the valid), valid_and_unique (of all), novelty (of the
    unique): by the field's rule. connected, valid_and_connected: in one piece.
    posebusters: of the first `CHECKED` samples, those that are valid and pass all its checks, see `posebusters_pass`;
    posebusters_geometry: of the valid and connected ones among them, those that pass the checks of their geometry.
    strain_energy_kcal_mol: its median over those of these that have no open valence. Both of at least `FEW` molecules.
    bond_length_distance_angstrom, bond_angle_distance_degrees: see `distance_by_kind`. size_distance_atoms: of the
    numbers of atoms. atom_type_distance, bond_type_distance: of the shares of the elements, and of the pairs of
    elements with the order of their bond, see `total_variation`.
    """
    ours, real = _Seen(), _Seen()
    smiles, whole, hashes, shaped = [], [], [], _Shaped()
    for molecules in perceive(samples, elements):
        ours.add(molecules)
        piece = connected(molecules.orders, molecules.numbers).tolist()
        for row, in_one_piece in enumerate(piece):
            mol = one_of(molecules, row)
            smiles.append(smiles_of(mol))
            if len(smiles) <= CHECKED:
                shaped.add(mol, smiles[-1] is not None, in_one_piece)
        whole += piece
        hashes.append(graph_hash(molecules))
    for molecules in perceive(reference, elements):
        real.add(molecules)
    figures = {"n": float(len(samples))} | _by_the_rule(ours, smiles, whole)
    distinct = {one for one in smiles if one is not None}
    if training is not None and distinct:
        known = known_smiles(training, elements, torch.cat(hashes))
        figures["novelty"] = 1 - len(distinct & known) / len(distinct)
    figures |= shaped.figures()
    if min(len(samples), len(reference)) >= ENOUGH:
        figures |= _distances(ours, real)
    return figures


def headlines(samples: Batch, elements: Sequence[str]) -> dict[str, Headline]:
    """Stable atoms, stable molecules, and those that are valid and in one piece: see `evaluate`."""
    atoms, stable, whole = [], [], []
    for molecules in perceive(samples, elements):
        atoms.append(molecules.numbers > 0)
        stable.append(stable_atoms(molecules.orders, molecules.numbers) & atoms[-1])
        valid = [smiles_of(one_of(molecules, row)) is not None for row in range(len(molecules.numbers))]
        whole.append(connected(molecules.orders, molecules.numbers) & torch.tensor(valid))
    count, stable_count = torch.cat(atoms).sum(1), torch.cat(stable).sum(1)
    one = torch.ones(len(count))
    found = {"atom_stability": Headline(share, (stable_count, count))} if count.any() else {}
    return found | {
        "molecule_stability": Headline(share, ((stable_count == count) & (count > 0), one)),
        "valid_and_connected": Headline(share, (torch.cat(whole), one)),
    }


def too_few(n: int) -> str:
    """Which figures n molecules are too few for, as a sentence; "" if none."""
    if n >= ENOUGH:
        return ""
    shape = "" if n >= FEW else "the checks of geometry, the strain energy and "
    return f"n={n} molecules are too few for {shape}the distances of lengths, angles, sizes and types"


class _Seen:
    """What the rule and the distributions need of molecules, collected a few molecules at a time."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Tensor]] = {}

    def add(self, molecules: Molecules) -> None:
        positions, numbers, orders = molecules
        stable = stable_atoms(orders, numbers)
        kind, order, length = bond_lengths(positions, numbers, orders)
        angle_kind, angle = bond_angles(positions, numbers, orders)
        found = {
            "atom": numbers[numbers > 0],
            "stable_atom": stable[numbers > 0],
            "stable_molecule": stable_molecules(stable, numbers),
            "size": (numbers > 0).sum(1),
            "bond": kind,
            "bond_type": kind * 4 + order,
            "length": length,
            "angle_kind": angle_kind,
            "angle": angle,
        }
        for name, values in found.items():
            self.columns.setdefault(name, []).append(values)

    def __getitem__(self, name: str) -> Tensor:
        return torch.cat(self.columns[name])


@dataclass
class _Shaped:
    """The molecules whose shape was checked."""

    count: int = 0
    passed: int = 0  # all checks
    geometry: list[bool] = field(default_factory=list)  # of the valid and connected ones
    strain: list[float] = field(default_factory=list)

    def add(self, mol: Chem.Mol, valid: bool, in_one_piece: bool) -> None:
        self.count += 1
        mol = as_it_is(mol) if valid and in_one_piece else None
        if mol is None:
            return
        geometry, everything = posebusters_pass(mol)
        self.geometry.append(geometry)
        self.passed += everything
        if not radicals(mol):
            strain = strain_energy(mol)
            self.strain += [] if strain is None else [strain]

    def figures(self) -> dict[str, float]:
        figures = {}
        if self.count:
            figures["posebusters"] = self.passed / self.count
        if len(self.geometry) >= FEW:
            figures["posebusters_geometry"] = statistics.fmean(self.geometry)
        if len(self.strain) >= FEW:
            figures["strain_energy_kcal_mol"] = statistics.median(self.strain)
        return figures


def _by_the_rule(seen: _Seen, smiles: Sequence[str | None], whole: Sequence[bool]) -> dict[str, float]:
    valid = [one is not None for one in smiles]
    distinct = len(set(smiles) - {None})
    n = len(smiles)
    figures = {}
    if len(seen["atom"]):
        figures["atom_stability"] = seen["stable_atom"].double().mean().item()
    figures |= {
        "molecule_stability": seen["stable_molecule"].double().mean().item(),
        "validity": sum(valid) / n,
        "valid_and_unique": distinct / n,
        "connected": sum(whole) / n,
        "valid_and_connected": sum(map(all, zip(valid, whole, strict=True))) / n,
    }
    if distinct:
        figures["uniqueness"] = distinct / sum(valid)
    return figures


def _distances(ours: _Seen, real: _Seen) -> dict[str, float]:
    found = {
        "bond_length_distance_angstrom": distance_by_kind(
            (ours["bond"], ours["length"]), (real["bond"], real["length"])
        ),
        "bond_angle_distance_degrees": distance_by_kind(
            (ours["angle_kind"], ours["angle"]), (real["angle_kind"], real["angle"])
        ),
        "bond_type_distance": total_variation(ours["bond_type"], real["bond_type"]),
        "atom_type_distance": total_variation(ours["atom"], real["atom"]),
        "size_distance_atoms": wasserstein(ours["size"], real["size"]),
    }
    return {name: value for name, value in found.items() if value is not None}
