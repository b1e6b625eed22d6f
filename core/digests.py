"""Digests of a folder's files: what has been cut off, flipped or swapped since it was written is named, not loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from core.errors import UserError

FILE = "digests.json"  # {name: SHA-256 of the file, in hexadecimal}


def write(folder: Path) -> None:
    """Notes the digests of all files that are in the folder now."""
    digests = {file.name: _digest(file) for file in sorted(folder.iterdir()) if file.name != FILE}
    (folder / FILE).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def check(file: Path) -> None:
    """UserError if the file is not the one that was written with its folder. Folders without digests pass."""
    noted = _noted(file.parent)
    if noted is None:
        return
    if file.name not in noted:
        raise UserError(f"{file} is no file of its checkpoint: {FILE} beside it does not name it")
    try:
        found = _digest(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if found != (wanted := str(noted[file.name])):
        raise UserError(
            f"{file} is not what was written: its SHA-256 is {found[:12]}..., not {wanted[:12]}...; "
            f"if it was changed on purpose, remove {file.with_name(FILE)}"
        )


def names(file: Path) -> bool:
    """Whether the file belongs to its folder by the folder's digests, be it there or not."""
    return file.name in (_noted(file.parent) or {})


def _noted(folder: Path) -> dict[str, object] | None:
    """The digests of a folder; None where it has none."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(noted, dict):
        raise UserError(f"{file} cannot be read: it holds no object")
    return noted


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
