"""Sets of molecules: QM9 counted and split as the field does, batches, halves, rotations, damaged tables."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from molecule_examples import first_of_qm9
from torch import Tensor

from core.data import whole
from core.errors import UserError
from core.splits import SPLITS
from modalities.molecules import qm9
from modalities.molecules.data import MoleculeData, rotations, write_cache
from modalities.molecules.elements import numbers
from modalities.molecules.fragments import fragments
from modalities.molecules.qm9 import PROPERTIES, Qm9

SIZES = [3, 1, 4, 2, 5, 2]


# Any set


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A cache of six molecules: the first three for training, one for validation, two for testing."""
    rng = np.random.default_rng(0)
    atoms = sum(SIZES)
    rows = {"train": np.arange(3), "val": np.array([3]), "test": np.array([5, 4])}
    species = np.arange(atoms, dtype=np.uint8) % 3
    positions = rng.normal(size=(atoms, 3)).astype(np.float32) + 5
    gap = {"gap": np.arange(6, dtype=np.float32)}
    write_cache(tmp_path, ["H", "C", "Cl"], positions, species, np.array(SIZES), gap, rows, ["a.xyz record 7: bad"])
    return tmp_path


def test_batches_are_padded_to_their_largest_molecule(small: Path) -> None:
    data = MoleculeData("small", small, ["gap"])
    positions, species = np.load(small / "positions.npy"), np.load(small / "species.npy")
    for split, of_split in {"train": [0, 1, 2], "val": [3], "test": [5, 4]}.items():
        source = getattr(data, split)
        assert len(source) == len(of_split)
        for places in ([0], list(range(len(of_split))), [*reversed(range(len(of_split))), 0]):
            batch = source.batch(places)
            chosen = [of_split[place] for place in places]
            assert batch.x.shape == (len(places), max(SIZES[m] for m in chosen), 6)
            assert batch.x.dtype == batch.mask.dtype == torch.float32
            assert batch.cond["gap"].tolist() == chosen
            for row, molecule in enumerate(chosen):
                first, size = sum(SIZES[:molecule]), SIZES[molecule]
                x = batch.x[row, :size].numpy()
                assert np.array_equal(x[:, :3], positions[first : first + size])
                assert np.array_equal(x[:, 3:], np.eye(3)[species[first : first + size]])
                assert not batch.x[row, size:].any()
                assert batch.mask[row, :, 0].tolist() == [1] * size + [0] * (batch.x.shape[1] - size)


def test_facts_follow_from_the_training_split(small: Path) -> None:
    data = MoleculeData("small", small, ["gap"])
    assert data.facts["elements"] == ["H", "C", "Cl"]
    assert data.facts["sizes"] == {1: 1, 3: 1, 4: 1}
    assert data.facts["properties"] == {"gap": [1.0, pytest.approx((2 / 3) ** 0.5)]}
    centred = []
    for split in SPLITS:
        batch = whole(getattr(data, split))
        for x, size in zip(batch.x[..., :3].double(), batch.mask[..., 0].sum(1).int().tolist(), strict=True):
            centred.append(x[:size] - x[:size].mean(0))
    assert data.facts["scale"] == pytest.approx(float(torch.cat(centred).square().mean().sqrt()), abs=0.0051)
    assert data.describe() == (
        "small: 3 training, 1 validation and 2 test molecules of 1 to 4 atoms, H, C, Cl, conditions gap, "
        "1 unreadable records skipped: a.xyz record 7"
    )


def test_wrong_choices_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data.properties: unknown homo, mass; small has gap$"):
        MoleculeData("small", small, ["mass", "gap", "homo"])
    with pytest.raises(UserError, match=r"^data.half=third: must be first, second or null$"):
        MoleculeData("small", small, half="third")
    for split in SPLITS:
        rows = {name: np.arange(0 if name == split else 1) for name in SPLITS}
        with pytest.raises(UserError, match=f"none is left for the {split} split; skipped 1 records, such as b: bad"):
            write_cache(tmp_path, ["H"], np.zeros((1, 3)), np.zeros(1), np.ones(1), {}, rows, ["b: bad"])


