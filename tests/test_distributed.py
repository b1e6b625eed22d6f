"""Several processes train the same model as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT, TINY_IMAGES, assert_same_weights, train

LAW = ("training.steps=3", "optimisation.warmup=1", "training.validate_every=3")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path, cache: Path, no_plots: None):
    """Over gloo, started by torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "core.train"]
    arguments = [*TINY_IMAGES, *LAW, "training.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLYDIFFUSION_CACHE": str(cache)}
    one = train(tmp_path / "one", *LAW, "training.batch_size=8")  # it also fills the cache
    command = [*launcher, *arguments, f"out={tmp_path / 'two'}", "n=4"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_weights(one, tmp_path / "two", atol=1e-5, rtol=1e-5)
    assert done.stdout.count("run folder") == 1  # one process speaks
    assert (tmp_path / "two" / "samples" / "step-00000003" / "samples.npz").exists()
