"""How long `core.train` takes from the end of importing torch and Lightning to the end of its first step."""

from __future__ import annotations

import subprocess
import sys
from tempfile import TemporaryDirectory

from core.errors import UserError

MARK = "seconds to the first step:"
PROGRAM = f"""
import sys, time
import torch, lightning.pytorch
begun = time.perf_counter()
from core.module import DiffusionModule
from core import cli
from core.train import train

def ended(self, *ignored):
    print({MARK!r}, time.perf_counter() - begun, flush=True)

DiffusionModule.on_train_batch_end = ended
cli.run("train", train)
"""
SHORT = ("training.steps=1", "training.validate_every=1", "training.validate_on=8", "n=0", "preview.n=0")


def seconds_to_first_step(modality: str, overrides: str = "") -> float:
    """In a process of its own, with the default network and data. UserError with its last line if it fails."""
    with TemporaryDirectory() as folder:
        options = [f"modality={modality}", f"out={folder}/run", "trainer=cpu", *SHORT, *overrides.split()]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *options], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise UserError(f"core.train has done no step: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return float(lines[0].removeprefix(MARK))
