"""A process that trains, samples and evaluates again and again piles up nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import Options, Trend, grows, main


def test_what_grows_is_named() -> None:
    """Memory by a twentieth of itself, the others by one; noise and what shrinks are no growth."""
    steady = {"memory": Trend.of([900.0, 903.0, 899.0, 902.0]), "files": Trend.of([14.0, 14.0, 13.0, 14.0])}
    assert grows(steady) == []
    leaks = {"memory": Trend.of([900.0 + 20 * i for i in range(4)]), "files": Trend.of([14.0, 15.0, 16.0, 17.0])}
    assert grows(leaks) == ["memory by 60", "files by 3"]


@pytest.mark.slow
def test_four_cycles_of_images(tmp_path: Path, cache: Path, no_plots: None) -> None:
    """`make reliability` goes on for half an hour, with all modalities."""
    found = main(Options(minutes=60, cycles=4, warm=1, modality="image", out=str(tmp_path / "soak")))
    held = found["held"]
    assert isinstance(held, list)
    assert len(held) == 5  # the first one before any cycle
    for key in ("threads", "files", "children"):
        assert held[-1][key] <= held[1][key], key
