"""python -m benchmarks.kills [kills=30] [every=5]: a real training process is killed again and again, and resumed.

SIGKILL comes at a random moment of each life, also while a checkpoint is written. After each, every checkpoint that is
there is read whole, by its digests. When the last life has come to the end, its weights must be, bit for bit, those of
a run that nobody killed.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import machine
from core import checkpoint
from core.cli import with_options
from core.errors import UserError
from core.runs import Reporter, write_json

TINY = (
    "modality=image",
    "trainer=cpu",
    "training.batch_size=4",
    "training.validate_on=8",
    "network.widths=[8,8]",
    "network.groups=4",
    "preview.n=0",
    "n=0",
)


@dataclass
class Options:
    kills: int = 30
    every: int = 5  # steps between two checkpoints
    steps: int = 2000  # of the whole run
    longest: float = 3.0  # seconds that a life lasts after its start is over
    seed: int = 0
    out: str = "benchmarks/out/kills"


@dataclass
class Lives:
    """kills: that came before the end; broken: checkpoints that could not be read whole."""

    kills: int = 0
    broken: int = 0


def main(options: Options) -> dict[str, object]:
    """Writes kills.json into `out`. UserError if a checkpoint is broken or the weights differ."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report, chance = Reporter(folder), random.Random(options.seed)
    arguments = [*TINY, f"training.steps={options.steps}", f"training.validate_every={options.every}"]
    killed, straight = folder / "killed", folder / "straight"
    lives = Lives()
    while lives.kills < options.kills and not is_done(killed, options.steps):
        before = steps_done(killed)
        process = start(killed, arguments)
        wait_for(process, killed, before)
        time.sleep(chance.uniform(0, options.longest))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        lives.kills += 1
        lives.broken += broken_checkpoints(killed)
        report(f"kill {lives.kills} of {options.kills}: {steps_done(killed)} steps are saved")
    for run in (killed, straight):
        if not is_done(run, options.steps) and start(run, arguments).wait() != 0:
            raise UserError(f"{run} did not come to its end: see {run}.log")
    equal = same_weights(killed, straight)
    found = {"machine": machine(), **vars(options), **vars(lives), "equal": equal}
    write_json(folder / "kills.json", found)
    report(f"{lives.kills} kills, {lives.broken} broken checkpoints, weights bit for bit those of no kill: {equal}")
    if lives.broken or not equal:
        raise UserError(f"{lives.broken} checkpoints were broken; weights equal: {equal}")
    return found


def start(run: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """A process that begins the run, or resumes it."""
    resumes = steps_done(run) > 0
    given = [f"resume={run}"] if resumes else [*arguments, f"out={run}"]
    with run.with_name(f"{run.name}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "core.train", *given], stdout=log, stderr=log)


def wait_for(process: subprocess.Popen[bytes], run: Path, before: int, limit: float = 120) -> None:
    """Until this life has written a checkpoint of its own, or has ended."""
    until = time.monotonic() + limit
    while process.poll() is None and steps_done(run) <= before:
        if time.monotonic() > until:
            raise UserError(f"no checkpoint within {limit:g} s: see {run}.log")
        time.sleep(0.02)


def steps_done(run: Path) -> int:
    """Of the checkpoint that a resumption would take; 0 without one."""
    try:
        return int(checkpoint.find(run).name.removeprefix("step-"))
    except UserError:
        return 0


def is_done(run: Path, steps: int) -> bool:
    return steps_done(run) >= steps


def broken_checkpoints(run: Path) -> int:
    """How many of the step folders, the one to be resumed among them, cannot be read whole."""
    broken = 0
    for folder in {*(run / checkpoint.FOLDER).glob("step-*"), checkpoint.find(run)}:
        try:
            for averaged in (True, False):
                checkpoint.load_weights(folder, averaged)
            checkpoint.load_config_text(folder)
            checkpoint.load_state(folder)
        except UserError:
            broken += 1
    return broken


def same_weights(one: Path, other: Path) -> bool:
    for averaged in (True, False):
        a, b = (checkpoint.load_weights(checkpoint.find(run), averaged) for run in (one, other))
        if a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a):
            return False
    return True


if __name__ == "__main__":
    with_options(Options, main)
