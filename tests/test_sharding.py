"""Weights, gradients, optimiser state and average, shared out over processes, train the model that one process does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import TINY_IMAGES, Outcome, assert_same_weights, in_processes, train

from core import checkpoint
from core.errors import UserError

LAW = ("training.steps=10", "optimisation.warmup=1", "training.validate_every=5", "training.keep=5")
TWO = ("training.batch_size=4", "trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.workers=0")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.slow
def test_two_parts_equal_one_whole(
    tmp_path: Path, cache: Path, no_plots: None, command: Callable[..., Outcome]
) -> None:
    """Weights and averages; the second half of the run in one process too, and in two parts again."""
    law = (*LAW, "optimisation.clip_norm=null", "optimisation.clip_recent=2")
    one = train(tmp_path / "one", *law, "training.batch_size=8")  # it also fills the cache
    done = in_processes(2, tmp_path, cache, "-m", "core.train", *TINY_IMAGES, *law, *TWO, "n=4", "out=two")
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "two"
    assert_same_weights(one, two, **CLOSE)
    assert (two / "previews" / "step-00000005.png").exists()
    assert (two / "samples" / "step-00000010" / "evaluation.json").exists()

    middle = two / checkpoint.FOLDER / "step-00000005"
    shutil.copytree(two, tmp_path / "alone")
    alone = tmp_path / "alone" / checkpoint.FOLDER / middle.name
    outcome = command("train", f"resume={alone}", "trainer=cpu", "training.batch_size=8", "n=0")
    assert outcome.code == 0, outcome.err
    assert "resumed on 1 process instead of 2: batches of 8 as before" in " ".join(outcome.out.split())
    assert_same_weights(one, tmp_path / "alone", **CLOSE)
    done = in_processes(2, tmp_path, cache, "-m", "core.train", f"resume={middle}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_weights(one, two, **CLOSE)


LOOK = """
import sys

import torch
from torch.distributed.tensor import DTensor

import core.callbacks
from core.cli import run
from core.train import train

before = core.callbacks.Checkpoints.on_train_end


def look(self, trainer, module):
    def held(tensors):
        tensors = list(tensors)
        assert all(isinstance(t, DTensor) for t in tensors)
        return sum(t.to_local().numel() for t in tensors), sum(t.numel() for t in tensors)

    moments = [t for state in trainer.optimizers[0].state.values() for name, t in state.items() if name != "step"]
    (averaging,) = [c for c in trainer.callbacks if isinstance(c, core.callbacks.Averaging)]
    parts = {
        "weights": held(module.denoiser.parameters()),
        "moments": held(moments),
        "average": held(averaging._averaged().parameters()),
    }
    sys.stderr.write(f"HELD {trainer.global_rank} {parts}\\n")
    before(self, trainer, module)


core.callbacks.Checkpoints.on_train_end = look
run("train", train)
"""


@pytest.mark.slow
def test_each_process_holds_about_half(tmp_path: Path, cache: Path, no_plots: None) -> None:
    """With the gradient clipped as always, it is still the model of one process."""
    (tmp_path / "look.py").write_text(LOOK)
    steps = ("training.steps=2", "training.validate_every=2", "training.validate_on=8", "n=0", "preview.n=0")
    one = train(tmp_path / "one", *steps, "training.batch_size=8")
    done = in_processes(2, tmp_path, cache, "look.py", *TINY_IMAGES, *TWO, *steps, "out=two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_weights(one, tmp_path / "two", **CLOSE)
    lines = [line.split("HELD ", 1)[1] for line in done.stderr.splitlines() if "HELD " in line]
    assert len(lines) == 2
    for line in lines:
        parts = eval_numbers(line.split(" ", 1)[1])
        assert parts.keys() == {"weights", "moments", "average"}
        for name, (held, total) in parts.items():
            assert 0.4 < held / total < 0.6, name


def eval_numbers(text: str) -> dict[str, list[int]]:
    return json.loads(text.replace("'", '"').replace("(", "[").replace(")", "]"))


NAN = """
import os

import core.module
from core.cli import run
from core.train import train

before = core.module.Taken


def broken(batch, step, *others):
    if step == 1 and os.environ["RANK"] == "1":
        batch = batch.with_x(batch.x.clone())
        batch.x[0, 0, 0, 0] = float("nan")
    return before(batch, step, *others)


core.module.Taken = broken
run("train", train)
"""


@pytest.mark.slow
def test_a_step_that_is_no_number_is_written_down_whole(tmp_path: Path, cache: Path, no_plots: None) -> None:
    """With the whole weights, by the process whose batch it was; it is taken again in one process."""
    (tmp_path / "broken.py").write_text(NAN)
    arguments = [*TINY_IMAGES, *TWO, "training.steps=3", "preview.n=0", "out=run"]
    done = in_processes(2, tmp_path, cache, "broken.py", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "run" / "flight" / "step-00000001-rank-1"
    record = json.loads((folder / "record.json").read_text())
    assert "data of the samples [0]" in record["found"]["culprit"]
    assert all(torch.isfinite(value).all() for value in checkpoint.load_weights(folder).values())
    again = [sys.executable, "-m", "core.train", f"replay={folder}", "trainer=cpu"]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "data of the samples [0]" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("switch", ["channels_last", "compile"])
def test_what_cannot_be_shared_out_is_named(switch: str, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=rf"^trainer\.{switch}=true: false with trainer\.strategy=fsdp"):
        train(tmp_path / "run", *TWO, "trainer.devices=1", f"trainer.{switch}=true")
