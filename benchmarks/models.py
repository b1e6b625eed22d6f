"""python -m benchmarks.models [names=...] [data.fsdd.path=recordings.tar.gz]: the figures of the shipped models.

`core.evaluate` of each, at its defaults: what the models' cards and README say of them is made of this record
(`record=benchmarks/results/models.json`). Other models of an earlier record stay in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.common import chosen, compose, markdown_table
from core.cli import with_options
from core.evaluate import evaluate
from core.evaluation import FIGURES
from core.runs import Reporter
from core.shipped import models

MODELS = ("mnist", "fsdd", "tones", "qm9")
MANY = 500  # samples of a model that `n` does not name


@dataclass
class Options:
    names: str = ",".join(MODELS)
    data: dict[str, Any] = field(default_factory=dict)  # by model, such as data.fsdd.path=recordings.tar.gz
    more: dict[str, str] = field(default_factory=lambda: {"fsdd": "vocoder=diffusion"})  # overrides, by model
    n: dict[str, int] = field(default_factory=lambda: {"fsdd": 180})  # each combination as often; 500 of the others
    out: str = "benchmarks/out/models"
    record: str = ""  # a file for the results too


def main(options: Options) -> dict[str, Any]:
    """Draws, measures and writes models.json into `out`, and `record` if that is given."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    path = Path(options.record or folder / "models.json")
    found: dict[str, Any] = {}
    for name in chosen(options.names, sorted(models()), "names"):
        report(f"{name}:")
        data = [f"data.{key}={value}" for key, value in options.data.get(name, {}).items()]
        common = [f"checkpoint={name}", f"n={options.n.get(name, MANY)}", f"out={folder / name}"]
        begun = time.process_time()
        evaluate(compose(*common, *data, *options.more.get(name, "").split(), command="evaluate"))
        figures = json.loads((folder / name / FIGURES).read_text())
        found = records.add(path, "models", name, {"seconds": time.process_time() - begun, "evaluation": figures})
    return found


# what the tables say of them, a share in per cent; and of which a model has none is left out
WORDS: dict[str, tuple[str, str]] = {
    "frechet_distance": ("Fréchet distance", "{:.2f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "label_accuracy": ("taken by the judge for what was asked for", "{:.1%}"),
    "speaker_accuracy": ("heard as the speaker asked for", "{:.1%}"),
    "pitch_strength": ("pitch strength", "{:.2f}"),
    "spectral_distance_db": ("spectral distance, dB", "{:.1f}"),
    "pitch_within_50_cents": ("pitched samples within 50 cents of the note asked for", "{:.1%}"),
    "atom_stability": ("atoms stable", "{:.1%}"),
    "molecule_stability": ("molecules stable", "{:.1%}"),
    "connected": ("in one piece", "{:.1%}"),
    "validity": ("valid", "{:.1%}"),
    "valid_and_connected": ("valid and in one piece", "{:.1%}"),
    "uniqueness": ("different", "{:.1%}"),
    "novelty": ("not in the training data", "{:.1%}"),
    "posebusters": ("pass PoseBusters' checks, but for its energy ratio", "{:.1%}"),
    "posebusters_geometry": ("its geometric ones, of whole molecules", "{:.1%}"),
    "strain_energy_kcal_mol": ("strain, median, kcal/mol", "{:.1f}"),
    "bond_length_distance_angstrom": ("bond lengths, distance in angstrom", "{:.4f}"),
    "bond_angle_distance_degrees": ("bond angles, distance in degrees", "{:.2f}"),
    "bond_type_distance": ("kinds of bonds, total variation", "{:.3f}"),
    "atom_type_distance": ("elements, total variation", "{:.3f}"),
    "nearest_training_ratio": ("distance to the nearest training sample, relative to held-out ones", "{:.2f}"),
    "copied_share": ("closer to a training sample than 99% of held-out ones are", "{:.1%}"),
}


def of(name: str, *keys: str) -> Callable[[Mapping[str, Any]], str]:
    """The table of a model from the record: its samples beside other real data; of all its figures unless some are
    named.
    """

    return lambda record: beside_real(record["models"][name]["evaluation"], "samples", *keys)


def beside_real(evaluation: Mapping[str, Any], head: str, *keys: str) -> str:
    """The table of an evaluation, with a head for its samples."""
    rows = []
    for key in keys or WORDS:
        word, form = WORDS[key]
        values = [evaluation[column].get(key) for column in ("samples", "real")]
        if values[0] is not None:
            rows.append([word, *("" if value is None else form.format(value) for value in values)])
    return markdown_table([evaluation["title"], head, "real"], rows)


if __name__ == "__main__":
    with_options(Options, main)
