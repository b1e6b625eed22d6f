"""What every set of sounds shares: clips of any length, kept one after another in one memory-mapped file.

A data set is cached once as `samples.int16` (all clips, little-endian, nothing padded) and, of each split,
`<split>_start.npy` and `<split>_length.npy`, int64 (N,), in samples, and `<split>_<condition>.npy`, int64 (N,), in a
folder that appears under its final name only when it is complete. Loading maps the samples: none is read before it is
asked for, and they may be larger than the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int16, Int64
from torch import Tensor

from core.batch import Batch
from core.cache import building
from core.errors import UserError
from core.folders import describe_skipped
from core.shards import Resident, Shards
from core.splits import SPLIT_SEED, SPLITS, interleaved
from modalities.audio.clips import FULL_SCALE, Reader, read_all

SAMPLES = "samples.int16"
MULTIPLE = 640  # samples that every length is padded to a multiple of, unless the config says another
QUANTILES = (np.arange(8) + 0.5) / 8  # of the training clips' lengths, in the facts
MAX_COMBINATIONS = 500  # of conditions whose lengths the facts list one by one


class ClipSource:
    """One split: clips padded at their end to the longest of the batch, rounded up to a multiple.

    samples: all clips one after another; starts, lengths: of this split's clips in them.
    full:    whether all clips are padded to `max_length`, with silence that counts as data.
    """

    def __init__(
        self,
        samples: Int16[np.ndarray, " total"] | Shards,
        starts: Int64[np.ndarray, " n"],
        lengths: Int64[np.ndarray, " n"],
        cond: Mapping[str, Int64[np.ndarray, " n"]],
        multiple: int,
        max_length: int,
        full: bool,
    ) -> None:
        self.samples, self.starts, self.lengths, self.cond = samples, starts, lengths, dict(cond)
        self.multiple, self.max_length, self.full = multiple, max_length, full

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, indices: Sequence[int]) -> Batch:
        """x (B, 1, L) in [-1, 1], exactly 0 in the padding; mask (B, 1, L), or (B, 1, 1) where nothing is padding."""
        rows = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[rows]
        longest = self.max_length if self.full else _round_up(int(lengths.max(initial=1)), self.multiple)
        x = np.zeros((len(rows), 1, longest), dtype=np.float32)
        for place, (start, length) in enumerate(zip(self.starts[rows], lengths, strict=True)):
            x[place, 0, :length] = self.samples[start : start + length]
        x /= FULL_SCALE
        cond = {name: torch.from_numpy(values[rows]) for name, values in self.cond.items()}
        if self.full:
            return Batch.full(torch.from_numpy(x), cond)
        mask = torch.from_numpy(lengths)[:, None, None] > torch.arange(longest)
        return Batch(torch.from_numpy(x), mask.float(), cond)


class AudioData:
    """A cached data set of sounds: the sources `train`, `val` and `test` of float32 (B, 1, L) clips in [-1, 1].

    Every prefix of a split is stratified by the conditions, so `n` held-out clips are the first n, and a real-vs-real
    floor at n compares the first n with the next n.

    facts: `sample_rate` (Hz), `multiple`, `max_length` (samples: the longest clip's, rounded up to the multiple),
           `classes` (the values of `label`), `conditions` (each one's values by its name), and `lengths`: 8 quantiles
           of the training clips' lengths in samples, a row for each combination of the conditions in row-major order
           (one row without conditions, or for more than 500); [] if all are `max_length` long.

    multiple: samples; the coarsest stride that any codec and network will have.
    silence:  False: each clip has its own length, by its mask. True: all are filled up with silence that is data.
    """

    def __init__(self, name: str, cache: Path, multiple: int = MULTIPLE, silence: bool = False) -> None:
        check_multiple(multiple)
        self.name = name
        about = json.loads((cache / "about.json").read_text())
        self.conditions: dict[str, list[str]] = about["conditions"]
        self.classes: list[str] = self.conditions.get("label", [])
        self.skipped: list[str] = about["skipped"]
        self.sample_rate: int = about["sample_rate"]
        lengths = {split: np.load(cache / f"{split}_length.npy") for split in SPLITS}
        shortest, longest = (int(f([f(lengths[split]) for split in SPLITS])) for f in (np.min, np.max))
        max_length = _round_up(longest, multiple)
        full = silence or shortest == max_length
        samples = Shards([np.memmap(cache / SAMPLES, dtype="<i2", mode="r")], Resident())

        def source(split: str) -> ClipSource:
            cond = {name: np.load(cache / f"{split}_{name}.npy") for name in self.conditions}
            starts = np.load(cache / f"{split}_start.npy")
            return ClipSource(samples, starts, lengths[split], cond, multiple, max_length, full)

        self.train, self.val, self.test = map(source, SPLITS)
        self.seconds = sum(int(lengths[split].sum()) for split in SPLITS) / self.sample_rate
        self.facts: dict[str, object] = {
            "sample_rate": self.sample_rate,
            "max_length": max_length,
            "multiple": multiple,
            "classes": self.classes,
            "conditions": self.conditions,
            "lengths": [] if full else self._quantiles(),
        }

    def _quantiles(self) -> list[list[int]]:
        lengths, sizes = self.train.lengths, [len(values) for values in self.conditions.values()]
        combinations = list(product(*map(range, sizes)))
        if len(combinations) > MAX_COMBINATIONS:
            combinations = [()]
        table = []
        for combination in combinations:
            conditions = zip(self.train.cond.values(), combination, strict=False)
            chosen = np.logical_and.reduce([np.ones(len(lengths), bool), *(v == c for v, c in conditions)])
            some = lengths[chosen] if chosen.any() else lengths  # a combination without clips: any clip's lengths
            table.append(np.quantile(some, QUANTILES, method="nearest").astype(int).tolist())
        return table

    def augment(self, batch: Batch, u: Float[Tensor, "batch 8"]) -> Batch:
        """The batch as it is: louder, shifted or slower sounds would be other data."""
        return batch

    def describe(self) -> str:
        """One line for the start-up summary."""
        counts = f"{len(self.train):,} training, {len(self.val):,} validation and {len(self.test):,} test clips"
        amount = f"{self.seconds / 3600:.2f} hours at {self.sample_rate:,} Hz"
        conditions = ", ".join(f"{name} ({len(values)})" for name, values in self.conditions.items())
        known = f", conditions {conditions}" if conditions else ""
        return f"{self.name}: {counts}, {amount}{known}{describe_skipped(self.skipped)}"


def check_multiple(multiple: int) -> None:
    """UserError unless it is a whole number from 1."""
    if not (isinstance(multiple, int) and multiple >= 1):
        raise UserError(f"data.multiple={multiple}: a whole number of samples, 1 or more")


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


class ClipWriter:
    """Fills a cache: `add` the clips one after another, then `finish` with their splits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lengths: list[int] = []
        self._file = (folder / SAMPLES).open("wb")

    def add(self, clip: Int16[np.ndarray, " n"]) -> None:
        self.lengths.append(len(clip))
        self._file.write(clip.astype("<i2").tobytes())

    def finish(
        self,
        sample_rate: int,
        conditions: Mapping[str, Sequence[str]],
        values: Mapping[str, Int64[np.ndarray, " n"]],
        rows: Mapping[str, Int64[np.ndarray, " m"]],
        skipped: Sequence[str] = (),
    ) -> None:
        """conditions: each one's values' names; values: of each clip; rows: the clips of each split, in its order.

        UserError if a split is empty.
        """
        self._file.close()
        lengths = np.array(self.lengths, dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        for split, chosen in rows.items():
            if not len(chosen):
                raise UserError(
                    f"{len(lengths)} usable clips are too few: none is left for the {split} split"
                    + (f"; skipped {len(skipped):,} files, such as {skipped[0]}" if skipped else "")
                )
            columns = {"start": starts, "length": lengths, **{name: values[name] for name in conditions}}
            for name, column in columns.items():
                np.save(self.folder / f"{split}_{name}.npy", column[chosen])
        about = {"sample_rate": sample_rate, "skipped": list(skipped)}
        about["conditions"] = {name: list(names) for name, names in conditions.items()}
        (self.folder / "about.json").write_text(json.dumps(about))


def build(
    cache: Path,
    names: Sequence[str],
    files: Sequence[Path | bytes],
    reader: Reader,
    conditions: Mapping[str, Sequence[str]],
    values: Mapping[str, Int64[np.ndarray, " files"]],
    divide: Callable[[Int64[np.ndarray, " good"]], Mapping[str, Int64[np.ndarray, " _"]]],
) -> None:
    """Fills a cache from sound files: all clips of one file are in one split.

    names, files: what each file is called in messages, and where it lies (or its bytes); values: of each file.
    divide:       from the numbers of the readable files to those of each split.
    """
    with building(cache) as folder:
        writer, owner, skipped = ClipWriter(folder), [], []
        for number, clips in read_all(reader, files):
            if isinstance(clips, str):
                skipped.append(f"{names[number]}: {clips}")
                continue
            for clip in clips:
                writer.add(clip)
                owner.append(number)
        of_file = np.array(owner, dtype=np.int64)  # each clip's
        stratum = np.zeros(len(of_file), dtype=np.int64)
        for name, known in conditions.items():
            stratum = stratum * len(known) + values[name][of_file]
        rows, rng = {}, np.random.default_rng(SPLIT_SEED)
        for split, chosen in divide(np.unique(of_file)).items():
            clips_of_split = np.flatnonzero(np.isin(of_file, chosen))
            rows[split] = clips_of_split[interleaved(stratum[clips_of_split], rng)]
        of_clip = {name: value[of_file] for name, value in values.items()}
        writer.finish(reader.sample_rate, conditions, of_clip, rows, skipped)
