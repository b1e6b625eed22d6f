"""The benchmark of guidance runs, asks every sampler of the configs, and counts evaluations as samplers make them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import ROOT

from benchmarks import guidance, speed
from core.errors import UserError


def test_it_writes_what_it_measured(tmp_path: Path, cache: Path) -> None:
    options = guidance.Options(batch=2, rounds=1, steps=4, overrides="network.widths=[8,16]", out=str(tmp_path))
    found = guidance.main(options)
    written = json.loads((tmp_path / "guidance.json").read_text())
    assert f"| {found[0].what} | unguided |" in speed.of("guided")(written)
    assert len(written["guided"]) + len(written["samplers"]) == len(found)
    samplers = {c.what.removesuffix(", alone"): c.baseline for c in found if c.what.endswith(", alone")}
    assert samplers.keys() == {file.stem for file in (ROOT / "configs" / "sampler").glob("*.yaml")}
    assert samplers["ddim"] == "4 network calls"
    assert samplers["heun"] == "7 network calls"


def test_what_it_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="what=nothing: allowed are guided, samplers"):
        guidance.main(guidance.Options(what="nothing", out=str(tmp_path)))
