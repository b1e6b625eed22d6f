"""Where data sets keep what they have parsed, built out of sight and shown only when complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def cache_dir(name: str) -> Path:
    """Where a data set keeps what it has parsed: $POLYDIFFUSION_CACHE/name, or ~/.cache/polydiffusion/name."""
    root = os.environ.get("POLYDIFFUSION_CACHE") or Path.home() / ".cache" / "polydiffusion"
    folder = Path(root).expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def building(final: Path) -> Iterator[Path]:
    """A scratch folder that becomes `final` in one rename, so no other process ever sees half of a cache.

    If another process finished the same cache first, theirs is kept: both hold the same.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = final.parent / f".{final.name}-{uuid4().hex}"
    scratch.mkdir()
    try:
        yield scratch
        try:
            os.rename(scratch, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
