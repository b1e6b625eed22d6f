"""python -m benchmarks.equal_time [seconds=[120,300,600]] [n=250]: how good pictures are after equal CPU time.

Each contender trains for the same CPU seconds on the same batches of the default data, with the labels, and draws n
samples with its averaged weights; the digit judge measures all of them. A budget is a training of its own, since the
learning rate falls towards its end. What is finished stays in `out` and is not done again, so that an interrupted run
continues, and several processes may share one `out` with other `contenders`. `record=` is a file for the results too,
in which those of other contenders and budgets stay: the docs' tables are made of benchmarks/results/equal_time.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import Run, chosen, machine, markdown_table
from benchmarks.contenders import RECIPES, recipe
from benchmarks.contest import Budget, Entry, compare
from core.cli import with_options
from core.errors import UserError
from core.runs import write_json

OURS, REAL = "polydiffusion", "real"
SHARED = ("n", "steps", "batch", "micro_batch", "overrides")  # options that all figures of a record have in common
GOAL = 0.5  # of the better peer's Frechet distance
COLUMNS = {  # of the table; a share is in per cent
    "frechet_distance": ("Fréchet distance", "{:.3g}"),
    "precision": ("precision", "{:.2f}"),
    "recall": ("recall", "{:.2f}"),
    "label_accuracy": ("asked-for label seen", "{:.0%}"),
    "training_steps": ("training steps", "{:,.0f}"),
    "sampling_seconds": ("CPU s for the samples", "{:.0f}"),
}


@dataclass
class Options:
    seconds: list[float] = field(default_factory=lambda: [120, 300, 600])  # of CPU time, one thread, a training each
    contenders: str = ",".join(RECIPES)
    n: int = 250
    steps: int = 20  # of sampling
    batch: int = 32
    micro_batch: int = 125
    overrides: str = ""  # of our run, separated by blanks
    out: str = "benchmarks/out/equal_time"
    record: str = ""  # a file for the results too


def main(options: Options) -> dict[str, dict[str, dict[str, Any]]]:
    """Trains and measures the contenders at each budget, see `compare`; by CPU seconds, then by name."""
    names = chosen(options.contenders, list(RECIPES), "contenders")
    run = Run.of("modality=image", *options.overrides.split())

    def enter(name: str) -> Entry:
        one = recipe(name)
        settings: dict[str, Any] = {**run.config.optimisation, **one.settings}
        fresh = Run.on(run.config.copy(), run.data)  # a network that no budget before has trained
        return Entry(one.build(fresh), fresh.codec, one.optimisation(**settings))

    found: dict[str, dict[str, Any]] = {}
    for seconds in options.seconds:
        settings = {key: value for key, value in asdict(options).items() if key not in ("seconds", "out", "record")}
        budget = Budget(**settings, seconds=seconds, out=f"{options.out}/{seconds:g}")
        figures = compare(names, enter, run, budget)
        found[f"{seconds:g}"] = {name: {"machine": _machine(budget, name), **row} for name, row in figures.items()}
        picture(Path(budget.out), names)
    shared = {key: value for key, value in asdict(options).items() if key in SHARED}
    content = {"seed": int(run.config.seed), "options": shared}
    for path in map(Path, filter(None, (f"{options.out}/equal_time.json", options.record))):
        write_json(path, {**content, "seconds": _beside(path, found, shared)})
    return found


def _machine(budget: Budget, name: str) -> dict[str, Any]:
    """What a contender was trained by, perhaps in an earlier process; of real data, by what it is measured."""
    path = Path(budget.out) / f"{name}.json"
    return dict(json.loads(path.read_text())["machine"]) if path.exists() else machine()


def picture(folder: Path, names: Sequence[str]) -> None:
    """The contenders' samples side by side, as samples.png."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(3.4 * len(names), 3.8), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        axes.imshow(Image.open(folder / f"{name}.png"), cmap="gray")
        axes.set_title(_worded(name), fontsize="medium")
        axes.set_axis_off()
    figure.savefig(folder / "samples.png", dpi=100)


def _worded(name: str) -> str:
    return name.replace("-helped", ", helped")


def _beside(path: Path, found: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """What was found with what a record has already, in the contenders' order; UserError if it is of other options."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"options": options, "seconds": {}}
    if earlier["options"] != options:
        raise UserError(f"{path} is of other options: {earlier['options']}; choose another file or remove it")
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    for seconds in sorted({*earlier["seconds"], *found}, key=float):
        rows = {**earlier["seconds"].get(seconds, {}), **found.get(seconds, {})}
        merged[seconds] = {name: rows[name] for name in (*RECIPES, REAL) if name in rows}
    return merged


def markdown(record: Mapping[str, Any]) -> str:
    """A row for each budget and contender, and how our distance compares with the best peer's."""
    lines = []
    for seconds, rows in record["seconds"].items():
        for name, row in rows.items():
            cells = (form.format(row[key]) if key in row else "" for key, (_, form) in COLUMNS.items())
            lines.append([seconds, _worded(name), *cells])
    table = markdown_table(["CPU s", "", *(word for word, _ in COLUMNS.values())], lines)
    said = (f"{seconds} s: {ratio(rows):.3f}" for seconds, rows in record["seconds"].items() if len(rows) > 2)
    return f"{table}\n\nOur distance over the best peer's, helped or not (goal: at most {GOAL:g}): {'; '.join(said)}."


def ratio(rows: Mapping[str, Mapping[str, float]]) -> float:
    """Our Frechet distance over the lowest of the peers'."""
    peers = (row["frechet_distance"] for name, row in rows.items() if name not in (OURS, REAL))
    return rows[OURS]["frechet_distance"] / min(peers)


if __name__ == "__main__":
    with_options(Options, main)
