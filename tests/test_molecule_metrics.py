"""Figures of molecules: closed forms, what they must tell apart, and that they are numbers or absent."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from molecule_examples import ELEMENTS, Atoms, arrays, atoms_of, batch_of, first_of_qm9, together

from core.batch import Batch, concatenate

pytest.importorskip("rdkit")
pytest.importorskip("posebusters")

from modalities.molecules import geometry, metrics
from modalities.molecules.bonds import Molecules, bond_orders, perceive
from modalities.molecules.chemistry import one_of, smiles_of, to_rdkit
from modalities.molecules.distributions import (
    FEW,
    bond_angles,
    bond_lengths,
    distance_by_kind,
    total_variation,
    wasserstein,
)
from modalities.molecules.geometry import as_it_is, posebusters_pass, strain_energy
from modalities.molecules.novelty import graph_hash, known_smiles

SHARES = (
    "atom_stability",
    "molecule_stability",
    "validity",
    "uniqueness",
    "valid_and_unique",
    "novelty",
    "connected",
    "valid_and_connected",
    "posebusters",
    "posebusters_geometry",
    "atom_type_distance",
    "bond_type_distance",
)
DISTANCES = (
    "bond_length_distance_angstrom",
    "bond_angle_distance_degrees",
    "bond_type_distance",
    "atom_type_distance",
    "size_distance_atoms",
)


@pytest.fixture(scope="module")
def real() -> Batch:
    """240 molecules from the middle of QM9; neighbours in its tables are alike, so not in their order."""
    return first_of_qm9(1000, table=1)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:240]]


@pytest.fixture
def checks_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked one by one is checked of 24."""
    monkeypatch.setattr(metrics, "CHECKED", 24)


def part(batch: Batch, start: int, stop: int) -> Batch:
    return batch[torch.arange(start, stop)]


def jittered(batch: Batch, size: float) -> Batch:
    """Every real atom moved by Gaussian noise of this many angstrom."""
    noise = size * torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0))
    noise[..., 3:] = 0
    return batch.with_x(batch.x + noise * batch.mask)


def shuffled(batch: Batch) -> Batch:
    """Each molecule's atoms in another order, the padding among them."""
    order = torch.rand(batch.x.shape[:2], generator=torch.Generator().manual_seed(0)).argsort(1)
    return Batch(batch.x.take_along_dim(order[..., None], 1), batch.mask.take_along_dim(order[..., None], 1))


def perceived(batch: Batch) -> Molecules:
    return Molecules(*map(torch.cat, zip(*perceive(batch, ELEMENTS), strict=True)))


def mol_of(molecule: Atoms, bonds_at: Atoms | None = None):
    """The molecule, with the bonds that its atoms would have in other places."""
    positions, numbers = arrays(molecule)
    orders = bond_orders(arrays(bonds_at or molecule)[0], numbers)
    return to_rdkit(positions[0], numbers[0], orders[0])


def stretched(name: str, factor: float) -> Atoms:
    symbols, places = atoms_of(name)
    return symbols, places * factor


# Distributions


def test_wasserstein_is_how_far_values_are_moved():
    stats = pytest.importorskip("scipy.stats")
    a, b = (torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (50, 73))
    assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-12)
    assert wasserstein(a, a + 0.25) == pytest.approx(0.25)
    assert wasserstein(a, a.flip(0)) == 0
    assert wasserstein(torch.tensor([3, 3, 5]), torch.tensor([4])) == pytest.approx(1)


def test_total_variation_is_the_share_that_changes_its_kind():
    a, b = torch.tensor([1, 1, 1, 7]), torch.tensor([1, 7])
    assert total_variation(a, b) == pytest.approx(0.25)
    assert total_variation(a, a.repeat(3)) == 0
    assert total_variation(a, torch.tensor([2, 2])) == 1
    assert total_variation(a, torch.tensor([], dtype=torch.int64)) is None


