"""A training process that is killed at random moments goes on as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kills import Options, main


@pytest.mark.slow
def test_three_kills_change_no_bit(tmp_path: Path, cache: Path) -> None:
    """`make reliability` does it thirty times."""
    found = main(Options(kills=3, every=5, steps=150, longest=0.5, out=str(tmp_path)))
    assert found["kills"] == 3
    assert found["broken"] == 0
    assert found["equal"] is True
