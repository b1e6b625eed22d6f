"""Several processes train the model that one does, draw the same samples, and go on where another number ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import LAUNCHED, ROOT, TINY_IMAGES, Outcome, assert_same_weights, evaluate, in_processes, sample, train
from safetensors.torch import load_file

from core import checkpoint

LAW = ("training.steps=10", "optimisation.warmup=1", "training.validate_every=5", "preview.n=0")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
TWO = ("training.batch_size=4", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
KEEPS_GRADIENTS = """
from safetensors.torch import save_file

from core.cli import run
from core.recorder import Recorder
from core.train import train

def keep(self, trainer, module, optimizer):
    if trainer.global_step == 0 and trainer.is_global_zero:
        save_file({name: p.grad.contiguous() for name, p in module.named_parameters()}, "gradients.safetensors")

Recorder.on_before_optimizer_step = keep
run("train", train)
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ()], ids=["torchrun", "lightning"])
def test_two_processes_equal_one(launcher: tuple[str, ...], tmp_path: Path, cache: Path, no_plots: None):
    """Over gloo, started by torchrun or by the first process itself; an odd number of samples is held out.

    The gradients of the first step, and the weights and their averages after ten.
    """
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keeps.py").write_text(KEEPS_GRADIENTS)
    alone = run_in(tmp_path / "one", cache, "keeps.py", *TINY_IMAGES, *LAW, "training.batch_size=8", "out=run")
    assert alone.returncode == 0, alone.stderr[-3000:]
    arguments = [*TINY_IMAGES, *LAW, *TWO, "training.validate_on=9", "n=6", "micro_batch=2"]
    done = run_in(tmp_path / "two", cache, *launcher, "keeps.py", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run folder") == 1  # one process speaks
    (two,) = (tmp_path / "two" / "runs").iterdir()  # both agree on the name
    ones, twos = (load_file(tmp_path / name / "gradients.safetensors") for name in ("one", "two"))
    assert ones
    torch.testing.assert_close(twos, ones, **CLOSE)
    assert_same_weights(tmp_path / "one" / "run", two, **CLOSE)
    names = {file.name for file in (two / "samples" / "step-00000010").iterdir()}
    assert {"00005.png", "samples.npz", "grid.png", "evaluation.json"} <= names


@pytest.mark.slow
def test_two_processes_sample_and_evaluate_as_one(trained: Path, tmp_path: Path, cache: Path) -> None:
    """The same bits, and the same figures."""
    asked = ("n=5", "micro_batch=2")
    one = {"sample": sample(trained, tmp_path / "s", *asked)}
    one["evaluate"] = evaluate(tmp_path / "e", f"checkpoint={trained}", *asked)
    for command, folder in one.items():
        given = (*asked, "steps=2", "device=cpu", f"checkpoint={trained}", f"out={command}")
        done = in_processes(2, tmp_path, cache, "-m", f"core.{command}", *given)
        assert done.returncode == 0, done.stderr[-3000:]
        ours, theirs = (np.load(place / "samples.npz") for place in (tmp_path / command, folder))
        assert set(ours.files) == set(theirs.files)
        for name in ours.files:
            assert np.array_equal(ours[name], theirs[name]), name
    found = [json.loads((place / "evaluation.json").read_text()) for place in (tmp_path / "evaluate", one["evaluate"])]
    assert found[0] == found[1]


@pytest.mark.slow
def test_another_number_of_processes_goes_on(
    tmp_path: Path, cache: Path, no_plots: None, command: Callable[..., Outcome]
) -> None:
    """From two to one and back: the same run where all together have batches as before; else a line says so."""
    law = (*LAW, "training.keep=9")
    one = train(tmp_path / "one", *law, "training.batch_size=8")
    done = in_processes(2, tmp_path, cache, "-m", "core.train", *TINY_IMAGES, *law, *TWO, "out=two")
    assert done.returncode == 0, done.stderr[-3000:]

    def middle(run: Path, name: str) -> Path:
        return Path(shutil.copytree(run, tmp_path / name)) / checkpoint.FOLDER / "step-00000005"

    alone = ("trainer=cpu", "trainer.strategy=auto")
    for name, batches in (("whole", "batch_size=8"), ("accumulated", "accumulate=2")):
        folder = middle(tmp_path / "two", name)
        outcome = command("train", f"resume={folder}", *alone, f"training.{batches}")
        assert outcome.code == 0, outcome.err
        assert "resumed on 1 process instead of 2: batches of 8 as before" in " ".join(outcome.out.split())
        assert_same_weights(one, tmp_path / name, **CLOSE)
    outcome = command("train", f"resume={middle(tmp_path / 'two', 'halved')}", *alone)
    said = "resumed on 1 process instead of 2: batches of 4 instead of 8, so it continues statistically"
    assert outcome.code == 0, outcome.err
    assert said in " ".join(outcome.out.split())

    folder = middle(one, "doubled")
    done = in_processes(2, tmp_path, cache, "-m", "core.train", f"resume={folder}", *TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed on 2 processes instead of 1: batches of 8 as before" in " ".join(done.stdout.split())
    assert_same_weights(one, tmp_path / "doubled", **CLOSE)


TOLD = """
import os, signal
from core.cli import run
from core.module import DiffusionModule
from core.train import train

step = DiffusionModule.training_step

def told(self, *arguments):
    if self.trainer.global_step == 3 and self.global_rank == int(os.environ["TOLD"]):
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *arguments)

DiffusionModule.training_step = told
run("train", train)
"""


@pytest.mark.slow
def test_two_processes_of_which_one_is_told_to_stop_save_the_same_step(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Outcome]
) -> None:
    """SIGTERM to the first process; the exit code asks to be requeued, and one process goes on to the same end."""
    one = train(tmp_path / "one", *LAW, "training.batch_size=8")
    (tmp_path / "told.py").write_text(TOLD)
    monkeypatch.setenv("TOLD", "0")
    done = run_in(tmp_path, cache, "told.py", *TINY_IMAGES, *LAW, *TWO, "out=two")
    assert done.returncode == 143, done.stderr[-3000:]
    assert "told to stop at step 4; resume=two" in " ".join(done.stdout.split())
    assert checkpoint.find(tmp_path / "two").name == "step-00000004"
    outcome = command(
        "train", f"resume={tmp_path / 'two'}", "trainer=cpu", "trainer.strategy=auto", "training.batch_size=8"
    )
    assert outcome.code == 0, outcome.err
    assert_same_weights(one, tmp_path / "two", **CLOSE)


def test_a_checkpoint_that_says_no_number_of_processes_goes_on(own_run: Path, command: Callable[..., Outcome]) -> None:
    """As those of earlier versions."""
    folder = checkpoint.find(own_run)
    state = json.loads((folder / checkpoint.STATE).read_text())
    assert state["state"]["dict"].pop("processes") == 1
    (folder / checkpoint.STATE).write_text(json.dumps(state))
    (folder / "digests.json").unlink()
    outcome = command("train", f"resume={own_run}", "training.steps=5", "n=0")
    assert outcome.code == 0, outcome.err
    assert "resumed" not in outcome.out


def run_in(folder: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment = {**kept, "OMP_NUM_THREADS": "1", "POLYDIFFUSION_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