def test_rotations_are_uniform() -> None:
    """Orthogonal, never mirrored, with the first two moments of the uniform distribution: 0, and one third."""
    u = torch.rand(40_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    r = rotations(u)
    torch.testing.assert_close(r @ r.mT, torch.eye(3, dtype=torch.float64).expand_as(r), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(len(r), dtype=torch.float64), atol=1e-12, rtol=0)
    entries = r.flatten(1)
    assert entries.mean(0).abs().max() < 0.015  # five standard errors
    second = entries.T @ entries / len(r)
    torch.testing.assert_close(second, torch.eye(9, dtype=torch.float64) / 3, atol=0.01, rtol=0)


def test_training_turns_molecules_only_if_asked(small: Path) -> None:
    batch = whole(MoleculeData("small", small).train)
    u = torch.rand(len(batch), 8, generator=torch.Generator().manual_seed(0))
    assert MoleculeData("small", small).augment(batch, u) is batch
    turned = MoleculeData("small", small, rotate=True).augment(batch, u)
    real = batch.mask[..., 0] > 0

    def distances(x: Tensor) -> Tensor:
        return torch.cdist(x[..., :3], x[..., :3])[real]

    torch.testing.assert_close(distances(turned.x), distances(batch.x), atol=1e-5, rtol=0)
    assert (turned.x - batch.x)[..., :3][real].abs().amax() > 0.1
    assert torch.equal(turned.x[..., 3:], batch.x[..., 3:])
    assert not turned.x[~real].any()


# parts that are kept


def chains(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, heavy atoms and mask of molecules of 2 to 8 atoms, every other a hydrogen, and 2 places of padding."""
    sizes = 2 + torch.arange(n) % 7
    positions = torch.randn(n, 10, 3, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(10) < sizes[:, None]).float()[..., None]
    return positions * mask, mask * (torch.arange(10) % 2 == 0).float()[:, None], mask


def test_parts_are_of_all_sizes_and_never_all() -> None:
    positions, heavy, mask = chains(7000)
    u = torch.rand(7000, 4, generator=torch.Generator().manual_seed(1))
    keep = fragments(positions, heavy, mask, u)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    assert not (keep * (1 - mask)).any()
    counts, sizes = keep.sum((1, 2)), mask.sum((1, 2))
    assert bool((counts < sizes).all())
    assert set(counts[sizes == 8].tolist()) == set(map(float, range(8)))
    assert float((counts[sizes == 8] == 0).float().mean()) < 0.2
    bare = (keep * (1 - heavy)).sum((1, 2)) == 0
    assert 0.3 < float(bare.float().mean()) < 0.7, "a third has heavy atoms alone by rule, others by chance"


def test_hydrogens_follow_their_heavy_atom_in_a_third() -> None:
    positions, heavy, mask = chains(700)
    u = torch.rand(700, 4, generator=torch.Generator().manual_seed(1))
    u[:, 2] = 0.5
    keep = fragments(positions, heavy, mask, u)[..., 0]
    d = torch.cdist(positions, positions).masked_fill(heavy[:, None, :, 0] == 0, torch.inf)
    assert torch.equal(keep[mask[..., 0] > 0], keep.gather(1, d.argmin(2))[mask[..., 0] > 0])


def test_a_share_of_training_molecules_keeps_a_part(small: Path) -> None:
    data = MoleculeData("small", small, kept=0.5)
    batch = data.train.batch([2] * 4000)
    u = torch.rand(4000, 8, generator=torch.Generator().manual_seed(0))
    keep = data.augment(batch, u).cond["keep"]
    assert 0.3 < float(keep.flatten(1).any(1).float().mean()) <= 0.52
    assert data.facts["kept"] is True
    assert MoleculeData("small", small).facts["kept"] is False
    with pytest.raises(UserError, match=r"data\.kept=1\.5"):
        MoleculeData("small", small, kept=1.5)


# QM9


def tables_are_there() -> bool:
    try:
        return bool(qm9.installed_tables())
    except UserError:
        return False


needs_tables = pytest.mark.skipif(not tables_are_there(), reason="qm9pack is not there")


@pytest.fixture(scope="module")
def data(cache: Path) -> Qm9:
    if not tables_are_there():
        pytest.skip("qm9pack is not there")
    return Qm9(properties=list(PROPERTIES))


def test_qm9_has_the_molecules_it_should(data: Qm9) -> None:
    sizes = np.concatenate([getattr(data, split).sizes for split in SPLITS])
    assert len(sizes) == 130_831
    assert sizes.sum() == 2_359_210
    assert (sizes.min(), sizes.max()) == (3, 29)
    assert sizes.mean() == pytest.approx(18.03, abs=0.005)
    assert data.elements == ["H", "C", "N", "O", "F"]
    assert np.bincount(data.train.species[:]).tolist() == [1_208_486, 831_925, 132_498, 183_265, 3_036]
    assert sum(data.facts["sizes"].values()) == 100_000
    assert data.facts["sizes"][29] == (data.train.sizes == 29).sum()
    assert data.facts["scale"] == pytest.approx(1.4, abs=0.1)
    assert np.isfinite(data.train.positions[:]).all()


def test_the_split_is_the_one_of_the_field(data: Qm9) -> None:
    """The first numbers of each part are those of NumPy's legacy generator, which are the same for ever."""
    assert [len(getattr(data, split)) for split in SPLITS] == [100_000, 17_748, 13_083]
    rows = qm9.split(qm9.MOLECULES)
    assert np.array_equal(np.sort(np.concatenate([rows[split] for split in SPLITS])), np.arange(qm9.MOLECULES))
    assert {split: rows[split][:3].tolist() for split in SPLITS} == {
        "train": [130195, 68784, 7957],
        "val": [68751, 123554, 28669],
        "test": [115839, 90242, 66405],
    }
    starts = np.concatenate([getattr(data, split).starts for split in SPLITS])
    assert len(np.unique(starts)) == qm9.MOLECULES  # no molecule is in two splits


def test_molecules_are_those_of_the_table(data: Qm9) -> None:
    """The first fifty, as a literal reader finds them."""
    expected = first_of_qm9(50)
    where = {}
    for split, rows in qm9.split(qm9.MOLECULES).items():
        where |= {number: (split, place) for place, number in enumerate(rows.tolist())}
    for number in range(50):
        split, place = where[number]
        batch = getattr(data, split).batch([place])
        n = batch.x.shape[1]
        assert n == expected.mask[number].sum()
        assert torch.equal(batch.x[0], expected.x[number, :n])
        assert batch.mask.all()


def test_properties_are_in_their_units(data: Qm9) -> None:
    """Methane's, as published; and what physics says of all of them."""
    source = next(s for s in (data.train, data.val, data.test) if 0 in s.starts)
    [place] = np.flatnonzero(source.starts == 0)
    batch = source.batch([place])
    assert numbers(batch.x, batch.mask, data.elements).tolist() == [[6, 1, 1, 1, 1]]
    published = {"mu": 0, "alpha": 13.21, "homo": -10.5499, "lumo": 3.1865, "gap": 13.7363, "r2": 35.3641, "cv": 6.469}
    published |= {"zpve": 1.21768, "u0": -1101.48778, "g298": -1102.02296}
    for name, value in published.items():
        assert batch.cond[name].item() == pytest.approx(value, abs=1e-3 * max(1, abs(value) / 100)), name
    cond = {name: value.astype(np.float64) for name, value in data.test.cond.items()}
    assert np.abs(cond["gap"] - (cond["lumo"] - cond["homo"])).max() < 2e-4 * qm9.EV  # three roundings at 1e-4 hartree
    assert np.abs(cond["h298"] - cond["u298"] - 0.025693).max() < 2e-3  # R T; float32 at 1e4 eV
    assert (cond["u298"] > cond["u0"]).all()
    assert (cond["zpve"] > 0).all()


def test_every_batch_is_zero_in_its_padding(data: Qm9) -> None:
    batch = data.val.batch(range(0, 17_748, 40))
    real = batch.mask[..., 0] > 0
    assert torch.equal(real.sum(1), torch.from_numpy(data.val.sizes[::40]))
    assert (real[:, :-1] >= real[:, 1:]).all()  # real atoms come first
    assert not batch.x[~real].any()
    assert torch.equal(batch.x[..., 3:].sum(-1), batch.mask[..., 0])
    assert torch.equal(batch.x[..., 3:].amax(-1), batch.mask[..., 0])
    assert set(batch.cond) == set(PROPERTIES)


def test_halves_of_the_training_split_are_disjoint(data: Qm9) -> None:
    first, second = Qm9(half="first"), Qm9(half="second")
    assert [len(first.train), len(second.train)] == [50_000, 50_000]
    assert not set(first.train.starts) & set(second.train.starts)
    assert set(first.train.starts) | set(second.train.starts) == set(data.train.starts)
    assert np.array_equal(first.test.starts, data.test.starts)
    assert first.train.cond == {}


def test_tables_are_parsed_once(data: Qm9, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(qm9, "parse", fail)
    assert len(Qm9().test) == len(data.test)


# Damaged tables


@pytest.fixture
def lines() -> list[str]:
    """The header and the first three molecules of the first table."""
    if not tables_are_there():
        pytest.skip("qm9pack is not there")
    with qm9.installed_tables()[0].open(newline="") as file:
        return list(islice(file, 4))


def refused(tmp_path: Path, text: str) -> str:
    """Why a table cannot be used, in one line."""
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(UserError) as caught:
        qm9.parse([table], tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_tables_are_refused(tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qm9, "MOLECULES", 3)
    whole_table = "".join(lines)
    assert "table.csv: molecule 3 cannot be read: " in refused(tmp_path, whole_table[: -len(lines[3]) // 2])
    assert "molecule 1 cannot be read: KeyError('HOMO_au')" in refused(tmp_path, whole_table.replace("HOMO_au", "H_au"))
    assert "molecule 1 cannot be read: ValueError" in refused(tmp_path, whole_table.replace("1.0858041578", "1.08x"))
    assert "1 cannot be read: ValueError(\"an element 'Q'\")" in refused(tmp_path, whole_table.replace("'C'", "'Q'", 1))
    short = refused(tmp_path, whole_table.replace("'C','H'", "'C'", 1))
    assert "molecule 1 cannot be read: ValueError('15 coordinates of 4 atoms" in short
    assert "or one that is not finite" in refused(tmp_path, whole_table.replace("1.0858041578", "nan"))
    assert "molecule 1 cannot be read: KeyError" in refused(tmp_path, "<html>\n<p>not found</p>\n")
    assert "holds 2 molecules, not 3" in refused(tmp_path, "".join(lines[:3]))
    assert "holds 0 molecules, not 3" in refused(tmp_path, "")


@needs_tables
def test_the_package_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(qm9, "find_spec", lambda _: Spec)
    with pytest.raises(UserError, match=r"expects a table in .*qm9_part1.csv: pip install --force-reinstall qm9pack"):
        qm9.installed_tables()
    monkeypatch.setattr(qm9, "find_spec", lambda _: None)
    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"data=qm9 needs the package qm9pack: pip install qm9pack"):
        Qm9()
    assert list((tmp_path / "qm9").iterdir()) == []
