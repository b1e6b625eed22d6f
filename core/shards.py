"""Arrays that need not fit into memory: read from mapped files, whose pages are let go before there are too many.

What was read of a mapped file counts as the process's memory until it is let go (`MADV_DONTNEED`): one epoch would hold
the whole data set. The pages stay in the kernel's cache, which takes them back where memory is short.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from core.errors import UserError, reason_of

LIMIT = 2**30  # bytes of a data set that may stay mapped, unless its config says another number
WINDOW = 2**21  # bytes: Linux maps up to so many (a huge page) at once around an address, if they are in its cache


class Resident:
    """Keeps what is mapped of some files below `limit` bytes, in each process that reads them (workers of a loader)."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._total = self._touched = 0
        self._since: dict[int, np.memmap] = {}  # the arrays that were read since pages were let go, by id

    @property
    def fits(self) -> bool:
        """Whether the files are no larger than the limit: then nothing is ever let go."""
        return self._total <= self.limit

    def add(self, array: np.memmap) -> None:
        """The file of this array is one of them."""
        self._total += array.nbytes

    def touch(self, array: np.memmap, size: int) -> None:
        """To be called before at most `size` more bytes of this array are mapped by reading them."""
        self._touched += size
        if self._touched > self.limit and not self.fits:
            let_go(list(self._since.values()))
            self._since, self._touched = {}, size
        self._since[id(array)] = array

    def __reduce__(self) -> tuple[Any, ...]:
        return Resident, (self.limit,)  # the arrays add themselves again in the other process


def let_go(arrays: Sequence[np.memmap]) -> None:
    """Unmaps what was read of these arrays; it is mapped again when it is read again."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is not None:  # not on Windows, which trims by itself
        for array in arrays:
            array._mmap.madvise(advice)  # type: ignore[attr-defined]


class Mapped:
    """An array (N, *S) of a mapped file, whose pages `resident` lets go of.

    `mapped[rows]`, integers in any order, is a copy; `mapped[a:b]` is to be copied at once, or its pages come back.
    """

    def __init__(self, array: np.memmap, resident: Resident) -> None:
        resident.add(array)
        self._file = (array.filename, array.dtype, "r", array.offset, array.shape)
        self._memmap, self._array, self._resident = array, np.asarray(array), resident
        self._address = array.__array_interface__["data"][0]
        self._stride = array[:1].nbytes
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | Int64[np.ndarray, " n"]) -> np.ndarray:
        """IndexError for a row that is negative or too large."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                raise IndexError(f"a slice in steps of {step}: they must be 1")
            self._resident.touch(self._memmap, int(self._mapping(np.array([start]), max(stop - start, 1))[0]))
            return self._array[start:stop]
        rows = checked(rows, len(self))
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for some in self._pieces(rows):
            np.take(self._array, rows[some], axis=0, out=out[some], mode="clip")  # without a buffer
        return out

    def _pieces(self, rows: Int64[np.ndarray, " n"]) -> Iterator[slice]:
        """The rows in parts that map about half the limit at most, each announced before it is to be read."""
        if self._resident.fits:
            yield slice(0, len(rows))
            return
        size = self._mapping(rows, 1)
        cuts = np.flatnonzero(np.diff(np.cumsum(size) // max(1, self._resident.limit // 2))) + 1
        for begin, end in pairwise([0, *cuts.tolist(), len(rows)]):
            # the window that a piece shares with the one before may be let go in between
            self._resident.touch(self._memmap, int(size[begin:end].sum()) + WINDOW)
            yield slice(begin, end)

    def _mapping(self, rows: Int64[np.ndarray, " n"], count: int) -> Int64[np.ndarray, " n"]:
        """The bytes that are mapped by each row, with those after it up to `count`, besides those of the row before."""
        begin = self._address + rows * self._stride
        first, last = begin // WINDOW, (begin + count * self._stride - 1) // WINDOW
        return (last - first + (first != np.concatenate([[-1], last[:-1]]))) * WINDOW

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped, (self._file, self._resident)  # numpy would send the whole array to a worker


def _mapped(file: tuple[Any, ...], resident: Resident) -> Mapped:
    name, dtype, mode, offset, shape = file
    return Mapped(np.memmap(name, dtype, mode, offset, shape), resident)


class Shards:
    """The arrays of several .npy files as one, (N, *S), joined along the first axis in the files' order.

    All are opened, and stay mapped: a process may have so many files open (`ulimit -n`). UserError for a file that is
    no .npy file of numbers, is empty or cut off, is in Fortran's order, or differs from the first in dtype or in *S.
    """

    def __init__(self, files: Sequence[Path], resident: Resident | None = None) -> None:
        if not files:
            raise UserError("no .npy files to read: at least one is needed")
        resident = resident or Resident()
        self.parts = [Mapped(open_npy(file), resident) for file in files]
        self.dtype, shape = self.parts[0].dtype, self.parts[0].shape[1:]
        for file, part in zip(files, self.parts, strict=True):
            if (part.dtype, part.shape[1:]) != (self.dtype, shape):
                raise UserError(
                    f"{file} holds {part.dtype} of {_named(part.shape[1:])}, but {files[0].name} {self.dtype} of "
                    f"{_named(shape)}: all must be alike"
                )
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.shape = (int(self._ends[-1]), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Sequence[int] | Int64[np.ndarray, " n"]) -> np.ndarray:
        """A copy of these rows, in any order. IndexError for one that is negative or too large."""
        if len(self.parts) == 1:
            return self.parts[0][rows]
        rows = checked(rows, len(self))
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        part = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(part):
            places = np.flatnonzero(part == number)
            out[places] = self.parts[number][rows[places] - (self._ends[number] - len(self.parts[number]))]
        return out


def open_npy(file: Path) -> np.memmap:
    """The array of a .npy file, mapped to be read. UserError as of `Shards`."""
    try:
        array = np.lib.format.open_memmap(file, mode="r")  # refuses what would have to be unpickled
    except Exception as error:  # the header is parsed as Python's literals: whatever a stranger's file makes of that
        raise UserError(f"{file} cannot be read as .npy: {reason_of(error)}") from error
    if not array.ndim or not array.size:
        raise UserError(f"{file} holds an array of {_named(array.shape)}: it must have rows, and none of no elements")
    if not array.flags.c_contiguous:
        raise UserError(f"{file} is in Fortran's order, in which a row lies all over the file: save it in C's order")
    return array


def checked(rows: Sequence[int] | Int64[np.ndarray, " n"], count: int) -> Int64[np.ndarray, " n"]:
    """The rows as an array. IndexError unless all are integers from 0 to count - 1."""
    found = np.asarray(rows)
    if found.size and (found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= count):
        wrong = found if found.dtype.kind not in "iu" else found[(found < 0) | (found >= count)]
        raise IndexError(f"row {wrong.flat[0]}: must be a whole number from 0 to {count - 1}")
    return found.astype(np.int64, copy=False)


def _named(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "single numbers"
