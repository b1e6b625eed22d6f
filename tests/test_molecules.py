"""Molecules from the command line: a run of two steps, and what is asked of its model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from runs import TINY, Outcome, assert_same_weights, compose, evaluate, sample

import core
from core.errors import UserError
from core.fit import fit
from core.output import read_arrays

Chem = pytest.importorskip("rdkit.Chem")

SMALL = ("modality=molecules", *TINY, "network.width=16", "network.depth=2", "network.vectors=8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """With four samples at its end. Look, but do not write."""
    folder = tmp_path_factory.mktemp("molecules") / "run"
    return fit(compose("train", *SMALL, "preview.n=0", "n=4", f"out={folder}"))


def test_a_run_ends_with_molecules_pictures_and_a_page(run: Path) -> None:
    folder = next((run / "samples").iterdir())
    names = {path.name for path in folder.iterdir()}
    assert {"samples.sdf", "grid.png", "index.html", "samples.npz", "evaluation.json", "00003.xyz"} <= names
    samples = read_arrays(folder / "samples.npz")
    records = list(Chem.SDMolSupplier(str(folder / "samples.sdf"), sanitize=False, removeHs=False))
    assert [mol.GetNumAtoms() for mol in records] == samples.mask.sum((1, 2)).int().tolist()
    for mol, x in zip(records, samples.x, strict=True):
        places = mol.GetConformer().GetPositions()
        np.testing.assert_allclose(places, x[: len(places), :3], atol=1e-3)
    figures = json.loads((folder / "evaluation.json").read_text())
    assert figures["real"]["atom_stability"] > 0.9
    assert 0 <= figures["samples"]["atom_stability"] < 0.9


def test_a_formula_and_its_trajectory(run: Path, tmp_path: Path) -> None:
    folder = sample(run, tmp_path / "out", "cond.formula=C2H6O", "trajectory=true", "n=3")
    for mol in Chem.SDMolSupplier(str(folder / "samples.sdf"), sanitize=False, removeHs=False):
        assert Counter(atom.GetSymbol() for atom in mol.GetAtoms()) == {"C": 2, "H": 6, "O": 1}
    assert (folder / "trajectory.png").stat().st_size > 1000
    assert (folder / "trajectory.gif").stat().st_size > 1000
    with np.load(folder / "samples.npz") as arrays:
        assert "keep" not in arrays, "what was known is no property of a sample"


def test_a_size(run: Path, tmp_path: Path) -> None:
    folder = sample(run, tmp_path / "out", "cond.n_atoms=7", "n=2")
    assert [line.split()[0] for line in (folder / "00001.xyz").read_text().splitlines()[:1]] == ["7"]
    assert read_arrays(folder / "samples.npz").mask.sum((1, 2)).tolist() == [7, 7]


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ("cond.n_atoms=400", "n_atoms=400: must be a whole number from 3 to 29"),
        ("cond.formula=C7H11O2", "formula=C7H11O2 is impossible"),
        ("cond.formula=C2H6Xx", "formula=C2H6Xx: unknown element Xx; this model knows H, C, N, O, F"),
        ("cond.gap=3", "unknown condition gap; this model's conditions: n_atoms, formula"),
    ],
)
def test_what_cannot_be_drawn(run: Path, tmp_path: Path, command, cond: str, message: str) -> None:
    outcome: Outcome = command("sample", f"checkpoint={run}", "n=2", "steps=2", cond, f"out={tmp_path / 'out'}")
    assert outcome.code != 0
    assert message in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err


def test_a_wrong_request_leaves_the_folder_to_a_right_one(run: Path, tmp_path: Path, command) -> None:
    wanted = ("sample", f"checkpoint={run}", "n=1", "steps=2", f"out={tmp_path / 'out'}")
    assert command(*wanted, "cond.formula=CXe4").code != 0
    assert command(*wanted, "cond.formula=CH4").code == 0


def test_other_elements_than_the_data_has(tmp_path: Path, cache: Path, command) -> None:
    outcome = command("train", *SMALL, "codec.elements=[H,C]", f"out={tmp_path / 'run'}")
    assert outcome.code != 0
    assert "atoms have 5 element columns, but codec.elements=['H', 'C']" in " ".join(outcome.err.split())


def test_a_network_without_properties_makes_a_model_without_them(tmp_path: Path, cache: Path, no_plots: None) -> None:
    properties = ("data.properties=[gap]", "network.properties={}", "preview.n=0")
    model = core.load(fit(compose("train", *SMALL, *properties, f"out={tmp_path / 'run'}")), device="cpu")
    with pytest.raises(UserError, match="unknown condition gap"):
        model.sample(n=1, steps=2, gap=5.0)


def test_likelihood_in_nats(run: Path, tmp_path: Path) -> None:
    folder = evaluate(tmp_path / "out", f"checkpoint={run}", "likelihood=4", "likelihood_steps=5", "n=2")
    held_out = json.loads((folder / "evaluation.json").read_text())["held-out data"]
    assert np.isfinite(held_out["nats"])
    parts = sum(held_out[f"bits_per_dim_{name}"] for name in ("prior", "diffusion", "decoder"))
    assert held_out["bits_per_dim"] == pytest.approx(parts)


def test_a_folder_of_molecules_is_measured_without_a_model(run: Path, tmp_path: Path) -> None:
    folder = next((run / "samples").iterdir())
    out = evaluate(
        tmp_path / "out", "modality=molecules", f"samples={folder}", f"reference={folder}",
        "modality.elements=[H,C,N,O,F]", "n=2",
    )  # fmt: skip
    assert json.loads((out / "evaluation.json").read_text())["samples"]["n"] == 2


def test_a_resumed_run_is_the_same_run(tmp_path: Path, cache: Path, no_plots: None) -> None:
    """Batches of one size come in the same order again."""
    four = (*SMALL, "training.steps=4", "preview.n=0")
    whole = fit(compose("train", *four, f"out={tmp_path / 'whole'}"))
    broken = fit(compose("train", *four, f"out={tmp_path / 'broken'}"))
    first, later = (broken / "checkpoints" / name for name in ("step-00000002", "step-00000004"))
    shutil.rmtree(later)
    fit(compose("train", f"resume={first}"))
    assert later.is_dir()
    assert_same_weights(whole, broken)