def test_lengths_and_angles_of_molecules_that_everyone_knows():
    positions, numbers = arrays(atoms_of("methane"), atoms_of("water"))
    orders = bond_orders(positions, numbers)
    kind, order, length = bond_lengths(positions, numbers, orders)
    assert order.tolist() == [1] * 6
    assert kind[0] != kind[4]
    assert length == pytest.approx([1.09] * 4 + [(0.76**2 + 0.59**2) ** 0.5] * 2)
    kind, angle = bond_angles(positions, numbers, orders)
    assert angle == pytest.approx([math.degrees(math.acos(-1 / 3))] * 6 + [2 * math.degrees(math.atan(0.76 / 0.59))])
    assert len(kind.unique()) == 2


def test_angles_are_those_of_a_loop_over_pairs_of_neighbours(real: Batch):
    positions, numbers, orders = perceived(part(real, 0, 12))
    expected = []
    for places, atoms, bonded in zip(positions.double(), numbers, orders, strict=True):
        for centre in range(len(atoms)):
            ends = bonded[centre].nonzero()[:, 0].tolist()
            for i in ends:
                for j in ends[ends.index(i) + 1 :]:
                    a, b = places[i] - places[centre], places[j] - places[centre]
                    angle = torch.arccos(torch.dot(a, b) / (a.norm() * b.norm())).rad2deg().item()
                    low, high = sorted([atoms[i].item(), atoms[j].item()])
                    expected.append(((atoms[centre].item(), low, high), angle))
    kinds, angles = bond_angles(positions.double(), numbers, orders)
    assert angles.tolist() == pytest.approx([angle for _, angle in expected])
    names = {}
    for kind, (name, _) in zip(kinds.tolist(), expected, strict=True):
        assert names.setdefault(kind, name) == name
    assert len(set(names.values())) == len(names)


def test_the_distance_by_kind_is_weighted_by_the_real_shares():
    values = torch.linspace(1, 2, 3 * FEW)
    kinds = torch.arange(3 * FEW) % 3 // 2  # two of three are of kind 0
    moved = values + torch.where(kinds == 0, 0.3, 0.0)
    assert distance_by_kind((kinds, moved), (kinds, values)) == pytest.approx(0.2)
    rare = (torch.tensor([5]), torch.tensor([9.0]))
    with_rare = (torch.cat([kinds, rare[0]]), torch.cat([moved, rare[1]]))
    assert distance_by_kind(with_rare, (kinds, values)) == pytest.approx(0.2)
    assert distance_by_kind(rare, (kinds, values)) is None


# Geometry


@pytest.mark.parametrize("name", ["methane", "water", "ethene", "cyanide", "nitrogen"])
def test_real_shapes_pass_posebusters(name: str):
    assert posebusters_pass(as_it_is(mol_of(atoms_of(name)))) == (True, True)


def test_a_radical_fails_posebusters_for_its_chemistry_alone():
    assert posebusters_pass(as_it_is(mol_of(atoms_of("methyl")))) == (True, False)


def test_pieces_fail_posebusters_for_their_chemistry_alone():
    both = together(atoms_of("water"), atoms_of("methane"))
    assert posebusters_pass(as_it_is(mol_of(both))) == (True, False)


def test_wrong_lengths_fail_posebusters_for_their_geometry():
    assert posebusters_pass(as_it_is(mol_of(stretched("ethene", 1.6), atoms_of("ethene")))) == (False, False)


def test_a_twisted_double_bond_fails_posebusters_for_its_geometry():
    symbols, places = "CCCCCC", torch.tensor([[0.67, 0, 0], [-0.67, 0, 0]] + [[0.0, 0, 0]] * 4, dtype=torch.float64)
    places[2:] = torch.tensor([[1.4, 1.3, 0], [1.4, -1.3, 0], [-1.4, 1.3, 0], [-1.4, -1.3, 0]])
    orders = torch.zeros(6, 6, dtype=torch.int64)
    for i, j, order in ((0, 1, 2), (0, 2, 1), (0, 3, 1), (1, 4, 1), (1, 5, 1)):
        orders[i, j] = orders[j, i] = order
    numbers = arrays((symbols, places))[1][0]
    assert posebusters_pass(as_it_is(to_rdkit(places, numbers, orders)))[0]
    twist = torch.tensor([[1, 0, 0], [0, 0.0, -1], [0, 1, 0]], dtype=torch.float64)
    twisted = places.clone()
    twisted[4:] = places[4:] @ twist
    assert not posebusters_pass(as_it_is(to_rdkit(twisted, numbers, orders)))[0]


