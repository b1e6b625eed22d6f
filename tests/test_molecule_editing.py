"""Molecules are edited: which atoms stay, where they lie afterwards, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import TINY, compose, edit

from core.editable import EditRequest
from core.editing import Kept, Search, Told
from core.errors import UserError
from core.fit import fit
from core.space import ZeroCentreOfMass
from modalities.molecules.codec import Atoms
from modalities.molecules.factored import Factored
from modalities.molecules.modality import Molecules

ELEMENTS = ["H", "C", "N", "O", "F"]
METHANOL = """6
methanol
C -0.046 0.667 10.000
O -0.046 -0.757 10.000
H -1.086 0.975 10.000
H 0.437 1.072 10.890
H 0.437 1.072 9.110
H 0.860 -1.057 10.000
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "methanol.xyz"
    path.write_text(METHANOL)
    return path


def modality() -> Molecules:
    return Molecules(ELEMENTS, dict.fromkeys(range(3, 15), 1))


def test_kept_atoms_come_first_and_others_are_added(file: Path) -> None:
    known = modality().known(EditRequest(file, 3, keep="atoms 0-1,5", grow={"atoms": [1, 4, 2]}))
    assert known.mask.sum(dim=(1, 2)).tolist() == [4, 7, 5]
    assert known.cond["keep"][:, :, 0].tolist() == [[1, 1, 1, 0, 0, 0, 0]] * 3
    assert known.x[0, :3, 3:].argmax(-1).tolist() == [1, 3, 0]
    assert not known.x[:, 3:].any()


def test_without_growth_the_other_atoms_are_drawn_anew(file: Path) -> None:
    known = modality().known(EditRequest(file, 2, keep="heavy"))
    assert known.mask.sum(dim=(1, 2)).tolist() == [6, 6]
    assert known.cond["keep"][0, :, 0].tolist() == [1, 1, 0, 0, 0, 0]


def test_a_pattern_names_atoms(file: Path) -> None:
    known = modality().known(EditRequest(file, 1, keep="smarts [OX2][H]"))
    assert known.cond["keep"][0, :, 0].nonzero().flatten().tolist() == [1, 5]


def test_all_that_the_file_has_stays_where_it_only_grows(file: Path) -> None:
    known = modality().known(EditRequest(file, 1, grow={"atoms": 2}))
    assert known.cond["keep"][0, :, 0].tolist() == [1] * 6 + [0] * 2


def test_sizes_of_training_can_be_left_to_choose(file: Path) -> None:
    known = modality().known(EditRequest(file, 40, keep="atoms 0-4", grow={"atoms": "auto"}))
    sizes = known.mask.sum(dim=(1, 2)).tolist()
    assert min(sizes) >= 6
    assert max(sizes) <= 14
    assert len(set(sizes)) > 3
    assert sizes == sorted(sizes)


def test_kept_atoms_end_where_the_file_has_them(file: Path) -> None:
    """Whatever the model has moved or turned into another element, and wherever its centre lies."""
    asked = modality()
    known = asked.known(EditRequest(file, 2, keep="atoms 0-2", grow={"atoms": 3}))
    encoded = Atoms(ELEMENTS).known(known)
    drawn = torch.randn(encoded.x.shape, generator=torch.Generator().manual_seed(0)) * encoded.mask
    space = ZeroCentreOfMass(3)
    kept = Kept(space, encoded.with_x(encoded.x), encoded.cond["keep"])
    edited = Atoms(ELEMENTS).decode(encoded.with_x(kept.put(space.project(drawn, encoded.mask), encoded.x)))
    done = asked.finished(edited, known)
    assert torch.equal(done.x[:, :3], known.x[:, :3])
    apart = [(x[:, 3:, :3] - x[:, :1, :3]) for x in (edited.x, done.x)]
    torch.testing.assert_close(*apart, atol=1e-5, rtol=0)


def test_a_known_formula_is_held_in_its_own_way_and_a_scaffold_is_not(file: Path) -> None:
    asked = modality()
    known = Atoms(ELEMENTS).known(asked.known(EditRequest(file, 1, keep="heavy")))
    assert asked.holding(torch.nn.Identity(), known, known.cond["keep"]) is None
    assert isinstance(asked.method(Atoms(ELEMENTS), torch.nn.Identity()), Search)


def test_a_network_that_has_learned_to_keep_atoms_is_told_them(file: Path) -> None:
    network = Factored(5, width=8, depth=1, vectors=4, radial=4, kept=True)
    assert modality().method(Atoms(ELEMENTS), network) == Told()


def test_from_training_with_kept_parts_to_an_edit(file: Path, tmp_path: Path, cache: Path, no_plots: None) -> None:
    """The trained network is told what stays, at one evaluation a step, and the kept atoms are those of the file."""
    small = ["network.width=8", "network.depth=1", "network.vectors=4", "network.radial=4"]
    run = fit(compose("train", *TINY, *small, "modality=molecules", "data.kept=0.9", f"out={tmp_path / 'run'}"))
    done = edit(run, tmp_path / "edited", f"input={file}", "keep=atoms 0-1", "grow.atoms=3", "n=2", "steps=3")
    assert json.loads((done / "manifest.json").read_text())["nfe"] == 3
    with np.load(done / "samples.npz") as samples:
        x = samples["x"]
    methanol = modality().known(EditRequest(file, 2, keep="atoms 0-1", grow={"atoms": 3})).x.numpy()
    np.testing.assert_allclose(x[:, :2], methanol[:, :2], atol=1e-6)
    assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "atoms 0-6"}, "0-6: the file has the atoms 0 to 5"),
        ({"keep": "atoms 3-1"}, "3-1"),
        ({"keep": "atoms"}, "what stays of a molecule is"),
        ({"keep": "0-3"}, "what stays of a molecule is"),
        ({"keep": "smarts [Na"}, "cannot read this pattern"),
        ({"keep": "smarts N"}, "no such part"),
        ({"keep": "atoms 0-5"}, "nothing to draw"),
        ({"keep": "heavy", "grow": {"atoms": 0}}, "grow.atoms=0"),
        ({"keep": "heavy", "grow": {"atoms": 40}}, "from 3 to 14"),
        ({"keep": "heavy", "grow": {"right": 3}}, "grow.right"),
        ({"mask": Path("hole.png")}, "in words"),
        ({"keep": "heavy", "cond": {"formula": "CH4O"}}, "cond.formula"),
    ],
)
def test_what_makes_no_sense_is_refused(file: Path, options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        modality().known(EditRequest(file, 1, **options))


@pytest.mark.parametrize(("name", "text"), [("x.xyz", "1\nsodium\nNa 0 0 0\n"), ("x.xyz", "two\n"), ("x.pdb", "ATOM")])
def test_files_that_are_no_use_are_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        modality().known(EditRequest(tmp_path / name, 1, keep="heavy"))
