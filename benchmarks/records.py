"""Records of what was measured, JSON with machine, versions, commit and seed: `tables` makes the docs of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from core.runs import write_json

PLACES = ("out", "record", "data")  # options that say where things lie on a machine, and nothing follows from


def asked(options: Any) -> dict[str, Any]:
    """The options, a dataclass's, that a result follows from."""
    return {key: value for key, value in asdict(options).items() if key not in PLACES}


def write(options: Any, name: str, content: dict[str, Any], seed: int = 0) -> None:
    """Content with what it was measured by: as `name` in the folder `options.out`, and as the file `options.record`."""
    whole = {"machine": machine(), "seed": seed, "options": asked(options), **content}
    for path in filter(None, (f"{options.out}/{name}", options.record)):
        write_json(Path(path), whole)


def add(path: Path, key: str, name: str, part: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Writes a part of a record of several, each with what it was measured by, in the place of an earlier one; returns
    them all.
    """
    parts = earlier(path, key) | {name: {"machine": machine(), **part}}
    write_json(path, {"machine": machine(), "seed": seed, key: parts})
    return parts


def earlier(path: Path, key: str) -> dict[str, Any]:
    """What a record holds already under `key`, by name: what is measured anew takes its place there."""
    return dict(json.loads(path.read_text(encoding="utf-8"))[key]) if path.exists() else {}
