"""The papers' recipes: each trains two steps on pictures, or sounds, of its kind and samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import ROOT, TINY, audio, compose

import core
from benchmarks.common import count
from core.build import part
from core.fit import fit

RECIPES = {path.stem: path.read_text() for path in sorted((ROOT / "configs" / "experiment").glob("*.yaml"))}
AUDIO = [name for name, text in RECIPES.items() if "override /modality: audio" in text]
MOLECULES = [name for name, text in RECIPES.items() if "override /modality: molecules" in text]
OF_DATA = ["superres"]  # its samples follow data: tests/test_image_superres.py
IMAGE = [name for name in RECIPES if name not in (*AUDIO, *MOLECULES, *OF_DATA)]
SMALL = ("network.widths=[8,8,8,8]", "network.groups=4", "network.features.width=8")
SMALL_DIFFWAVE = ("network.channels=8", "network.layers=4")
SMALL_AUDIO = {
    "diffwave_sc09": SMALL_DIFFWAVE,
    "diffwave_ljspeech": SMALL_DIFFWAVE,
    "vocoder_fsdd": ("network.widths=[8,8,8]", "network.groups=4"),
}
OTHER_DATA = {"diffwave_sc09": ("~data.words", "data.sample_rate=16000")}  # a folder has no words, but any rate


def run(name: str, out: Path, *more: str) -> Path:
    tiny = (*TINY, "training.batch_size=2", "training.validate_on=2", f"out={out}")
    return fit(compose("train", f"experiment={name}", *tiny, *more))


def on_pictures(name: str, pictures: Path, out: Path, *more: str) -> None:
    data = ("data=folder", f"data.path={pictures}", "data.size=32", "data.val=0.1", "data.test=0.1")
    samples = core.load(run(name, out, *data, *more), device="cpu").sample(n=2, steps=2)
    assert samples.x.shape == (2, 3, 32, 32)
    assert torch.isfinite(samples.x).all()


def on_sounds(name: str, sounds: Path, out: Path, *more: str) -> None:
    data = (*audio(sounds)[1:], "data.max_seconds=0.1", *OTHER_DATA.get(name, ()))
    model = core.load(run(name, out, *data, *more), device="cpu")
    asked = {"input": str(sounds / "low")} if model.codec.conditions else {}
    samples = model.sample(n=2, steps=2, **asked)
    assert samples.x.shape[:2] == (2, 1)
    assert samples.x.isfinite().all()
    assert samples.x.any()
    assert samples.x.abs().max() <= 1


@pytest.mark.parametrize("name", IMAGE)
def test_recipe_with_a_small_network(name: str, pictures: Path, tmp_path: Path, no_plots: None) -> None:
    on_pictures(name, pictures, tmp_path, *SMALL, *(["network.heads=2"] if name == "iddpm_cifar10" else []))


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE)
def test_recipe(name: str, pictures: Path, tmp_path: Path, no_plots: None) -> None:
    on_pictures(name, pictures, tmp_path)


@pytest.mark.parametrize("name", AUDIO)
def test_recipe_of_sounds_with_a_small_network(name: str, sounds: Path, tmp_path: Path, no_plots: None) -> None:
    on_sounds(name, sounds, tmp_path, *SMALL_AUDIO[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", AUDIO)
def test_recipe_of_sounds(name: str, sounds: Path, tmp_path: Path, no_plots: None) -> None:
    on_sounds(name, sounds, tmp_path)


@pytest.mark.parametrize("name", MOLECULES)
def test_recipe_of_molecules(name: str, tmp_path: Path, cache: Path, no_plots: None) -> None:
    pytest.importorskip("rdkit")
    samples = core.load(run(name, tmp_path, "network.width=16", "network.depth=2"), device="cpu").sample(n=2, steps=2)
    assert samples.x.shape[2] == 8
    assert samples.x.isfinite().all()


PUBLISHED = [("diffwave_sc09", 24_034_305), ("diffwave_ljspeech", 2_619_971), ("edm_qm9", 5_339_920)]


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED)
def test_recipe_has_the_published_size(name: str, parameters: int) -> None:
    with torch.device("meta"):  # counts without allocating
        assert count(part(compose("train", f"experiment={name}"), "network")) == parameters