def test_the_whole_of_posebusters_but_the_energy_says_the_same(real: Batch):
    """Of molecules as they are and jittered; which RDKit refuses, PoseBusters does too."""
    from posebusters import PoseBusters

    full = PoseBusters("mol", max_workers=0)
    full.config["modules"] = [m for m in full.config["modules"] if m["function"] != "energy_ratio"]
    verdicts = []
    for batch in (part(real, 0, 6), jittered(part(real, 0, 10), 0.05)):
        molecules = perceived(batch)
        for row in range(len(batch)):
            mol = one_of(molecules, row)
            for atom in mol.GetAtoms():
                atom.SetNoImplicit(True)
            with geometry._quiet():
                expected = bool(full.bust(mol).eq(True).all(axis=None))
            ours = as_it_is(one_of(molecules, row))
            verdicts.append(ours is not None and posebusters_pass(ours)[1])
            assert verdicts[-1] == expected
    assert len(set(verdicts)) == 2


def test_checking_leaves_every_log_as_it_was(capfd: pytest.CaptureFixture):
    from rdkit import rdBase

    before, level = rdBase.LogStatus(), logging.getLogger("posebusters").level
    metrics.evaluate(garbage()["boxes"], garbage()["boxes"], None, ELEMENTS)
    posebusters_pass(as_it_is(mol_of(("H", torch.zeros(1, 3)))))
    assert rdBase.LogStatus() == before
    assert logging.getLogger("posebusters").level == level
    assert capfd.readouterr() == ("", "")


def test_strain_grows_with_the_distance_from_rest():
    strains = []
    for factor in (1.0, 1.1, 1.2):
        strains.append(strain_energy(as_it_is(mol_of(stretched("ethene", factor), atoms_of("ethene")))))
    assert 0 <= strains[0] < 1 < 10 < strains[1] < strains[2]


def test_strain_is_blind_to_motion_and_moves_no_atom():
    symbols, places = stretched("ethene", 1.1)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    mol = as_it_is(mol_of((symbols, places), atoms_of("ethene")))
    moved = as_it_is(mol_of((symbols, places @ turn + 3), atoms_of("ethene")))
    assert strain_energy(mol) == pytest.approx(strain_energy(moved), abs=1e-3)
    assert torch.equal(torch.tensor(mol.GetConformer().GetPositions()), places)


def test_no_strain_without_parameters():
    borane = 1.19 * torch.tensor([[0, 0, 0], [1, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]])
    assert strain_energy(as_it_is(mol_of(("BHHH", borane)))) is None


# Novelty


def test_the_graph_hash_is_blind_to_the_order_of_the_atoms_and_padding(real: Batch):
    prints = graph_hash(perceived(real))
    assert torch.equal(graph_hash(perceived(shuffled(real))), prints)
    positions, numbers, orders = (values[:, :9] for values in perceived(part(real, 0, 4)))
    small = Molecules(positions, numbers, orders[..., :9])
    wide = Molecules(
        torch.nn.functional.pad(positions, (0, 0, 0, 5)),
        torch.nn.functional.pad(numbers, (0, 5)),
        torch.nn.functional.pad(orders[..., :9], (0, 5, 0, 5)),
    )
    assert torch.equal(graph_hash(small), graph_hash(wide))


def test_graph_hashes_are_as_many_as_different_graphs(real: Batch):
    molecules = perceived(real)
    written = [smiles_of(one_of(molecules, row)) for row in range(len(real))]
    groups: dict[str, set[int]] = {}
    for one, number in zip(written, graph_hash(molecules).tolist(), strict=True):
        if one is not None:
            groups.setdefault(one, set()).add(number)
    assert all(len(numbers) == 1 for numbers in groups.values())
    assert len(set.union(*groups.values())) > 0.95 * len(groups)


