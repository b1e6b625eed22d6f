"""Molecules of the user's files: SDF, XYZ and SMILES, good and bad; and QM9 as PyTorch Geometric downloads it."""

from __future__ import annotations

import gzip
import logging
import pickle
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from core.batch import Batch
from core.data import whole
from core.errors import UserError
from core.splits import SPLITS
from modalities.molecules.data import MoleculeData
from modalities.molecules.elements import numbers

pytest.importorskip("rdkit")

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor, rdDistGeom

from modalities.molecules import qm9
from modalities.molecules.embedding import embed_all, read_list
from modalities.molecules.files import Sdf, Smiles, Xyz
from modalities.molecules.reading import Record, condition_name, read_sdf, read_xyz

THIRDS = {"val": 0.25, "test": 0.25}
# of different sizes, so that each is known by its number of atoms
LIST = ["C", "CC", "CCC", "CCCC", "CCO", "c1ccccc1", "C#N", "NC=O"]
ATOMS = [5, 8, 11, 14, 9, 12, 3, 6]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(path))
    return path


def embedded(smiles: str, seed: int = 1) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=seed)
    return mol


def sdf(mol: Chem.Mol, **items: object) -> str:
    """A record of an SDF file."""
    data = "".join(f">  <{name}>\n{value}\n\n" for name, value in items.items())
    return f"{Chem.MolToMolBlock(mol, kekulize=False)}{data}$$$$\n"


def xyz(mol: Chem.Mol, comment: str = "") -> str:
    """A frame of an XYZ file."""
    first, _, *atoms = Chem.MolToXYZBlock(mol).splitlines()
    return "\n".join([first, comment, *atoms]) + "\n"


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def molecules() -> list[Chem.Mol]:
    return [embedded(smiles) for smiles in LIST]


def all_of(data: MoleculeData) -> list[tuple[list[int], np.ndarray, dict[str, float]]]:
    """Atomic numbers, positions and conditions of every molecule of all splits, by the number of atoms."""
    found = []
    for split in SPLITS:
        batch: Batch = whole(getattr(data, split))
        z = numbers(batch.x, batch.mask, data.elements)
        for row, size in enumerate(batch.mask[:, :, 0].sum(1).int().tolist()):
            cond = {name: float(value[row]) for name, value in batch.cond.items()}
            found.append((z[row, :size].tolist(), batch.x[row, :size, :3].numpy(), cond))
    return sorted(found, key=lambda molecule: len(molecule[0]))


