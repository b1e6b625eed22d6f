"""Folders of the user's files: which there are, what classes their subfolders mean, what could not be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from core.cli import say
from core.errors import UserError

NAMED = 10  # skipped files that are named at once


def report_skipped(skipped: Sequence[str], strict: bool, things: str = "files") -> None:
    """Names and counts the things that could not be used ("name: reason"); UserError if `strict` and there are any."""
    if not skipped:
        return
    if strict:
        raise UserError(f"data.strict=true, and {len(skipped)} {things} cannot be read, first {skipped[0]}")
    say(f"skipped {len(skipped):,} unreadable {things}:")
    for line in skipped[:NAMED]:
        say(f"  {line}")
    if len(skipped) > NAMED:
        say(f"  and {len(skipped) - NAMED:,} more")


def describe_skipped(skipped: Sequence[str], things: str = "files") -> str:
    """The same in a few words, "" for none."""
    if not skipped:
        return ""
    first = [Path(line.split(": ")[0]).name for line in skipped[:3]]
    names = ", ".join(first) + (", ..." if len(skipped) > len(first) else "")
    return f", {len(skipped):,} unreadable {things} skipped: {names}"


def files_in(root: Path, suffixes: Collection[str], things: str) -> list[Path]:
    """All files under a folder with these suffixes, sorted, without hidden ones. UserError if there are none."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder of {things}: no such folder")
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    if not files:
        raise UserError(f"{root} holds no {things} ({', '.join(sorted(suffixes))})")
    return files


def class_folders(root: Path, files: Sequence[Path], things: str) -> tuple[list[str], Int64[np.ndarray, " n"]]:
    """The class names and each file's class, from the first-level folder it lies in; no classes for fewer than two.

    UserError, which calls the files `things`, if some lie in folders and others beside them.
    """
    parents = [file.relative_to(root).parts[:-1] for file in files]
    loose = [file for file, parent in zip(files, parents, strict=True) if not parent]
    if loose and len(loose) < len(files):
        raise UserError(
            f"{root} has {len(loose)} {things} beside its class folders, such as {loose[0].name}: "
            "move them into one, or set data.labels=false"
        )
    classes = sorted({parent[0] for parent in parents if parent})
    if len(classes) < 2:
        return [], np.zeros(len(files), dtype=np.int64)
    index = {name: label for label, name in enumerate(classes)}
    return classes, np.array([index[parent[0]] for parent in parents], dtype=np.int64)


def fingerprint(files: Sequence[Path], options: Sequence[object]) -> str:
    """A name for what follows from the files (their paths, sizes and dates) and the options."""
    digest = hashlib.sha256(json.dumps(options).encode())
    for file in files:
        about = file.stat()
        digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]
