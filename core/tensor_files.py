"""Safetensors files, also a stranger's: read whole, or refused in one line. Nothing in them is run or unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.errors import UserError

HEADER_LIMIT = 2**24  # bytes, enough for a hundred thousand tensors; parsing takes some ten times the memory


def save(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes a file of the permissions that any new one has: safetensors alone would let nobody else read it."""
    file.touch()
    mode = file.stat().st_mode
    safetensors.torch.save_file(dict(tensors), file)
    file.chmod(mode)


def read(file: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU. UserError if it is no whole safetensors file."""
    with _opened(file) as source:
        return {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 (not a dict)


def read_metadata(file: Path) -> dict[str, str]:
    """The texts in the header of a file. UserError as of `read`."""
    with _opened(file) as source:
        return dict(source.metadata() or {})


@contextmanager
def _opened(file: Path) -> Iterator[safe_open]:
    try:
        _check_header(file)
        with safe_open(file, framework="pt") as source:
            yield source
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise UserError(f"{file} cannot be read as safetensors: {reason}") from error


def _check_header(file: Path) -> None:
    """ValueError for a header that is larger than allowed or than the file, before anything of that size is read."""
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
    if length > HEADER_LIMIT:
        raise ValueError(f"a header of {length:,} bytes; allowed are {HEADER_LIMIT:,}")
    if length + 8 > (size := file.stat().st_size):
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
