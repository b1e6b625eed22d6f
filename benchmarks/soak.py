"""python -m benchmarks.soak [minutes=30] [modality=image,audio,molecules]: what a process that never ends piles up.

One process trains, samples and evaluates again and again, through the public entry points. After each cycle, which
takes every modality once, it counts its memory, threads, open files and child processes. Once it is warm, none of them
may grow. Linux tells these figures, other systems do not.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import chosen, compose, machine
from benchmarks.kills import TINY
from core import cli
from core.errors import UserError
from core.runs import Reporter, write_json

PROCESS = Path("/proc/self")
DRAWN = ("n=4", "steps=2", "device=cpu")
SMALL_UNET = ("network.widths=[8,8]", "network.groups=4")
SMALL_EQUIVARIANT = ("network.width=8", "network.depth=1", "network.vectors=4", "network.radial=4")
COMMON = tuple(option for option in TINY if not option.startswith(("modality=", "network.", "preview.")))
NETWORKS = {"image": SMALL_UNET, "audio": SMALL_UNET, "molecules": SMALL_EQUIVARIANT}
MOST_GROWTH = 0.05  # of the memory, from the first cycle that counts to the last


@dataclass
class Options:
    minutes: float = 30.0
    cycles: int | None = None  # ends after so many, whatever the time
    warm: int = 3  # the first cycles, which load and compile, and do not count
    modality: str = "image,audio,molecules"
    out: str = "benchmarks/out/soak"


@dataclass(frozen=True)
class Held:
    """What the process holds. memory: resident, in MB; files: open descriptors."""

    memory: float
    threads: int
    files: int
    children: int

    @classmethod
    def now(cls) -> Held:
        """Once what nobody refers to is gone."""
        gc.collect()
        if not PROCESS.exists():
            raise UserError(f"{sys.platform} does not tell what a process holds: Linux does")
        pages = int((PROCESS / "statm").read_text().split()[1])
        tasks = list((PROCESS / "task").iterdir())
        children = sum(len(_read(task / "children").split()) for task in tasks)
        files = len(os.listdir(PROCESS / "fd")) - 1  # that of the listing itself
        return cls(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(tasks), files, children)

    def __str__(self) -> str:
        return f"{self.memory:.1f} MB, {self.threads} threads, {self.files} files, {self.children} children"


@dataclass(frozen=True)
class Trend:
    """The straight line through a figure of the cycles that count: where it begins, and its growth per cycle."""

    begins: float
    slope: float
    growth: float  # from the first of these cycles to the last

    @classmethod
    def of(cls, values: list[float]) -> Trend:
        slope, begins = np.polyfit(np.arange(len(values)), values, 1) if len(values) > 1 else (0.0, values[0])
        return cls(float(begins), float(slope), float(slope * (len(values) - 1)))


def main(options: Options) -> dict[str, object]:
    """Writes soak.json into `out`. UserError if something grows."""
    names, folder = chosen(options.modality, NETWORKS, "modality"), Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report, begun, held = Reporter(folder), time.monotonic(), [Held.now()]
    seconds = 60 * options.minutes
    while len(held) <= (options.cycles or sys.maxsize) and time.monotonic() - begun < seconds:
        for name in names:
            with (folder / "runs.log").open("w") as log, redirect_stdout(log):
                cycle(name, folder / name)
        held.append(Held.now())
        report(f"cycle {len(held) - 1}, {time.monotonic() - begun:.0f} s: {held[-1]}")
    counted = held[1 + options.warm :]
    if not counted:
        raise UserError(f"{len(held) - 1} cycles in {options.minutes:g} minutes: the first {options.warm} do not count")
    trends = {key: Trend.of([float(getattr(one, key)) for one in counted]) for key in asdict(counted[0])}
    found = {"machine": machine(), **vars(options), "seconds": round(time.monotonic() - begun), "counted": len(counted)}
    found |= {"trends": {key: asdict(trend) for key, trend in trends.items()}, "held": [asdict(one) for one in held]}
    write_json(folder / "soak.json", found)
    for key, trend in trends.items():
        report(
            f"{key}: {trend.begins:.4g}, and {trend.slope:+.3g} a cycle in {len(counted)} cycles: {trend.growth:+.3g}"
        )
    if grown := grows(trends):
        raise UserError(f"{len(counted)} cycles let grow: {', '.join(grown)}")
    return found


def grows(trends: dict[str, Trend]) -> list[str]:
    """The figures that have grown: memory by a share, what is counted by one."""
    limits = {key: MOST_GROWTH * trend.begins if key == "memory" else 1.0 for key, trend in trends.items()}
    return [f"{key} by {trend.growth:.3g}" for key, trend in trends.items() if trend.growth >= limits[key]]


def cycle(name: str, folder: Path) -> None:
    """Trains, samples and evaluates a tiny model of the modality into the folder, which is then removed."""
    from core.evaluate import evaluate
    from core.fit import fit
    from core.sample import sample

    options = (*COMMON, *NETWORKS[name], f"modality={name}", "preview.n=2", "preview.steps=2", "trainer.workers=1")
    run = fit(compose(*options, "training.steps=4", "training.validate_every=2", f"out={folder / 'run'}"))
    sample(compose(*DRAWN, f"checkpoint={run}", f"out={folder / 'samples'}", command="sample"))
    evaluate(compose(*DRAWN, f"checkpoint={run}", f"out={folder / 'evaluation'}", command="evaluate"))
    shutil.rmtree(folder)


def _read(file: Path) -> str:
    """Of a thread that may have ended by now."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


if __name__ == "__main__":
    cli.with_options(Options, main)
