"""python -m benchmarks.tables [check=true]: the tables of README and docs, from the records in benchmarks/results.

A table stands in a document between two comments, `<!-- table: name -->` and `<!-- end -->`; what is between them is
written anew, nothing there is typed by hand. `check=true` only says whether they agree. A record is a JSON file that a
benchmark wrote with its `record=`: results with machine, versions, seed and commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import convergence, default_runs, efficiency, equal_time, mode_coverage, models, quality, scaling, speed
from benchmarks.common import ROOT
from core.cli import with_options
from core.errors import UserError

RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", "docs/*.md", "modalities/*/models/README.md")
Record = Mapping[str, Any]

# the figures of a short table
OF_NOTES = ("frechet_distance", "precision", "recall", "label_accuracy", "pitch_within_50_cents")
OF_MOLECULES = (
    *("atom_stability", "molecule_stability", "connected", "valid_and_connected"),
    *("uniqueness", "novelty", "posebusters"),
)
TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {  # with the record that each is made of
    "mode coverage": ("mode_coverage", mode_coverage.markdown),
    "efficiency": ("efficiency", efficiency.markdown),
    "equal time": ("equal_time", equal_time.markdown),
    "scaling": ("scaling", scaling.markdown),
    "speed of networks": ("speed", speed.of("networks")),
    "speed at the same network": ("speed", speed.of("same_network")),
    "overheads": ("speed", speed.of("overheads", "imports")),
    "speed of sound": ("speed", speed.of("audio")),
    "speed of molecules": ("speed", speed.of("molecules")),
    "model of pictures": ("models", models.of("mnist")),
    "model of molecules": ("models", models.of("qm9")),
    "model of molecules, in short": ("models", models.of("qm9", *OF_MOLECULES)),
    "model of spoken digits": ("models", models.of("fsdd")),
    "model of notes": ("models", models.of("tones")),
    "default run of pictures": ("default_runs", default_runs.of("image")),
    "default run of sounds": ("default_runs", default_runs.of("audio", *OF_NOTES)),
    "default run of molecules": ("default_runs", default_runs.of("molecules", *OF_MOLECULES)),
    "quality of pictures": ("quality", quality.of("image")),
    "quality of sounds": ("quality", quality.of("audio")),
    "quality of molecules": ("quality", quality.of("molecules")),
    "convergence": ("convergence", convergence.markdown),
    "guidance": ("guidance", speed.of("guided", "samplers")),
}
PLACE = re.compile(r"(<!-- table: (?P<name>[^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass
class Options:
    check: bool = False


def main(options: Options) -> list[Path]:
    """The documents whose tables differed; they are written anew, or, with `check`, named in a UserError."""
    differing = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            differing.append(path)
            if not options.check:
                path.write_text(new, encoding="utf-8")
    names = ", ".join(str(path.relative_to(ROOT)) for path in differing)
    if options.check and differing:
        raise UserError(f"{names}: tables differ from benchmarks/results; run python -m benchmarks.tables")
    print(f"written: {names}" if differing else "all tables are those of the records")
    return differing


def documents() -> list[Path]:
    return [path for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))]


def filled(text: str) -> str:
    """The document with its tables as the records have them."""
    return PLACE.sub(lambda found: f"{found[1]}{table(found['name'])}\n{found[3]}", text)


def table(name: str) -> str:
    """UserError for a name that no table has."""
    if name not in TABLES:
        raise UserError(f"table: {name}: there are {', '.join(TABLES)}")
    record, markdown = TABLES[name]
    return markdown(json.loads((RESULTS / f"{record}.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    with_options(Options, main)
