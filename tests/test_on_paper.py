"""What is computed on paper follows from closed forms, and the page says what the program says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import ROOT
from torch import nn

from benchmarks import on_paper


def test_flops_of_a_stack_of_layers() -> None:
    """2 m n k for a product forward; backward one for the weights and, where the input has a gradient, one for it."""
    with torch.device("meta"):
        stack = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1), nn.Flatten(), nn.Linear(5 * 64, 7))
        step = on_paper.counted(stack, torch.empty(2, 3, 8, 8))
    positions, batch = 2 * 64, 2
    first, second, third = 2 * positions * 9 * 3 * 8, 2 * positions * 8 * 5, 2 * batch * 5 * 64 * 7
    assert step.flops == 2 * first + 3 * second + 3 * third
    assert step.parameters == 9 * 3 * 8 + 8 + 8 * 5 + 5 + 5 * 64 * 7 + 7
    assert step.kept == 2 * (2 * 3 * 64 + positions * 8 + positions * 5)  # the input of each layer


def test_a_ring_sends_what_it_must() -> None:
    device = on_paper.DEVICES["H100"]
    assert on_paper.all_reduce(1000, 1) == on_paper.sharded(1000, 1) == 0
    assert on_paper.all_reduce(1000, 2) == 4000
    assert on_paper.sharded(1000, 8) == pytest.approx(1.5 * on_paper.all_reduce(1000, 8))
    assert on_paper.seconds(450e9, 8, device, 25e9) == 1  # one way, and no network within a machine
    assert on_paper.seconds(25e9, 64, device, 25e9) == 1


@pytest.mark.slow
def test_the_page_has_the_programs_tables(tmp_path: Path) -> None:
    found = on_paper.main(on_paper.Options(out=str(tmp_path)))
    assert json.loads((tmp_path / "on_paper.json").read_text()) == found
    page = (ROOT / "docs/scale.md").read_text()
    for table in (tmp_path / "on_paper.md").read_text().strip().split("\n\n"):
        assert table in page
