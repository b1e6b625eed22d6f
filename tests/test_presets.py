"""The papers' recipes: each trains two steps on pictures of its size and samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import ROOT, TINY, compose

import core
from core.fit import fit

EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))
SMALL = ("network.widths=[8,8,8,8]", "network.groups=4", "network.features.width=8")


def preset(name: str, pictures: Path, out: Path, *more: str) -> Path:
    data = ("data=folder", f"data.path={pictures}", "data.size=32", "data.val=0.1", "data.test=0.1")
    tiny = (*TINY, "training.batch_size=2", "training.validate_on=2", f"out={out}")
    return fit(compose("train", f"experiment={name}", *data, *tiny, *more))


def check(run: Path) -> None:
    samples = core.load(run, device="cpu").sample(n=2, steps=2)
    assert samples.x.shape == (2, 3, 32, 32)
    assert torch.isfinite(samples.x).all()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_recipe_with_a_small_network(name: str, pictures: Path, tmp_path: Path, no_plots: None) -> None:
    check(preset(name, pictures, tmp_path, *SMALL, *(["network.heads=2"] if name == "iddpm_cifar10" else [])))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_recipe(name: str, pictures: Path, tmp_path: Path, no_plots: None) -> None:
    check(preset(name, pictures, tmp_path))
