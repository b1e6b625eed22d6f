"""A run that was stopped at any step and resumed is, to the last bit, the run that was not stopped."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TINY, TINY_IMAGES, Outcome, assert_same_weights, compose, train
from torch import Tensor

from core import checkpoint
from core.fit import fit

STEPS = 5
EVERY = (
    f"training.steps={STEPS}",
    "training.validate_every=1",
    "training.keep=9",
    "preview.n=0",
    "optimisation.warmup=3",
)
SMALL_MOLECULES = ("network.width=8", "network.depth=1", "network.vectors=4", "network.radial=4")
RUNS: dict[str, tuple[str, ...]] = {
    "image": TINY_IMAGES,
    "image, accumulated": (*TINY_IMAGES, "training.accumulate=3"),
    "image, by a worker": (*TINY_IMAGES, "trainer.workers=1"),
    "image, another average": (*TINY_IMAGES, "optimisation.ema_decay=.5", "optimisation.amsgrad=true"),
    "audio": (*TINY_IMAGES, "modality=audio"),
    "molecules": (*TINY, *SMALL_MOLECULES, "modality=molecules"),
    "molecules, parts kept": (*TINY, *SMALL_MOLECULES, "modality=molecules", "data.kept=0.5"),
}


def differences(a: Any, b: Any, where: str = "state") -> list[str]:
    """The places at which two trees differ in a bit."""
    if isinstance(a, Tensor):
        return [] if isinstance(b, Tensor) and torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}[{i}]")]
    return [] if a == b or (a != a and b != b) else [where]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    name: str, tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, averages, the optimiser's state, the learning rate, the losses of validation: after several stops."""
    monkeypatch.setattr("modalities.audio.tones.SIZES", {"train": 125, "val": 125, "test": 125})
    straight = fit(compose("train", *RUNS[name], *EVERY, f"out={tmp_path / 'straight'}"))
    for stop in (1, 3):
        run = Path(shutil.copytree(straight, tmp_path / f"stopped-{stop}"))
        for later in range(stop + 1, STEPS + 1):
            shutil.rmtree(run / "checkpoints" / checkpoint.step_name(later))
        checkpoint.point(run, "last", checkpoint.step_name(stop))
        fit(compose("train", f"resume={run}"))
        assert_same_weights(run, straight)
        last = [checkpoint.load_state(one / "checkpoints" / checkpoint.step_name(STEPS)) for one in (run, straight)]
        state = [{key: value for key, value in one.items() if key != "loops"} for one in last]
        assert not differences(*state)
        losses = [_validation(one) for one in (run, straight)]
        assert losses[0] == losses[1]


def _validation(run: Path) -> dict[str, str]:
    """Of the last step."""
    rows = []
    for table in sorted((run / "metrics").glob("from-*/metrics.csv")):
        rows += [row for row in csv.DictReader(table.read_text().splitlines()) if row.get("val/loss")]
    return {key: value for key, value in rows[-1].items() if value and key != "epoch"}


def test_moments_of_another_memory_format_are_laid_out_anew(
    tmp_path: Path, cache: Path, no_plots: None, command: Callable[..., Outcome]
) -> None:
    """The optimiser's state of a checkpoint without channels_last, in a run that goes on with it."""
    plain = train(tmp_path / "plain", *EVERY, "trainer.channels_last=false")
    other = Path(shutil.copytree(plain, tmp_path / "other"))
    for later in range(3, STEPS + 1):
        shutil.rmtree(other / "checkpoints" / checkpoint.step_name(later))
    checkpoint.point(other, "last", checkpoint.step_name(2))
    assert command("train", f"resume={other}", "trainer.channels_last=true").code == 0
    assert_same_weights(plain, other, atol=1e-6, rtol=1e-5)