def assert_holds(data: MoleculeData, molecules: Sequence[Chem.Mol]) -> None:
    """These molecules and no others, with their atoms in the same order and places (4 decimals)."""
    found = all_of(data)
    assert len(found) == len(molecules)
    for (z, positions, _), mol in zip(found, sorted(molecules, key=lambda m: m.GetNumAtoms()), strict=True):
        assert z == [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        np.testing.assert_allclose(positions, mol.GetConformer().GetPositions(), atol=6e-5)


def reason_of(text: str, hydrogens: bool = True) -> str:
    """Why the only record of an SDF file cannot be used."""
    [(place, found)] = list(read_sdf(text.splitlines(keepends=True), hydrogens))
    assert place == "record 1"
    assert isinstance(found, str), "it can be used"
    assert "\n" not in found
    return found


# SDF and XYZ


def test_every_form_of_file_gives_the_same_molecules(tmp_path: Path, molecules: list[Chem.Mol]) -> None:
    records, frames = [sdf(mol) for mol in molecules], [xyz(mol) for mol in molecules]
    whole_sdf, whole_xyz = write(tmp_path / "a.sdf", "".join(records)), write(tmp_path / "a.xyz", "".join(frames))
    for path in (whole_sdf, whole_xyz):
        Path(f"{path}.gz").write_bytes(gzip.compress(Path(path).read_bytes()))
    for number, (record, frame) in enumerate(zip(records, frames, strict=True)):
        write(tmp_path / "sdf" / "deeper" / f"{number}.{'mol' if number % 2 else 'sdf'}", record.replace("$$$$\n", ""))
        write(tmp_path / "xyz" / f"{number}.xyz", frame)
    write(tmp_path / "sdf" / ".hidden.sdf", "no molecule")
    write(tmp_path / "sdf" / "notes.txt", "no molecule")
    v3000 = "".join(Chem.MolToV3KMolBlock(mol) + "$$$$\n" for mol in molecules)
    windows = "".join(records).replace("\n", "\r\n").encode()
    (tmp_path / "windows.sdf").write_bytes(windows)
    for path in ("a.sdf", "a.sdf.gz", "sdf", "windows.sdf", Path(write(tmp_path / "v3.sdf", v3000)).name):
        assert_holds(Sdf(str(tmp_path / path), **THIRDS), molecules)
    for path in ("a.xyz", "a.xyz.gz", "xyz"):
        data = Xyz(str(tmp_path / path), **THIRDS)
        assert_holds(data, molecules)
        assert data.elements == ["H", "C", "N", "O"]
        assert data.skipped == []
    assert [len(getattr(data, split)) for split in SPLITS] == [4, 2, 2]


def test_files_are_read_once_and_again_when_they_change(
    tmp_path: Path, molecules: list[Chem.Mol], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.xyz", "".join(map(xyz, molecules)))
    first = Xyz(path, **THIRDS)
    assert "reading the molecules" in capsys.readouterr().out
    again = Xyz(path, **THIRDS, rotate=True)
    assert "reading" not in capsys.readouterr().out
    assert torch.equal(whole(first.train).x, whole(again.train).x)
    write(tmp_path / "a.xyz", "".join(map(xyz, molecules[1:])))
    assert_holds(Xyz(path, **THIRDS), molecules[1:])
    assert "reading" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [False, True])
def test_missing_hydrogens_are_added_where_they_belong(tmp_path: Path, molecules: list[Chem.Mol], kept: bool) -> None:
    """All of them, a bond's length from their atoms; the other atoms stay where they are."""
    bare = [Chem.RemoveHs(mol) for mol in molecules]
    data = Sdf(write(tmp_path / "a.sdf", "".join(map(sdf, bare))), hydrogens=not kept, **THIRDS)
    found = all_of(data)
    assert [len(z) for z, *_ in found] == (sorted(mol.GetNumAtoms() for mol in bare) if kept else sorted(ATOMS))
    for z, positions, _ in found:
        heavy = np.array(z) > 1
        assert heavy.all() == kept
        distances = np.linalg.norm(positions[~heavy, None] - positions[None, heavy], axis=-1)
        assert ((distances.min(1) > 0.9) & (distances.min(1) < 1.2)).all()
    places = np.concatenate([positions[np.array(z) > 1] for z, positions, _ in found])
    for mol in bare:
        for place in mol.GetConformer().GetPositions():
            assert np.abs(places - place).max(1).min() < 6e-5


def test_partly_bare_and_aromatic_molecules_are_completed() -> None:
    for smiles in ("c1cc[nH]c1", "CC[N+](=O)[O-]", "OB(O)c1ccncc1"):
        mol = embedded(smiles)
        some = Chem.RWMol(mol)
        some.RemoveAtom(mol.GetNumAtoms() - 1)
        for atom in some.GetAtoms():
            atom.SetNoImplicit(False)
        [(_, found)] = read_sdf(sdf(some).splitlines(keepends=True))
        assert isinstance(found, Record), found
        assert len(found.numbers) == mol.GetNumAtoms()


@pytest.mark.parametrize("silenced", ["log", "logger", "level"])
def test_rdkit_says_why_whoever_has_silenced_it(
    silenced: str, molecules: list[Chem.Mol], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, wrong = logging.getLogger("rdkit"), sdf(molecules[1]).replace(" C  ", " Zz ", 1)
    if silenced == "log":
        rdBase.DisableLog("rdApp.error")
    elif silenced == "logger":
        monkeypatch.setattr(logger, "disabled", True)
    else:
        monkeypatch.setattr(logger, "level", logging.CRITICAL)
    try:
        assert reason_of(wrong) == "Element 'Zz' not found"
        assert ("rdApp.error:disabled" in rdBase.LogStatus()) == (silenced == "log"), "it is left as it was"
    finally:
        rdBase.EnableLog("rdApp.error")


def test_records_that_cannot_be_used_say_why(molecules: list[Chem.Mol]) -> None:
    ethane, block = molecules[1], sdf(molecules[1])
    flat = Chem.Mol(ethane)
    rdDepictor.Compute2DCoords(flat)
    assert reason_of(sdf(flat)) == "no 3D coordinates: it is flat, and not marked 3D"
    bare = Chem.Mol(ethane)
    bare.RemoveAllConformers()
    assert "no 3D coordinates" in reason_of(sdf(bare))
    assert reason_of(sdf(embedded("[NH4+]"))) == "a net charge of +1: molecules must be neutral"
    assert reason_of(sdf(embedded("CC(=O)[O-]"))) == "a net charge of -1: molecules must be neutral"
    assert reason_of(block.replace(" C  ", " *  ", 1)) == "atom 1 is a dummy, no element"
    assert reason_of(block.replace(" C  ", " R# ", 1)) == "atom 1 is a dummy, no element"
    assert reason_of(block.replace(" C  ", " U  ", 1), False) == "an element of number 92, which is not from 1 to 86"
    assert reason_of(block.replace(" C  ", " Zz ", 1)) == "Element 'Zz' not found"
    x = block.splitlines()[4][:10]
    assert reason_of(block.replace(x, "       nan", 1)) == "Cannot process coordinates on line 5"
    assert reason_of(block.replace(x, "99999.0000", 1)) == "a coordinate that is not within 10,000 angstrom"
    two = block.splitlines(keepends=True)
    two[5] = two[4]
    assert reason_of("".join(two)) == "two atoms in one place"
    [(_, drawn)] = read_sdf(two, hydrogens=False, drawn=True)
    assert (drawn.positions[0] == drawn.positions[1]).all()
    assert reason_of(block[: len(block) // 3]) == "EOF hit while reading atoms"
    assert reason_of("hello\n").startswith("Counts line too short")
    assert reason_of("$$$$\n") == "empty"
    assert reason_of("\n  nothing\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n") == "no atoms"
    crowded = block.replace("  1  2  1  0", "  1  2  3  0")
    assert reason_of(crowded).endswith("so hydrogens cannot be added; data.hydrogens=false adds none")
    [(_, found)] = read_sdf(crowded.splitlines(keepends=True), hydrogens=False)
    assert isinstance(found, Record)


def test_planar_molecules_and_inner_salts_are_no_errors() -> None:
    """z = 0 is a place like any other where the header says 3D; and charges may cancel."""
    benzene = embedded("c1ccccc1")
    for i in range(benzene.GetNumAtoms()):
        angle = np.pi * (i % 6) / 3
        radius = 1.39 if i < 6 else 2.48
        benzene.GetConformer().SetAtomPosition(i, (radius * np.cos(angle), radius * np.sin(angle), 0.0))
    for mol in (benzene, embedded("C[N+](C)(C)CC(=O)[O-]")):
        [(_, found)] = read_sdf(sdf(mol).splitlines(keepends=True))
        assert isinstance(found, Record)
    assert "3D" in sdf(benzene).splitlines()[1]
    assert "flat" in reason_of(sdf(benzene).replace("3D", "2D"))


def test_bad_records_are_named_counted_and_refused_if_strict(
    tmp_path: Path, molecules: list[Chem.Mol], capfd: pytest.CaptureFixture[str]
) -> None:
    records = [sdf(mol) for mol in molecules]
    records[2:2] = ["damaged\n$$$$\n", sdf(embedded("[NH4+]"))]
    path = write(tmp_path / "a.sdf", "".join(records))
    data = Sdf(path, **THIRDS)
    assert_holds(data, molecules)
    assert [line.split(":")[0] for line in data.skipped] == ["a.sdf record 3", "a.sdf record 4"]
    assert "a.sdf record 3, a.sdf record 4" in data.describe()
    printed = capfd.readouterr()
    assert "a.sdf record 4: a net charge of +1: molecules must be neutral" in printed.out
    assert printed.err == ""  # RDKit says nothing of its own
    assert not logging.getLogger("rdkit").filters
    with pytest.raises(UserError, match=r"strict=true, and 2 records cannot be read, first a.sdf record 3: "):
        Sdf(path, **THIRDS, strict=True)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    for name, kind in (("a.sdf", Sdf), ("a.xyz", Xyz), ("a.smi", Smiles)):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(UserError, match=f"too few.*{name} "):
            kind(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


def test_damaged_archives_give_what_comes_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)  # noise, which gzip cannot make shorter
    frame = "2\n\nH {} {} {}\nH {} {} {}\n"
    packed = gzip.compress("".join(frame.format(*rng.normal(size=6)) for _ in range(3000)).encode())
    (tmp_path / "a.xyz.gz").write_bytes(packed[: len(packed) * 3 // 4])
    data = Xyz(str(tmp_path / "a.xyz.gz"))
    [line] = data.skipped
    kept = len(data.train) + len(data.val) + len(data.test)
    assert 1500 < kept < 3000
    assert line.startswith(f"a.xyz.gz from record {kept + 1} on: the file cannot be read: ")
    (tmp_path / "b.xyz.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"b.xyz.gz from record 1 on: the file cannot be read: Not a gzipped file"):
        Xyz(str(tmp_path / "b.xyz.gz"))


def test_frames_of_xyz_files() -> None:
    good = '2\nenergy=-1.5 name=x Lattice="1 2" \nH 0 0 0\n1 0 0 0.74 9 9\n\n'
    lower = "1\n\ncl 1e-3 -2 3\n"
    wrong = "1\n\nH 0 0\n"
    other = "1\nProperties=pos:R:3:species:S:1\n0 0 0 H\n"
    unknown, infinite = "1\n\nQ 0 0 0\n", "1\n\nH 0 nan 0\n"
    found = list(read_xyz((good + lower + wrong + other + unknown + infinite + "3\n\nH 0 0 0\n").splitlines(True)))
    assert [place for place, _ in found] == [f"record {number}" for number in range(1, 8)]
    first, second, *reasons = [entry for _, entry in found]
    assert first.numbers.tolist() == [1, 1]
    assert first.positions.tolist() == [[0, 0, 0], [0, 0, 0.74]]
    assert first.properties == {"energy": -1.5}
    assert second.numbers.tolist() == [17]
    assert reasons[0] == "atom 1: 'H 0 0' is not a symbol and three numbers"
    assert reasons[1] == "columns in another order than species:S:1:pos:R:3"
    assert reasons[2].startswith("unknown element 'Q'")
    assert reasons[3] == "a coordinate that is no number"
    assert reasons[4] == "the file ends after 1 of its 3 atoms"
    *_, last = read_xyz([*lower.splitlines(True), "H 0 0 0\n", *good.splitlines(True)])
    assert last == ("from record 2 on", "'H 0 0 0' is not a number of atoms")
    assert list(read_xyz(["0\n", "\n"])) == [("record 1", "no atoms")]


# What is taken


def test_properties_are_conditions(tmp_path: Path, molecules: list[Chem.Mol]) -> None:
    """SD data items and pairs in XYZ comments, wherever they are numbers; a record without one is left out."""
    items = [{"HOMO-LUMO gap (eV)": float(n), "name": f"m{n}", "all": 1} for n in range(len(molecules))]
    items[3] = {"HOMO-LUMO gap (eV)": "unknown", "all": 1}
    items[4] = {"HOMO-LUMO gap (eV)": "inf", "all": 1}
    path = write(tmp_path / "a.sdf", "".join(sdf(mol, **item) for mol, item in zip(molecules, items, strict=True)))
    data = Sdf(path, properties=["HOMO_LUMO_gap_eV"], **THIRDS)
    assert {len(z): cond["HOMO_LUMO_gap_eV"] for z, _, cond in all_of(data)} == {
        size: float(n) for n, size in enumerate(ATOMS) if n not in (3, 4)
    }
    assert data.skipped == [f"a.sdf record {n}: no number HOMO_LUMO_gap_eV" for n in (4, 5)]
    values = data.train.cond["HOMO_LUMO_gap_eV"]
    assert data.facts["properties"] == {"HOMO_LUMO_gap_eV": [float(values.mean()), float(values.std())]}
    with pytest.raises(UserError, match=r"no molecule of .*a.sdf has a number gap; there is HOMO_LUMO_gap_eV, all$"):
        Sdf(path, properties=["gap"], **THIRDS)
    with pytest.raises(UserError, match=r"all is 1 for every training molecule"):
        Sdf(path, properties=["all"], **THIRDS)
    for name in ("n_atoms", "drop", "../gap", "gap (eV)"):
        with pytest.raises(UserError, match="is no name of a condition"):
            Sdf(path, properties=[name], **THIRDS)
    frames = "".join(xyz(mol, f'step={n} energy=-{n}.5 Title="a b"') for n, mol in enumerate(molecules))
    data = Xyz(write(tmp_path / "a.xyz", frames), properties=["energy"], **THIRDS)
    assert {len(z): cond["energy"] for z, _, cond in all_of(data)} == {size: -n - 0.5 for n, size in enumerate(ATOMS)}
    assert condition_name(" log P (o/w) ") == "log_P_o_w"


def test_elements_and_sizes_can_be_chosen(
    tmp_path: Path, molecules: list[Chem.Mol], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left out by choice is no bad record, so strict data takes it too."""
    path = write(tmp_path / "a.xyz", "".join(map(xyz, molecules)))
    data = Xyz(path, elements=["C", "H", "O", "F"], max_atoms=11, strict=True, **THIRDS)
    assert_holds(data, [molecules[i] for i in (0, 1, 2, 4)])
    assert data.facts["elements"] == ["C", "H", "O", "F"]
    assert data.skipped == []
    said = " ".join(capsys.readouterr().out.split())
    assert "left out 4 records by data.elements or data.max_atoms, such as a.xyz record 4: 14 atoms, more than" in said
    Xyz(path, elements=["C", "H", "O", "F"], **THIRDS)
    said = " ".join(capsys.readouterr().out.split())
    assert "left out 2 records" in said
    assert "a.xyz record 7: holds N, not in data.elements=['C', 'H', 'O', 'F']" in said
    listed = write(tmp_path / "a.smi", "\n".join(LIST))
    smiles = Smiles(listed, max_atoms=11, strict=True, **THIRDS)
    assert sorted(len(z) for z, *_ in all_of(smiles)) == sorted(size for size in ATOMS if size <= 11)
    with pytest.raises(UserError, match=r"0 usable molecules are too few: none is left for the train split$"):
        Xyz(path, max_atoms=2)
    with pytest.raises(UserError, match=r"unknown element 'Xx'"):
        Xyz(path, elements=["C", "Xx"])
    with pytest.raises(UserError, match=r"data.max_atoms=0: 1 or more"):
        Xyz(path, max_atoms=0)


def test_splits_are_shares_stratified_by_size_and_halves_of_training_disjoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for number in range(200):
        size = 1 + number % 4
        atoms = "".join(f"H {x} {y} {z}\n" for x, y, z in rng.normal(size=(size, 3)).round(4))
        frames.append(f"{size}\nnumber={number}\n{atoms}")
    path = write(tmp_path / "a.xyz", "".join(frames))
    data = Xyz(path, properties=["number"], val=0.1, test=0.2)
    taken = [getattr(data, split).cond["number"].tolist() for split in SPLITS]
    assert [len(t) for t in taken] == [140, 20, 40]
    assert sorted(chain.from_iterable(taken)) == list(range(200))
    for split in SPLITS:
        assert np.ptp(np.bincount(getattr(data, split).sizes)[1:]) <= 1
    halves = [
        set(Xyz(path, properties=["number"], val=0.1, test=0.2, half=half).train.cond["number"].tolist())
        for half in ("first", "second")
    ]
    assert [len(half) for half in halves] == [70, 70]
    assert halves[0] | halves[1] == set(taken[0])
    other = Xyz(path, properties=["number"], val=0.1, test=0.2, split_seed=1)
    assert set(other.test.cond["number"].tolist()) != set(taken[2])


def test_nothing_to_read_is_said_in_one_line(tmp_path: Path, molecules: list[Chem.Mol]) -> None:
    (tmp_path / "folder").mkdir()
    for path, reason in {
        "nowhere.sdf": "no such file or folder",
        write(tmp_path / "a.pdb", ""): r"a.pdb: must end with .sdf, .sdf.gz, .mol",
        write(tmp_path / "empty.sdf", ""): "holds no molecules",
        write(tmp_path / "blank.sdf", "\n\n"): "holds no molecules",
        str(tmp_path / "folder"): "holds no files of molecules",
        write(tmp_path / "few.sdf", sdf(molecules[0])): "1 usable molecules are too few: none is left for the val",
        write(tmp_path / "bad.sdf", "x\n$$$$\n"): "the train split; skipped 1 records, such as bad.sdf",
    }.items():
        with pytest.raises(UserError, match=reason) as caught:
            Sdf(path)
        assert "\n" not in str(caught.value)
    for atoms in ("1\n\nH {0} 0 0\n", "2\n\nH {0} 0 0\nH {0} 0 1e-4\n"):
        alike = write(tmp_path / "alike.xyz", "".join(atoms.format(n) for n in range(20)))
        with pytest.raises(UserError, match=r"alike.xyz has no shapes to learn: single atoms alone, or"):
            Xyz(alike)
    (tmp_path / "folder" / "a.gz").write_bytes(b"")
    with pytest.raises(UserError, match="holds no files of molecules"):
        Sdf(str(tmp_path / "folder"))
    with pytest.raises(UserError, match=r"data.val=0.6 and data.test=0.4"):
        Sdf(str(tmp_path / "few.sdf"), val=0.6, test=0.4)


# SMILES


def test_smiles_become_relaxed_molecules_with_hydrogens(tmp_path: Path) -> None:
    lines = [f"{smiles} molecule-{n}" for n, smiles in enumerate(LIST)]
    text = "smiles name\n" + "\n".join(lines[:4]) + "\n# the others\n\n" + "\n".join(lines[4:])
    data = Smiles(write(tmp_path / "a.smi", text), workers=2, **THIRDS)
    found = all_of(data)
    assert [len(z) for z, *_ in found] == sorted(ATOMS)
    assert data.skipped == []
    benzene = next(positions for z, positions, _ in found if len(z) == 12)
    carbon = benzene[:6]
    bonds = np.linalg.norm(carbon - np.roll(carbon, 1, 0), axis=1)
    np.testing.assert_allclose(bonds, 1.395, atol=0.01)
    assert np.linalg.svd(benzene - benzene.mean(0))[1][2] < 0.02  # it is flat
    methane = next(positions for z, positions, _ in found if len(z) == 5)
    np.testing.assert_allclose(np.linalg.norm(methane[1:] - methane[0], axis=1), 1.092, atol=0.005)


def test_embedding_is_the_same_for_any_number_of_workers() -> None:
    text = ["CCO\n", "CCO\n", "CC(C)CO\n"]
    one, other = ([found for _, found in embed_all(read_list(text), workers=workers)] for workers in (1, 3))
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.positions, b.positions)
    assert not np.array_equal(one[0].positions, one[1].positions)  # each line has a seed of its own


def test_tables_of_smiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f'"{n},5",{smiles},x,{n}.25' for n, smiles in enumerate(LIST)]
    path = write(tmp_path / "a.csv", "note,SMILES,name,log P\n" + "\n".join(rows) + "\n")
    data = Smiles(path, properties=["log_P"], **THIRDS)
    assert {len(z): cond["log_P"] for z, _, cond in all_of(data)} == {size: n + 0.25 for n, size in enumerate(ATOMS)}
    assert f"embedding SMILES: {len(LIST)} of {len(LIST)}" in capsys.readouterr().out
    named = write(tmp_path / "b.csv", "structure,gap\n" + "\n".join(f"{smiles},1" for smiles in LIST))
    assert [len(z) for z, *_ in all_of(Smiles(named, column="structure", **THIRDS))] == sorted(ATOMS)
    with pytest.raises(UserError, match=r"data.column=null: no column smiles among structure, gap"):
        Smiles(named)
    with pytest.raises(UserError, match=r"data.column=gap: only a .csv file has columns"):
        Smiles(write(tmp_path / "a.smi", "C"), column="gap")
    with pytest.raises(UserError, match="holds no molecules"):
        Smiles(write(tmp_path / "empty.csv", ""))
    with pytest.raises(UserError, match=r"data.workers=0: 1 or more"):
        Smiles(path, workers=0)


def test_smiles_that_cannot_be_used_say_why(capfd: pytest.CaptureFixture[str]) -> None:
    wrong = {
        "C1CC": "'C1CC' is no SMILES",
        "C(C)(C)(C)(C)C": "Explicit valence for atom # 0 C, 5, is greater than permitted",
        "[Na+].[Cl-]": "[Na+].[Cl-] is 2 molecules, not one",
        "C[NH3+]": "C[NH3+] has a net charge of +1: molecules must be neutral",
        "C*": "C* has a dummy atom, no element",
        "c1cccc1": "Can't kekulize mol.",
        "CCCC": "14 atoms, more than data.max_atoms=12",
        "[SeH2]": "MMFF94 has no parameters for [SeH2]",
        "x" * 200: "is no SMILES",
    }
    capfd.readouterr()
    found = list(embed_all(read_list(f"{smiles} name\n" for smiles in wrong), max_atoms=12, workers=1))
    assert [place for place, _ in found] == [f"line {number}" for number in range(1, len(wrong) + 1)]
    for (_, reason), (smiles, expected) in zip(found, wrong.items(), strict=True):
        assert isinstance(reason, str), smiles
        assert expected in reason
        assert len(reason) < 150
    assert capfd.readouterr().err == ""


# QM9 by PyTorch Geometric


HEADER = "mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv,u0_atom,u298_atom,h298_atom,g298_atom"


def raw_files(folder: Path, molecules: Sequence[Chem.Mol]) -> None:
    """What PyTorch Geometric unpacks: every molecule's row holds its number from 1, times the column's place."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gdb9.sdf").write_text("".join(map(sdf, molecules)))
    rows = [",".join([f"gdb_{n}", *(str(n * k) for k in range(1, 20))]) for n in range(1, len(molecules) + 1)]
    (folder / "gdb9.sdf.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    left_out = "Index   Name\n=====\n       3   gdb_3   why\n       5   gdb_5   why\n\nThat is all.\n"
    (folder / "uncharacterized.txt").write_text(left_out)


@pytest.fixture
def geometric(monkeypatch: pytest.MonkeyPatch, molecules: list[Chem.Mol]) -> list[Path]:
    """PyTorch Geometric's set with a download of eight molecules, two of them left out; the folders it went to."""
    datasets = pytest.importorskip("torch_geometric.datasets")
    asked = []

    def download(self: object) -> None:
        asked.append(Path(self.raw_dir))
        raw_files(asked[-1], molecules)

    monkeypatch.setattr(datasets.QM9, "download", download)
    monkeypatch.setattr(datasets.QM9, "__init__", None)  # it would unpickle
    for name, value in {"MOLECULES": 6, "TRAIN": 3, "VAL": 2}.items():
        monkeypatch.setattr(qm9, name, value)
    return asked


def test_qm9_of_pytorch_geometric(geometric: list[Path], molecules: list[Chem.Mol], cache: Path) -> None:
    from modalities.molecules.qm9_pyg import PROPERTIES, Qm9Pyg

    data = Qm9Pyg(properties=list(PROPERTIES))
    kept = [number for number in range(8) if number not in (2, 4)]
    assert_holds(data, [molecules[number] for number in kept])
    assert data.elements == list(qm9.ELEMENTS)
    assert data.train.sizes.tolist() == [ATOMS[kept[row]] for row in qm9.split(6)["train"]]
    assert set(qm9.PROPERTIES) < set(PROPERTIES)
    columns = HEADER.split(",")
    units = dict.fromkeys(("homo", "lumo", "gap", "zpve", "u0", "u298", "h298", "g298"), 27.211386246)
    units |= dict.fromkeys(("u0_atom", "u298_atom", "h298_atom", "g298_atom"), 0.04336414)
    for z, _, cond in all_of(data):
        number = ATOMS.index(len(z)) + 1
        for name, value in cond.items():
            column = name[-1].upper() if name.startswith("rotation") else name
            expected = number * columns.index(column) * units.get(name, 1)
            assert value == pytest.approx(expected, rel=1e-6), name
    Qm9Pyg()
    assert len(geometric) == 1  # downloaded once
    assert sorted(path.name for path in (cache / "qm9_pyg" / "raw").iterdir()) == [
        "gdb9.sdf",
        "gdb9.sdf.csv",
        "uncharacterized.txt",
    ]


def test_targets_have_the_units_of_pytorch_geometric() -> None:
    """Its factors, in the order of its targets."""
    module = pytest.importorskip("torch_geometric.datasets.qm9")
    from modalities.molecules.qm9_pyg import PROPERTIES

    columns = HEADER.split(",")[1:]
    factor = dict(PROPERTIES.values())
    assert sorted(factor) == sorted(columns)
    ours = torch.tensor([factor[column] for column in columns[3:] + columns[:3]])
    torch.testing.assert_close(ours, module.conversion, rtol=1e-6, atol=0)


def test_the_folder_of_pytorch_geometric_is_read_without_unpickling(
    geometric: list[Path], molecules: list[Chem.Mol], tmp_path: Path
) -> None:
    from modalities.molecules.qm9_pyg import Qm9Pyg

    raw_files(tmp_path / "raw", molecules)
    (tmp_path / "processed").mkdir()
    for name in ("pre_transform.pt", "pre_filter.pt", "data_v3.pt"):
        (tmp_path / "processed" / name).write_bytes(b"a pickle that must not be read")
    assert len(Qm9Pyg(str(tmp_path)).train) == 3
    assert geometric == []


def test_wrong_files_of_pytorch_geometric_are_refused(
    geometric: list[Path], molecules: list[Chem.Mol], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modalities.molecules.qm9_pyg import Qm9Pyg

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            Qm9Pyg(str(tmp_path))
        assert "\n" not in str(caught.value)

    raw, raw_table = tmp_path / "raw", tmp_path / "raw" / "gdb9.sdf.csv"
    raw_files(raw, molecules)
    monkeypatch.setattr(qm9, "MOLECULES", 7)
    refused("holds 6 molecules, not 7")
    monkeypatch.setattr(qm9, "MOLECULES", 6)
    table = raw_table.read_text()
    raw_table.write_text(table[: table.rindex("gdb_8")])
    refused("molecule 8 cannot be read: .*different lengths")
    raw_table.write_text(table.replace("gap", "gasp"))
    refused(r"molecule 1 cannot be read: KeyError\('gap'\)")
    raw_table.write_text(table)
    (raw / "gdb9.sdf").write_text("".join(map(sdf, [embedded("CS"), *molecules[1:]])))
    refused("molecule 1 cannot be read: .*an element of number 16")
    (raw / "gdb9.sdf").write_text("x\n$$$$\n")
    refused("molecule 1 cannot be read: ")
    (raw / "uncharacterized.txt").unlink()
    refused("uncharacterized.txt is not there: remove .*raw to download it again")


def test_without_a_network_the_user_hears_what_to_do(
    geometric: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_geometric.datasets import QM9

    from modalities.molecules.qm9_pyg import Qm9Pyg

    def download(self: object) -> None:
        Path(self.raw_dir, "half").write_bytes(b"an archive cut off")
        raise OSError("<urlopen error\nName or service not known>")

    monkeypatch.setattr(QM9, "download", download)
    with pytest.raises(UserError, match=r"\(<urlopen error Name or .*\): data=qm9 needs no network; or set data.path="):
        Qm9Pyg()
    assert list((cache / "qm9_pyg").iterdir()) == []  # the next run tries again
