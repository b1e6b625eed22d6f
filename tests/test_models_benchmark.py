"""The record of the shipped models' figures, and the tables that are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import TINY_IMAGES

from benchmarks import default_runs, models
from core.errors import UserError


def test_a_model_is_evaluated_and_written_down_beside_the_others(cache: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    earlier = {"machine": {}, "seed": 0, "models": {"another": {"evaluation": {}}}}
    record.write_text(json.dumps(earlier))
    options = models.Options("mnist", n={"mnist": 10}, more={"mnist": "steps=2"}, out=str(tmp_path), record=str(record))
    models.main(options)
    written = json.loads(record.read_text())
    assert written["models"].keys() == {"another", "mnist"}
    table = models.of("mnist")(written)
    assert "| 10 samples against 10 held-out ones | samples | real |" in table
    accuracy = written["models"]["mnist"]["evaluation"]["samples"]["label_accuracy"]
    assert f"| taken by the judge for what was asked for | {accuracy:.1%} |" in table
    assert "atoms stable" not in table


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names=no-such: allowed are audio, fsdd"):
        models.main(models.Options("no-such", out=str(tmp_path)))


def test_a_default_run_is_done_once_and_written_down(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"runs": {"audio": "measured earlier"}}))
    overrides = " ".join((*TINY_IMAGES, "n=10"))
    options = default_runs.Options("image", overrides, str(tmp_path / "out"), str(record))
    found = default_runs.main(options)
    assert found.keys() == {"audio", "image"}
    assert found["image"]["steps"] == 2
    table = default_runs.of("image")(json.loads(record.read_text()))
    assert "| 10 samples against 10 held-out ones | after 2 steps, 0:" in table
    monkeypatch.setattr(default_runs, "train", lambda config: pytest.fail("done again"))
    assert default_runs.main(options) == found
