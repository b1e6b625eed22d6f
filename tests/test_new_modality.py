"""docs/new-modality.md, followed to the letter: its files in a folder of their own, trained, sampled and evaluated."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import ROOT, Outcome

import core

BLOCK = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)
SHORT = ("trainer=cpu", "training.steps=300", "training.validate_every=300", "optimisation.warmup=10", "steps=20")


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in BLOCK.findall((ROOT / "docs" / "new-modality.md").read_text(encoding="utf-8")):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "points" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "points"]:
        del sys.modules[name]


def test_the_document(theirs: Path, command: Callable[..., Outcome]) -> None:
    files = {str(path.relative_to(theirs)) for path in theirs.rglob("*.*") if path.stat().st_size}
    assert files >= {"points/network.py", "points/data.py", "points/modality.py", "configs/modality/points.yaml"}

    trained = command("train", "--config-dir", "configs", "modality=points", *SHORT, "n=200", "out=run")
    assert trained.code == 0, trained.err
    table = json.loads((theirs / "run" / "samples" / "step-00000300" / "evaluation.json").read_text())
    distance, floor = table["samples"]["energy_distance"], table["real"]["energy_distance"]

    from points.data import EightGaussians
    from points.modality import energy_distance

    held_out = torch.from_numpy(EightGaussians().test.x)
    noise = energy_distance(3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), held_out[:200])
    assert distance < 0.25 * noise
    assert floor < 0.1 * noise

    arguments = ("checkpoint=run", "allow=[points]", "steps=20", "device=cpu")
    sampled = command("sample", *arguments, "n=50", "cond.label=NE", "trajectory=true", "out=samples")
    assert sampled.code == 0, sampled.err
    with np.load(theirs / "samples" / "samples.npz") as arrays:
        np.testing.assert_allclose(np.median(arrays["x"], axis=0), [2.83, 2.83], atol=0.6)
        assert set(arrays["label"]) == {1}
    assert (theirs / "samples" / "00049.txt").exists()

    assert command("evaluate", *arguments, "n=100", "out=evaluation").code == 0
    folders = ("samples=evaluation", "reference=run/samples/step-00000300", "out=folders")
    compared = command("evaluate", "--config-dir", "configs", "modality=points", *folders)
    assert compared.code == 0, compared.err
    assert json.loads((theirs / "folders" / "evaluation.json").read_text())["samples"]["n"] == 100

    refused = command("sample", "checkpoint=run", "n=2", "out=other")
    assert refused.code == 2
    assert "allow=[package] adds another" in refused.err
    assert core.load("run", allow=["points"], device="cpu").sample(3, steps=2, label="S").x.shape == (3, 2)
