"""python -m benchmarks.image_quality [seconds=120] [n=500]: how good pictures are after equal CPU time.

Each contender trains for the same CPU seconds on the same batches of the default data, with the labels, and draws n
samples with its averaged weights; the digit judge measures all of them. What is finished stays in `out` and is not
done again: give another `out` for another setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.common import Run, chosen
from benchmarks.contenders import CONTENDERS, contender
from benchmarks.equal_time import Budget, Entry, Figures, compare
from core.cli import with_options
from core.module import Optimisation


@dataclass
class Options(Budget):
    contenders: str = ",".join(CONTENDERS)
    seconds: float = 120
    n: int = 500
    steps: int = 20  # of DDIM
    batch: int = 32
    micro_batch: int = 125
    overrides: str = ""  # of our run
    out: str = "benchmarks/out/image_quality"
    peer_lr: float = 1e-3  # the peak; theirs are 1e-4, for trainings a thousand times longer
    peer_warmup: int = 20  # steps: their steps are fewer


def main(options: Options) -> dict[str, Figures]:
    """Trains and measures the contenders; see `compare`."""
    names = chosen(options.contenders, list(CONTENDERS), "contenders")
    run = Run.of("modality=image", *options.overrides.split())

    def enter(name: str) -> Entry:
        trained = contender(name, run)
        settings: dict[str, Any] = dict(run.config.optimisation)
        if trained.model is not run.denoiser:
            settings |= {"lr": options.peer_lr, "warmup": options.peer_warmup}
        return Entry(trained, run.codec, Optimisation(**settings))

    return compare(names, enter, run, options)


if __name__ == "__main__":
    with_options(Options, main)
