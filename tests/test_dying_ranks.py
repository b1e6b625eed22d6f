"""A process that dies brings all of its run down within a minute, and the reason is told in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import LAUNCHED, ROOT, TINY_IMAGES

TWO = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "preview.n=0", "training.steps=60")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
LIMIT = 60  # seconds from a death to the end of all
MORE = pytest.mark.skipif("ALL_DEATHS" not in os.environ, reason="minutes of starting processes: make reliability")
DYING = """
import os, signal, time
from core.cli import run
from core.module import DiffusionModule
from core.train import train

rank, how, others = os.environ["DIES"].split()
step = DiffusionModule.training_step

def dies(self, *arguments):
    if self.trainer.global_step == 3 and self.global_rank == int(rank):
        open("died", "w").close()
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("the disk burns")
    if self.trainer.global_step == 3 and others == "deaf":  # as who waits for NCCL hears of no death, and no signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(1000)
    return step(self, *arguments)

DiffusionModule.training_step = dies
run("train", train)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "dies", "reason"),
    [
        ((), "1 raises hear", "error: rank 1 of 2: OSError: the disk burns"),
        (TORCHRUN, "1 raises hear", "error: rank 1 of 2: OSError: the disk burns"),
        ((), "1 killed deaf", "error: rank 0 of 2: rank 1 was killed by SIGKILL"),
        ((), "0 killed deaf", "error: rank 1 of 2: rank 0, which has started it, is gone"),
        pytest.param((), "1 killed hear", "error: rank 0 of 2: rank 1 was killed by SIGKILL", marks=MORE),
        pytest.param(TORCHRUN, "1 killed hear", "Signal 9 (SIGKILL) received by PID", marks=MORE),
        pytest.param(TORCHRUN, "1 killed deaf", "Signal 9 (SIGKILL) received by PID", marks=MORE),
    ],
    ids=lambda value: value if isinstance(value, str) and value[0] in "01" else "torchrun" if value == TORCHRUN else "",
)
def test_one_that_dies_ends_all(launcher: tuple[str, ...], dies: str, reason: str, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment = {**kept, "OMP_NUM_THREADS": "1", "POLYDIFFUSION_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    environment["DIES"] = dies
    command = [sys.executable, *launcher, "dying.py", *TINY_IMAGES, *TWO, "out=run"]
    with (tmp_path / "err").open("w") as err:
        job = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=err, stderr=err, start_new_session=True)
    try:
        _wait(lambda: (tmp_path / "died").exists() or not _alive(job), 240)  # what starts may take its time
        took = _wait(lambda: not _alive(job), LIMIT)
    finally:
        if _alive(job):
            os.killpg(job.pid, 9)
    said = (tmp_path / "err").read_text()
    print(f"{took:.1f} s after {dies}\n{said}")
    assert (tmp_path / "died").exists(), said[-3000:]
    assert job.wait() != 0
    assert reason in said, said[-5000:]


def _alive(job: subprocess.Popen[bytes]) -> bool:
    """Whether any process of the job's group is there still."""
    job.poll()  # what has ended is taken note of
    try:
        os.killpg(job.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait(over: Callable[[], bool], limit: float) -> float:
    """The seconds that it took; fails after the limit."""
    begun = time.monotonic()
    while not over():
        assert time.monotonic() - begun < limit, f"not over after {limit} s"
        time.sleep(0.1)
    return time.monotonic() - begun
