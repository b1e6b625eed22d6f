"""Molecules written and read back, the pictures of them, and the page in which they turn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from molecule_examples import ELEMENTS, atoms_of, batch_of, first_of_qm9, together
from pages import read_page
from PIL import Image

from core.batch import Batch, concatenate
from core.errors import UserError

pytest.importorskip("rdkit")

from rdkit import Chem

from modalities.molecules import artefacts, depiction, drawing, page, rendering, sheet
from modalities.molecules.bonds import bond_orders
from modalities.molecules.elements import atomic_numbers, numbers
from modalities.molecules.modality import Molecules
from modalities.molecules.molecule import molecules, spread


def samples(n: int = 12) -> Batch:
    """Molecules of QM9, every second one shaken, with a property."""
    batch = first_of_qm9(n, table=1)
    noise = 0.35 * torch.randn(batch.x[..., :3].shape, generator=torch.Generator().manual_seed(0))
    noise[::2] = 0
    x = batch.x.clone()
    x[..., :3] += noise * batch.mask
    return Batch(x, batch.mask, {"gap": 5 + torch.arange(n) / 7})


def heaps(n: int = 6, atoms: int = 20) -> Batch:
    """No molecules at all: from all atoms within a hundredth of an angstrom to a cloud of 60; scores, not one-hot."""
    x = torch.randn(n, atoms, 3 + len(ELEMENTS), generator=torch.Generator().manual_seed(1))
    x[..., :3] *= torch.logspace(-2.5, 1.8, n)[:, None, None]
    mask = (torch.arange(atoms) < atoms - torch.arange(n)[:, None]).float()[..., None]
    return Batch(x * mask, mask)


def same(one: Batch, other: Batch, tolerance: float = 1e-4) -> None:
    """Two batches hold the same atoms in the same places."""
    assert torch.equal(one.mask, other.mask)
    assert torch.equal(numbers(one.x, one.mask, ELEMENTS), numbers(other.x, other.mask, ELEMENTS))
    torch.testing.assert_close(one.x[..., :3], other.x[..., :3], atol=tolerance, rtol=0)


# Files


def test_xyz_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    batch = samples()
    artefacts.write_files(molecules(batch[:5], ELEMENTS), tmp_path)
    artefacts.write_files(molecules(batch[5:], ELEMENTS, 5), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{number:05d}.xyz" for number in range(12)]
    again = artefacts.read(tmp_path, ELEMENTS)
    same(again, batch, 1e-6)
    torch.testing.assert_close(again.cond["gap"], batch.cond["gap"])
    assert again.x.dtype == again.mask.dtype == torch.float32
    assert ((again.x[..., 3:].sum(-1) == 1) == (again.mask[..., 0] == 1)).all()
    first = (tmp_path / "00000.xyz").read_text().splitlines()
    assert first[:2] == [str(int(batch.mask[0].sum())), "gap=5"]


@pytest.mark.parametrize("make", [samples, heaps])
def test_an_sdf_is_read_as_it_was_written_and_has_the_bonds_of_the_rule(tmp_path: Path, make) -> None:
    batch = make()
    artefacts.write_sdf(molecules(batch, ELEMENTS), tmp_path / "samples.sdf")
    again = artefacts.read(tmp_path, ELEMENTS)
    same(again, batch)
    assert again.cond.keys() == batch.cond.keys()
    atoms = numbers(batch.x, batch.mask, ELEMENTS)
    orders = bond_orders(batch.x[..., :3], atoms)
    found = list(Chem.SDMolSupplier(str(tmp_path / "samples.sdf"), sanitize=False, removeHs=False))
    for number, (mol, molecule) in enumerate(zip(found, molecules(batch, ELEMENTS), strict=True)):
        bonds = {(b.GetBeginAtomIdx(), b.GetEndAtomIdx()): int(b.GetBondTypeAsDouble()) for b in mol.GetBonds()}
        wanted = orders[number].triu()
        assert bonds == {(i, j): int(wanted[i, j]) for i, j in wanted.nonzero().tolist()}
        assert mol.GetProp("_Name") == f"{number:05d}"
        assert mol.GetProp("stable") == ("yes" if molecule.stable else "no")
        assert mol.GetProp("connected") == ("yes" if molecule.connected else "no")
        assert mol.HasProp("smiles") == (mol.GetProp("valid") == "yes") == molecule.valid
    assert {mol.GetProp("valid") for mol in found} == {"yes", "no"}


def test_an_sdf_holds_what_its_older_format_cannot(tmp_path: Path) -> None:
    batch = heaps()
    batch.x[..., :3] *= 1e6
    found = molecules(batch, ELEMENTS)
    artefacts.write_sdf(found, tmp_path / "samples.sdf")
    written = Chem.SDMolSupplier(str(tmp_path / "samples.sdf"), sanitize=False, removeHs=False)
    for mol, molecule in zip(written, found, strict=True):
        places = mol.GetConformer().GetPositions()
        np.testing.assert_allclose(places, molecule.positions, atol=1e-4, rtol=1e-6)


def test_smiles_are_of_all_pieces_and_open_valences_stay_open(tmp_path: Path) -> None:
    batch = batch_of(*map(atoms_of, ("ethene", "methyl", "cyanide")), together(atoms_of("water"), atoms_of("nitrogen")))
    found = molecules(batch, ELEMENTS)
    assert [depiction.smiles(molecule) for molecule in found] == ["C=C", "[CH3]", "C#N", "N#N.O"]
    assert [(m.formula, m.stable, m.connected) for m in found] == [
        ("C2H4", True, True),
        ("CH3", False, True),
        ("CHN", True, True),
        ("H2N2O", True, False),
    ]


def test_molecules_that_are_not_finite_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    batch, modality = samples(), Molecules(ELEMENTS)
    batch.x[2, 0, 0], batch.x[4, 1, 2] = torch.nan, torch.inf
    for number, write in (
        (12, lambda: modality.write(batch, tmp_path, 10)),
        (2, lambda: modality.grid(batch, tmp_path / "grid.png")),
        (2, lambda: modality.present(batch, tmp_path, None)),
    ):
        with pytest.raises(ValueError, match=rf"2 of 12 molecules are not finite, the first is number {number}$"):
            write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xyz", "", "is empty"),
        ("a.xyz", "3\n\nC 0 0 0\nH 0 0 1\n", "record 1: .*2 of its 3 atoms"),
        ("a.xyz", "1\n\nC 0 0 0\n1\n\nXx 0 0 0\n", "record 2: unknown element 'Xx'"),
        ("a.xyz", "1\n\nSi 0 0 0\n", "record 1: element Si, which is none of this model's: H, C, N, O, F"),
        ("a.xyz", "1\n\nC 0 0\n", "record 1: .*'C 0 0' is not"),
        ("a.sdf", "", "is empty"),
        ("a.sdf", "cut", "record 2: "),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, name: str, content: str, reason: str) -> None:
    if content == "cut":
        batch = batch_of(atoms_of("methane"), atoms_of("ethene"))
        artefacts.write_sdf(molecules(batch, ELEMENTS), tmp_path / name)
        content = (tmp_path / name).read_text()
        content = content[: content.index("$$$$") + 150]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path / name))}.*{reason}") as error:
        artefacts.read(tmp_path, ELEMENTS)
    assert "\n" not in str(error.value)


def test_a_folder_without_molecules_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no molecules \(.sdf, .xyz\)"):
        artefacts.read(tmp_path, ELEMENTS)


# Pictures


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def drawn(*balls: tuple[str, list[float]], order: int = 0, unit: int = 20) -> np.ndarray:
    """4 x 3 angstrom, `unit` pixels each."""
    positions = np.array([place for _, place in balls], dtype=float)
    kinds = np.array(atomic_numbers([symbol for symbol, _ in balls]))
    orders = order * (1 - np.eye(len(balls), dtype=np.int64))
    return rendering.draw(positions, kinds, orders, (4 * unit, 3 * unit), unit).astype(int)


def test_a_ball_is_round_where_it_belongs_and_of_its_colour() -> None:
    picture = drawn(("N", [0.5, 0.25, 0]))
    row, column = np.nonzero((picture < 250).any(-1))
    assert column.mean() == pytest.approx(39.5 + 10, abs=0.5)
    assert row.mean() == pytest.approx(29.5 - 5, abs=0.5)
    radius = 20 * rendering.radius(7)
    assert len(row) == pytest.approx(np.pi * (radius + 0.5) ** 2, rel=0.12)
    assert picture[25, 50, 2] > picture[25, 50, 0] + 50  # blue
    assert picture[20, 46].sum() > picture[29, 54].sum() + 60  # light from the upper left


def test_the_nearer_ball_hides_the_farther_one() -> None:
    red, blue = ("O", [0, 0, 1.0]), ("N", [0, 0, -1.0])
    for balls in ((red, blue), (blue, red)):
        assert drawn(*balls)[30, 40, 0] > drawn(*balls)[30, 40, 2] + 50


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_bond_is_as_many_sticks_as_its_order(order: int) -> None:
    picture = drawn(("C", [-1.1, 0, 0]), ("O", [1.1, 0, 0]), order=order, unit=60)
    across = picture[:, 114].sum(-1)  # just beside the middle
    bright = (across[1:-1] > across[:-2]) & (across[1:-1] > across[2:])  # where the light is on a stick
    assert bright.sum() == order


def test_the_view_is_the_widest_and_no_mirror_image() -> None:
    flat = np.random.default_rng(0).normal(size=(12, 3)) * [3, 2, 0.1]
    turn = rendering.facing(flat)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    assert (np.ptp(flat @ turn.T, axis=0).argsort() == [2, 1, 0]).all()
    rotation = rendering.about(0, 1.1) @ rendering.about(2, 0.4) @ rendering.about(1, -2)
    moved = flat @ rotation.T + [1, 2, 3]
    np.testing.assert_allclose(
        (moved - moved.mean(0)) @ rendering.facing(moved).T, (flat - flat.mean(0)) @ turn.T, atol=1e-6
    )


@pytest.mark.parametrize("make", [samples, heaps])
def test_the_grid_shows_samples_and_real_molecules_and_changes_with_them(tmp_path: Path, make) -> None:
    found, qm9 = (molecules(batch, ELEMENTS) for batch in (make(), first_of_qm9(3, table=2)))
    drawing.save_grid(found, tmp_path / "new" / "a.png")
    drawing.save_grid(found, tmp_path / "again.png")
    drawing.save_grid(found, tmp_path / "real.png", qm9)
    a, again, real = (pixels(tmp_path / name) for name in ("new/a.png", "again.png", "real.png"))
    assert np.array_equal(a, again)
    rows = -(-len(found) // drawing.COLUMNS)
    step = drawing.CARD[1] + drawing.GAP
    width = 2 * drawing.MARGIN + 6 * (drawing.CARD[0] + drawing.GAP) - drawing.GAP
    inches = drawing.MARGIN + drawing.HEAD + rows * step
    assert a.shape[:2] == pytest.approx((inches * drawing.DPI, width * drawing.DPI), abs=1)
    assert len(real) - len(a) == pytest.approx((drawing.HEAD + step) * drawing.DPI, abs=1)
    assert np.array_equal(real[: len(a) - 40], a[:-40])  # the samples are the same
    assert 0.03 < (a.min(-1) < 200).mean() < 0.5
    green = (a == [35, 146, 79]).all(-1).mean()
    assert (green > 0.002) == any(molecule.stable for molecule in found)


def test_a_larger_batch_is_shown_evenly_and_one_atom_can_be_drawn(tmp_path: Path) -> None:
    assert spread(5, 24) == [0, 1, 2, 3, 4]
    assert spread(100, 4) == [0, 33, 66, 99]
    assert len(set(spread(25, 24))) == 24
    lone = batch_of(("H", torch.zeros(1, 3)))
    drawing.save_grid(molecules(lone, ELEMENTS), tmp_path / "one.png")
    assert (pixels(tmp_path / "one.png").min(-1) < 200).any()
    drawing.save_gif([lone], tmp_path / "one.gif", ELEMENTS)
    with Image.open(tmp_path / "one.gif") as film:
        assert film.size == drawing.GIF_TILE


def test_a_portrait_is_the_same_wherever_the_molecule_lies() -> None:
    batch = first_of_qm9(1, table=2)
    moved = Batch(batch.x.clone(), batch.mask)
    moved.x[..., :3] += torch.tensor([64.0, 32.0, -16.0])
    [one], [other] = molecules(batch, ELEMENTS), molecules(moved, ELEMENTS)
    size = (240, 192)
    difference = np.abs(sheet.portrait(one, size, 32).astype(int) - sheet.portrait(other, size, 32))
    assert (difference > 8).mean() < 0.01


@pytest.mark.parametrize(
    ("symbols", "places"),
    [
        ("OOCNCO", [[-56, 31, -163], [-106, -69, -54], [22, -3, 103], [-80, 50, 11], [-23, 11, -12], [-52, 19, -105]]),
        (
            "FHCCONCCOON",
            [
                [-40, -90, 70], [10, -60, 100], [60, 0, 70], [140, -40, -130], [-140, 130, -10], [-100, 30, -110],
                [50, -20, -70], [40, 100, 120], [-60, 50, 0], [150, -20, -120], [0, 80, 60],
            ],
        ),
    ],
    ids=["two atoms in one place", "no layout"],
)  # fmt: skip
def test_a_tangle_that_rdkit_refuses_to_draw_is_drawn(symbols: str, places: list[list[int]]) -> None:
    """Noise of 1 angstrom: RDKit lays the first one out with two bonded atoms in one place, and the second not at all,
    and raises "Cannot normalize a zero length vector"."""
    [tangle] = molecules(batch_of((symbols, torch.tensor(places) / 100)), ELEMENTS)
    assert not tangle.valid
    assert depiction.svg(tangle, (240, 110)).count("<path") > len(tangle)


def way(batch: Batch, moments: int = 5) -> list[Batch]:
    """From noise of 80 to the data."""
    noise = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(2))
    levels = [*torch.logspace(1.9, -2, moments - 1).tolist(), 0.0]
    return [batch.with_x((batch.x + level * noise) * batch.mask) for level in levels]


def test_the_strip_goes_from_noise_to_the_molecules(tmp_path: Path) -> None:
    moments = way(samples(3))
    drawing.save_strip(moments, tmp_path / "strip.png", ELEMENTS)
    drawing.save_strip([moments[-1]] * 5, tmp_path / "still.png", ELEMENTS)
    strip, still = pixels(tmp_path / "strip.png"), pixels(tmp_path / "still.png")
    changed = np.abs(strip - still).sum((0, 2)) > 0
    step = round((drawing.TILE[0] + drawing.GAP) * drawing.DPI)
    first = round(drawing.MARGIN * drawing.DPI)
    assert changed[first : first + step].mean() > 0.5  # noise is not the molecule
    assert not changed[first + 4 * step :].any()  # the last moment is
    assert strip.shape[1] - 5 * step == pytest.approx((2 * drawing.MARGIN + drawing.FORMULA[0]) * drawing.DPI, abs=3)
    noise = strip[50:, first : first + step - round(drawing.GAP * drawing.DPI)]
    assert 0.02 < (noise.min(-1) < 200).mean() < 0.6  # neither out of sight nor one heap


def test_the_animation_ends_in_a_whole_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "FALLING", 9)
    monkeypatch.setattr(drawing, "TURNING", 6)
    moments = way(concatenate([samples(6)] * 2))
    drawing.save_gif(moments, tmp_path / "way.gif", ELEMENTS)
    with Image.open(tmp_path / "way.gif") as film:
        width, height = drawing.GIF_TILE
        assert film.size == (4 * width, 2 * height)
        assert film.n_frames == 9 + 6 + 1
        assert film.info["loop"] == 0
        frames = []
        for k in range(film.n_frames):
            film.seek(k)
            frames.append(np.asarray(film.convert("RGB")).astype(int))
    assert (frames[0][::5, ::5] == 255).all(-1).mean() > 0.5  # on white paper
    assert np.abs(frames[0] - frames[8]).sum(-1).astype(bool).mean() > 0.1
    assert np.array_equal(frames[9], frames[-1])
    assert np.abs(frames[9] - frames[12]).sum(-1).astype(bool).mean() > 0.05
    inner = np.abs(frames[9] - frames[8])[8 : height - 8, 8 : width - 8]
    assert not inner.any()  # the turn begins where the atoms have fallen


# The page


@pytest.mark.parametrize("make", [samples, heaps])
def test_the_page_holds_all_that_it_shows_and_loads_nothing(tmp_path: Path, make) -> None:
    batch = make()
    found = molecules(batch, ELEMENTS)
    artefacts.write_files(found, tmp_path)
    artefacts.write_sdf(found, tmp_path / artefacts.SDF)
    path = page.write_page(tmp_path, found)
    assert path == tmp_path / "index.html"
    text, reader = path.read_text(encoding="utf-8"), read_page(path)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=|<link|<img|fetch\(|import\(|XMLHttp", text)
    assert len(reader.all("canvas")) == len(reader.all("svg")) == len(batch)
    assert sum(figure["class"] == "stable" for figure in reader.all("figure")) == sum(m.stable for m in found)
    assert [a["href"] for a in reader.all("a")] == ["samples.sdf", *(f"{k:05d}.xyz" for k in range(len(batch)))]
    assert all((tmp_path / a["href"]).exists() for a in reader.all("a"))
    assert all(path["d"] for path in reader.all("path"))
    data = json.loads(reader.text["data"])
    assert [model["symbols"] for model in data["molecules"]] == [molecule.symbols for molecule in found]
    assert [len(model["bonds"]) for model in data["molecules"]] == [len(molecule.bonds) for molecule in found]
    for model, molecule in zip(data["molecules"], found, strict=True):
        places = torch.tensor(model["places"], dtype=torch.float64)
        torch.testing.assert_close(
            torch.cdist(places, places), torch.cdist(*[torch.tensor(molecule.positions)] * 2), atol=3e-3, rtol=1e-4
        )
    assert set(data["stick"]) == set(data["apart"]) == {"1", "2", "3"}
    assert set(data["colors"]) == set(data["radii"]) == {symbol for molecule in found for symbol in molecule.symbols}


def test_a_page_of_many_molecules_shows_some_and_links_to_no_file_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_MODELS", 4)
    reader = read_page(page.write_page(tmp_path, molecules(samples(), ELEMENTS)))
    assert len(reader.all("canvas")) == 4
    assert not reader.all("a")
    assert "12 molecules" in reader.text["p"]
    assert "4 of them" in reader.text["p"]
    assert re.findall(r"000\d\d", reader.text["small"]) == ["00000", "00004", "00007", "00011"]


def test_a_page_escapes_what_it_is_told(tmp_path: Path) -> None:
    batch = samples(2)
    named = Batch(batch.x, batch.mask, {"</script><b>": batch.cond["gap"]})
    reader = read_page(page.write_page(tmp_path, molecules(named, ELEMENTS)))
    assert not reader.all("b")
    assert "</script><b> 5" in reader.text["small"]