def test_the_graph_hash_of_pieces_is_that_of_the_largest():
    pieces = batch_of(together(atoms_of("water"), atoms_of("methane")), atoms_of("methane"), atoms_of("water"))
    first, second, third = graph_hash(perceived(pieces)).tolist()
    assert first == second != third


def test_the_graph_hash_does_not_see_where_an_aromatic_ring_begins():
    """Two substituents side by side: the two ways to place the double bonds are different graphs, but one SMILES."""
    numbers = torch.tensor([[6] * 6 + [9, 9] + [1] * 4])
    found = []
    for start in (0, 1):
        orders = torch.zeros(1, 12, 12, dtype=torch.int64)
        for i in range(6):
            ring = (i + 1) % 6
            orders[0, i, ring] = orders[0, ring, i] = 2 if i % 2 == start else 1
            orders[0, i, 6 + i] = orders[0, 6 + i, i] = 1
        molecules = Molecules(torch.zeros(1, 12, 3), numbers, orders)
        found.append((graph_hash(molecules).item(), smiles_of(to_rdkit(None, numbers[0], orders[0]))))
    assert found[0] == found[1]


def test_known_smiles_are_those_that_a_search_of_everything_finds(real: Batch):
    """Also among molecules in pieces, invalid ones, and ones whose atoms are in another order."""
    training = concatenate([part(real, 0, 80), jittered(part(real, 80, 160), 0.1)])
    samples = shuffled(concatenate([part(real, 60, 120), jittered(part(real, 60, 160), 0.1)]))
    everything, ours = perceived(training), perceived(samples)
    of_all = {smiles_of(one_of(everything, row)) for row in range(len(training))}
    of_samples = {smiles_of(one_of(ours, row)) for row in range(len(samples))} - {None}
    known = known_smiles(training, ELEMENTS, graph_hash(ours))
    assert None not in known
    assert known & of_samples == of_all & of_samples
    assert 10 < len(of_all & of_samples) < len(of_samples)


# All figures


@pytest.mark.usefixtures("checks_few")
def test_real_molecules_have_the_figures_of_real_molecules(real: Batch):
    figures = metrics.evaluate(part(real, 0, 120), part(real, 120, 240), part(real, 120, 240), ELEMENTS)
    assert set(figures) == {"n", *SHARES, *DISTANCES, "strain_energy_kcal_mol"}
    assert figures["n"] == 120
    assert all(0 <= figures[name] <= 1 for name in SHARES)
    for name in ("atom_stability", "molecule_stability", "validity", "valid_and_connected", "posebusters_geometry"):
        assert figures[name] > 0.85
    assert figures["connected"] == figures["uniqueness"] == figures["novelty"] == 1
    assert figures["valid_and_unique"] == figures["validity"]
    assert 0 < figures["strain_energy_kcal_mol"] < 15
    assert figures["bond_length_distance_angstrom"] < 0.02
    assert figures["bond_angle_distance_degrees"] < 3


@pytest.mark.usefixtures("checks_few")
def test_against_themselves_nothing_is_apart_or_new(real: Batch):
    samples = part(real, 0, 60)
    figures = metrics.evaluate(shuffled(samples), samples, real, ELEMENTS)
    for name in DISTANCES:
        assert figures[name] == pytest.approx(0, abs=1e-5)
    assert figures["novelty"] == 0


@pytest.mark.usefixtures("checks_few")
def test_every_figure_is_worse_the_more_the_atoms_are_jittered(real: Batch):
    samples, reference = part(real, 0, 120), part(real, 120, 240)
    table = [metrics.evaluate(jittered(samples, s), reference, None, ELEMENTS) for s in (0.0, 0.03, 0.06)]
    assert "novelty" not in table[0]
    for name in ("atom_stability", "molecule_stability", "validity", "valid_and_connected", "posebusters", "connected"):
        values = [figures[name] for figures in table]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[2]
    for name in ("bond_length_distance_angstrom", "bond_angle_distance_degrees"):
        values = [figures[name] for figures in table]
        assert values == sorted(values)
        assert values[0] < values[2] / 2
    assert table[1]["strain_energy_kcal_mol"] > 2 * table[0]["strain_energy_kcal_mol"]


