"""python -m benchmarks.default_runs [modality=image,molecules]: what `python -m core.train modality=...` comes to here.

The command as it is, with nothing set but where it writes: the steps that its minutes allow follow from the machine, on
all of whose cores it trains. `record=benchmarks/results/default_runs.json` writes there what README's tables are made
of; other modalities of an earlier record stay in it. A run that is finished in `out` is not done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.common import chosen, compose, machine
from benchmarks.drawing import names
from benchmarks.models import beside_real
from core import checkpoint
from core.cli import with_options
from core.evaluation import FIGURES
from core.resume import step_of
from core.runs import Reporter, write_json
from core.train import train

FOUND = "default.json"


@dataclass
class Options:
    modality: str = "image,audio,molecules"
    overrides: str = ""  # of the runs, separated by blanks
    out: str = "benchmarks/out/default_runs"
    record: str = ""  # a file for the results too


def main(options: Options) -> dict[str, Any]:
    """Trains, draws and measures; writes default_runs.json into `out`, and `record` if that is given."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    path = Path(options.record or folder / "default_runs.json")
    runs: dict[str, Any] = {}
    for modality in chosen(options.modality, names("modality"), "modality"):
        report(f"{modality}:")
        runs = records.add(path, "runs", modality, _run(modality, options.overrides.split(), folder / modality))
    return runs


def _run(modality: str, overrides: list[str], folder: Path) -> dict[str, Any]:
    """The run's figures, its steps, and the seconds of the clock from its start to its end."""
    if not (folder / FOUND).exists():
        begun = time.monotonic()
        config = compose(f"modality={modality}", f"out={folder}", *overrides)
        train(config)
        seconds = time.monotonic() - begun
        last = checkpoint.find(folder)
        figures = json.loads((folder / "samples" / last.name / FIGURES).read_text())
        minutes = float(config.training.minutes)
        found = {"machine": machine(), "steps": step_of(last), "minutes": minutes, "seconds": seconds}
        write_json(folder / FOUND, found | {"evaluation": figures})
    return dict(json.loads((folder / FOUND).read_text()))


def of(modality: str, *keys: str) -> Callable[[Mapping[str, Any]], str]:
    """The table of a modality from the record: its samples beside other real data; of all its figures unless some are
    named.
    """

    def markdown(record: Mapping[str, Any]) -> str:
        run = record["runs"][modality]
        seconds = round(run["seconds"])
        head = f"after {run['steps']:,} steps, {seconds // 60}:{seconds % 60:02} minutes in all"
        return beside_real(run["evaluation"], head, *keys)

    return markdown


if __name__ == "__main__":
    with_options(Options, main)
