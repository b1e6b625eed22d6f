"""The models that come with the project are found by name, wherever a command takes a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from runs import Outcome

import core
from core import checkpoint
from core.digests import check
from core.shipped import MODALITIES, models, of_modality

LIMIT = 16 * 2**20  # bytes, of all of them


def test_each_modality_that_ships_models_names_one_for_itself() -> None:
    for folder in MODALITIES.glob("*/models"):
        default = models()[folder.parent.name]
        assert default.parent == folder
        assert models()[default.name] == default
        assert of_modality(folder.parent.name)[0] == default
        assert {path.name for path in of_modality(folder.parent.name)} == {
            file.parent.name for file in folder.glob("*/model.safetensors")
        }
    assert of_modality("smell") == []


def test_all_are_whole_and_small() -> None:
    files = [file for folder in set(models().values()) for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < LIMIT
    for folder in models().values():
        check(folder / "config.yaml")
        check(folder / "model.safetensors")


def test_a_folder_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoint.find("qm9") == models()["qm9"]
    (tmp_path / "qm9").symlink_to(trained)
    assert checkpoint.find("qm9").resolve() == checkpoint.find(trained).resolve()


@pytest.mark.parametrize("modality", sorted(folder.parent.name for folder in MODALITIES.glob("*/models")))
def test_a_modality_stands_for_its_model(modality: str, tmp_path: Path, command: Callable[..., Outcome]) -> None:
    done = command("sample", f"modality={modality}", "n=2", "steps=2", "device=cpu", f"out={tmp_path / 'drawn'}")
    assert done.code == 0, done.err
    assert (tmp_path / "drawn" / "samples.npz").exists()
    assert len(core.load(modality, device="cpu").sample(n=2, steps=2)) == 2


def test_an_unknown_one_is_named(command: Callable[..., Outcome]) -> None:
    done = command("sample", "modality=video")
    assert done.code == 2
    assert "no last checkpoint in video" in done.err
    assert "by name there are fsdd" in done.err


def test_two_models_at_once_are_refused(command: Callable[..., Outcome]) -> None:
    done = command("sample", "modality=audio", "checkpoint=qm9")
    assert done.code == 2
    assert "checkpoint= is given twice" in done.err
