"""python -m benchmarks.loader_memory [size=4000] [memory=400]: the memory of a loader over an epoch of a large set.

The set is `size` MB of pictures in shards, ten times what may stay mapped. Measured is by how much the peak of each
process that reads, mapped pages included, is above its memory before: without letting go by the whole set.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.common import machine, peak, reset_peak
from core.batch import Batch
from core.cli import with_options
from core.data import Source, StepOrder, train_loader
from core.errors import UserError
from core.runs import Reporter, write_json
from modalities.image.shards import ImageShards

FILE = 100  # MB in a shard
WARM = 8  # steps before the measurement, in which what does not grow is loaded
SLACK = 30  # MB beside the limit: batches on their way, and the order of the epoch
UNBOUNDED = 10**6  # MB


@dataclass
class Options:
    size: int = 4000  # MB of training pictures
    memory: int = 400  # MB of them that may stay mapped
    side: int = 64  # pixels
    batch: int = 64
    workers: int = 2  # of the loader that is measured beside the one without
    out: str = "benchmarks/out/loader_memory"


@dataclass
class Epoch:
    """grown: MB, of the process that grew most; seconds: on the wall."""

    grown: float
    seconds: float


def main(options: Options) -> dict[str, Epoch]:
    """Writes loader_memory.json into `out`. UserError if a loader grew by more than `memory` and a little."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    cases = {
        "bounded": (options.memory, 0),
        f"bounded, {options.workers} workers": (options.memory, options.workers),
        "unbounded": (UNBOUNDED, 0),
    }
    with TemporaryDirectory(dir=folder) as root:
        write_set(Path(root), options.size, options.side)
        found = {
            name: epoch(ImageShards(root, memory=memory), options.batch, workers)
            for name, (memory, workers) in cases.items()
        }
    for name, one in found.items():
        report(f"{name}: grew by {one.grown:.0f} MB over an epoch of {options.size} MB, {one.seconds:.1f} s")
    figures = {name: asdict(one) for name, one in found.items()}
    write_json(folder / "loader_memory.json", {"machine": machine(), "options": asdict(options), **figures})
    for name, one in found.items():
        if name != "unbounded" and one.grown > options.memory + SLACK:
            raise UserError(f"{name}: grew by {one.grown:.0f} MB; allowed are {options.memory} and {SLACK}")
    return found


def write_set(root: Path, size: int, side: int) -> None:
    """`size` MB of random pictures for training, and a few held-out ones."""
    rng = np.random.default_rng(0)
    files = [*(("train", i, min(FILE, size - begin)) for i, begin in enumerate(range(0, size, FILE)))]
    for split, i, megabytes in [*files, ("val", 0, 1), ("test", 0, 1)]:
        (root / split).mkdir(exist_ok=True)
        shape = (megabytes * 10**6 // (3 * side**2), 3, side, side)
        np.save(root / split / f"x-{i:05}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
        np.save(root / split / f"label-{i:05}.npy", rng.integers(0, 10, shape[0]))


def loader(source: Source, batch: int, workers: int) -> Iterator[Batch]:
    return iter(train_loader(source, StepOrder(len(source), batch, seed=0), workers, pin_memory=False))


def epoch(data: ImageShards, batch: int, workers: int) -> Epoch:
    """Reads the training split once, in the order of training.

    The memory before is that after a few batches: held-out ones, and where workers read, training ones of each worker.
    UserError where the system does not tell a process's memory.
    """
    warm = loader(data.val, batch, 0)
    for _ in range(WARM):
        next(warm)
    before = {} if workers else {"self": reset_peak()}
    batches = loader(data.train, batch, workers)
    if workers:
        next(batches)
        before = {child.pid: reset_peak(child.pid) for child in multiprocessing.active_children()}
    begun = time.perf_counter()
    for _ in range(len(data.train) // batch):
        next(batches)
    seconds = time.perf_counter() - begun
    grown = [after - start for process, start in before.items() if start and (after := peak(process))]
    if len(grown) < max(1, workers):
        raise UserError("the peak of memory is in /proc, which this system does not have")
    return Epoch(max(grown) / 1e6, seconds)


if __name__ == "__main__":
    with_options(Options, main)
