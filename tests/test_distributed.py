"""Several processes train the same model as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT, TINY_IMAGES, assert_same_weights, train

from core.runs import RUN_FOLDER

LAW = ("training.steps=3", "optimisation.warmup=1", "training.validate_every=3")


TWO = ("training.batch_size=4", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ()], ids=["torchrun", "lightning"])
def test_two_processes_equal_one(launcher: tuple[str, ...], tmp_path: Path, cache: Path, no_plots: None):
    """Over gloo, started by torchrun or by the first process itself; an odd number of samples is held out."""
    one = train(tmp_path / "one", *LAW, "training.batch_size=8")  # it also fills the cache
    arguments = [*TINY_IMAGES, *LAW, *TWO, "training.validate_on=9", "n=6", "micro_batch=2"]
    done = run_in(tmp_path, cache, *launcher, "-m", "core.train", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run folder") == 1  # one process speaks
    (two,) = (tmp_path / "runs").iterdir()  # both agree on the name
    assert_same_weights(one, two, atol=1e-5, rtol=1e-5)
    names = {file.name for file in (two / "samples" / "step-00000003").iterdir()}
    assert {"00005.png", "samples.npz", "grid.png", "evaluation.json"} <= names


def run_in(folder: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment = {**kept, "OMP_NUM_THREADS": "1", "POLYDIFFUSION_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", RUN_FOLDER)
