"""The shipped model of molecules: small, loadable, and building molecules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import ROOT

import core
from modalities.molecules.bonds import bond_orders, connected, stable_atoms
from modalities.molecules.elements import numbers

pytest.importorskip("rdkit")
MODELS = ROOT / "modalities" / "molecules" / "models"


@pytest.fixture(scope="module")
def model() -> core.model.Model:
    return core.load(MODELS / "qm9", device="cpu")


def test_it_is_small_and_says_how_it_was_made() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < 4e6
    card = Path(MODELS / "README.md").read_text()
    assert "`qm9`" in card
    assert "python -m core.train modality=molecules" in card


def test_it_names_no_place_of_a_machine() -> None:
    text = (MODELS / "qm9" / "config.yaml").read_text()
    assert not any(f"{root}/" in text for root in ("/home", "/root", "/tmp", "/mnt", "/data", str(ROOT)))


def test_it_builds_molecules(model: core.model.Model) -> None:
    samples = model.sample(n=16, steps=60, n_atoms=16)
    kinds = numbers(samples.x, samples.mask, model.modality.elements)
    orders = bond_orders(samples.x[..., :3], kinds)
    assert float(stable_atoms(orders, kinds).float().mean()) > 0.85
    assert int(connected(orders, kinds).sum()) >= 12


def test_it_builds_what_a_formula_says(model: core.model.Model) -> None:
    samples = model.sample(n=8, steps=60, formula="C7H10O2")
    kinds = numbers(samples.x, samples.mask, model.modality.elements)
    assert torch.equal(kinds.sort().values, torch.tensor([1] * 10 + [6] * 7 + [8] * 2).expand(8, -1))
    orders = bond_orders(samples.x[..., :3], kinds)
    assert float(stable_atoms(orders, kinds).float().mean()) > 0.8
    assert int(connected(orders, kinds).sum()) >= 4
