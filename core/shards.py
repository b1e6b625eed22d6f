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
    """Keeps what is mapped of some arrays below `limit` bytes, in each process that reads them (workers of a loader).

    What is mapped is taken to be every window that was read in; it can be less, and is then let go the sooner.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._total = self._mapped = 0
        self._read: dict[int, np.memmap] = {}  # since pages were let go, by id

    def add(self, array: np.memmap) -> None:
        """The array is one of them."""
        self._total += array.nbytes

    @property
    def fits(self) -> bool:
        """Whether the arrays are no larger than the limit: then nothing is ever let go."""
        return self._total <= self.limit

    def pieces(self, arrays: Sequence[np.memmap], begin: Int64[np.ndarray, " n"], size: int) -> Iterator[slice]:
        """Cuts n reads of `size` bytes each in these arrays, at the addresses `begin`, into parts that map about half
        the limit at most. A part must be read before the next one is asked for.
        """
        if self.fits:
            yield slice(0, len(begin))
            return
        first, last = begin // WINDOW, (begin + size - 1) // WINDOW
        mapping = (last - first + (first != np.concatenate([[-1], last[:-1]]))) * WINDOW  # besides the read before
        cuts = np.flatnonzero(np.diff(np.cumsum(mapping) // max(1, self.limit // 2))) + 1
        for start, stop in pairwise([0, *cuts.tolist(), len(begin)]):
            more = int(mapping[start:stop].sum()) + WINDOW  # that of the read before may be let go in between
            self._mapped += more
            if self._mapped > self.limit:
                let_go(list(self._read.values()))
                self._read, self._mapped = {}, more
            self._read.update((id(array), array) for array in arrays)
            yield slice(start, stop)

    def __reduce__(self) -> tuple[Any, ...]:
        return Resident, (self.limit,)  # the arrays are added again in the other process


def let_go(arrays: Sequence[np.memmap]) -> None:
    """Unmaps what was read of these arrays; it is mapped again when it is read again."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is not None:  # not on Windows, which trims by itself
        for array in arrays:
            array._mmap.madvise(advice)  # type: ignore[attr-defined]


class Shards:
    """Mapped arrays as one, (N, *S), joined along the first axis; `resident` lets go of their pages.

    `shards[rows]`, integers in any order, is a copy. `shards[a:b]` is to be copied at once, or its pages come back.
    """

    def __init__(self, arrays: Sequence[np.memmap], resident: Resident) -> None:
        """Of one dtype and one *S, in C's order and not empty; `Shards.of` checks it."""
        for array in arrays:
            resident.add(array)
        self._maps, self._arrays, self._resident = arrays, [np.asarray(array) for array in arrays], resident
        self._addresses = np.array([array.__array_interface__["data"][0] for array in arrays])
        self._row_bytes = self._arrays[0][:1].nbytes
        self.lengths = [len(array) for array in arrays]  # of each array
        self._ends = np.cumsum(self.lengths)
        self._starts = np.array([0, *self._ends[:-1]], dtype=np.int64)
        self.shape, self.dtype = (int(self._ends[-1]), *arrays[0].shape[1:]), arrays[0].dtype

    @classmethod
    def of(cls, files: Sequence[Path], resident: Resident | None = None) -> Shards:
        """The arrays of .npy files, in the files' order. All stay open: a process may have so many (`ulimit -n`).

        UserError for a file that is no .npy file of numbers, is empty or cut off, is in Fortran's order, or differs
        from the first in dtype or in *S.
        """
        if not files:
            raise UserError("no .npy files to read: at least one is needed")
        arrays = [open_npy(file) for file in files]
        dtype, shape = arrays[0].dtype, arrays[0].shape[1:]
        for file, array in zip(files, arrays, strict=True):
            if (array.dtype, array.shape[1:]) != (dtype, shape):
                raise UserError(
                    f"{file} holds {array.dtype} of {_named(array.shape[1:])}, but {files[0].name} {dtype} of "
                    f"{_named(shape)}: all must be alike"
                )
        return cls(arrays, resident or Resident())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | Int64[np.ndarray, " n"]) -> np.ndarray:
        """IndexError for a row that is negative or too large."""
        if isinstance(rows, slice):
            return self._slice(*rows.indices(len(self)))
        rows = checked(rows, len(self))
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        number = np.searchsorted(self._ends, rows, side="right")
        local = rows - self._starts[number]
        touched = [self._maps[i] for i in np.unique(number)]
        for some in self._resident.pieces(touched, self._addresses[number] + local * self._row_bytes, self._row_bytes):
            self._copy(number[some], local[some], out[some])
        return out

    def _copy(self, number: Int64[np.ndarray, " n"], local: Int64[np.ndarray, " n"], out: np.ndarray) -> None:
        """Into out: of the array of each number the row `local`."""
        if len(self._arrays) == 1:
            np.take(self._arrays[0], local, axis=0, out=out, mode="clip")  # without a buffer
            return
        order = np.argsort(number, kind="stable")
        cuts = np.flatnonzero(np.diff(number[order])) + 1
        for begin, end in pairwise([0, *cuts.tolist(), len(order)] if len(order) else []):
            places = order[begin:end]
            out[places] = self._arrays[number[places[0]]][local[places]]

    def _slice(self, start: int, stop: int, step: int) -> np.ndarray:
        if len(self._arrays) > 1 or step != 1 or stop <= start:
            return self[np.arange(start, stop, step)]
        begin, size = self._addresses + start * self._row_bytes, (stop - start) * self._row_bytes
        for _ in self._resident.pieces(self._maps, begin, size):
            pass
        return self._arrays[0][start:stop]

    def __reduce__(self) -> tuple[Any, ...]:
        """Where the files lie: numpy would send all that they hold to a worker."""
        files = [(array.filename, array.dtype, "r", array.offset, array.shape) for array in self._maps]
        return _opened, (files, self._resident)


def _opened(files: Sequence[tuple[Any, ...]], resident: Resident) -> Shards:
    return Shards([np.memmap(*file) for file in files], resident)


def open_npy(file: Path) -> np.memmap:
    """The array of a .npy file, mapped to be read. UserError as of `Shards.of`."""
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