def test_shares_of_a_batch_by_hand():
    methane, water, methyl = (atoms_of(name) for name in ("methane", "water", "methyl"))
    invalid = ("CFFFFF", torch.tensor([[0, 0, 0], [1.3, 0, 0], [-1.3, 0, 0], [0, 1.3, 0], [0, -1.3, 0], [0, 0, 1.3]]))
    samples = batch_of(methane, methane, together(methane, water), methyl, invalid)
    figures = metrics.evaluate(samples, samples, batch_of(methyl, atoms_of("ethene")), ELEMENTS)
    assert figures == pytest.approx(
        {
            "n": 5,
            "atom_stability": (5 + 5 + 8 + 3 + 5) / 28,
            "molecule_stability": 3 / 5,
            "validity": 4 / 5,
            "uniqueness": 2 / 4,
            "valid_and_unique": 2 / 5,
            "connected": 4 / 5,
            "valid_and_connected": 3 / 5,
            "novelty": 1 / 2,
            "posebusters": 2 / 5,
        }
    )


def garbage() -> dict[str, Batch]:
    generator = torch.Generator().manual_seed(0)

    def box(symbols: str, size: float) -> Atoms:
        return symbols, size * torch.rand(len(symbols), 3, generator=generator)

    return {
        "boxes": batch_of(*(box("CCCNOFHHHHHH"[: 1 + i % 12], 4.0) for i in range(30))),
        "heaps": batch_of(*(box("CCNOHHHH", 0.0) for _ in range(30))),
        "dust": batch_of(*(box("CCNOHHHH", 1000.0) for _ in range(30))),
        "atoms": batch_of(*(box("HCNOF"[i % 5], 1.0) for i in range(30))),
        "two": batch_of(box("CHHHH", 2.0), box("OH", 1.0)),
        "one": batch_of(box("H", 1.0)),
        "heaps of hydrogen": batch_of(*(box("HHHHHH", 0.5) for _ in range(30))),
    }


@pytest.mark.parametrize("name", list(garbage()))
@pytest.mark.parametrize("reference", ["real", "itself"])
def test_garbage_has_figures_that_are_numbers_or_none(name: str, reference: str, real: Batch):
    samples = garbage()[name]
    against = samples if reference == "itself" else part(real, 0, 40)
    figures = metrics.evaluate(samples, against, part(real, 0, 40), ELEMENTS)
    assert all(math.isfinite(value) for value in figures.values())
    assert all(0 <= figures[share] <= 1 for share in SHARES if share in figures)
    assert "strain_energy_kcal_mol" not in figures
    if name == "heaps of hydrogen":  # more bonds than any atom may have: nothing is valid
        assert figures["validity"] == figures["atom_stability"] == figures["posebusters"] == 0
        assert not {"uniqueness", "novelty", "posebusters_geometry"} & set(figures)
    if name in ("dust", "atoms"):
        assert not {"bond_length_distance_angstrom", "bond_angle_distance_degrees"} & set(figures)
        assert figures["validity"] == 1  # the rule says so; the others know better
        assert figures["molecule_stability"] == figures["posebusters"] == 0
    assert ("size_distance_atoms" in figures) == (len(samples) >= metrics.ENOUGH)


def test_too_few_says_what_is_left_out(real: Batch):
    assert metrics.too_few(metrics.ENOUGH) == ""
    for n, shapes in ((FEW - 1, False), (metrics.ENOUGH - 1, True)):
        said = metrics.too_few(n)
        assert f"n={n} " in said
        assert ("strain" not in said) == shapes
        figures = metrics.evaluate(part(real, 0, n), part(real, 100, 100 + n), None, ELEMENTS)
        assert not set(DISTANCES) & set(figures)
        assert ("strain_energy_kcal_mol" in figures) == ("posebusters_geometry" in figures) == shapes
