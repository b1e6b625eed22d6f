"""What every image data set shares: fixed stratified splits, kept as memory-mapped arrays.

A data set is cached once as `<split>_x.npy`, uint8 (N, C, H, W), and `<split>_label.npy`, int64 (N,), in a folder that
appears under its final name only when it is complete. Loading maps the arrays; nothing is read until it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from core.batch import Batch
from core.data import ArraySource
from core.errors import UserError
from core.folders import describe_skipped
from core.shards import Resident, Shards
from core.splits import SPLITS

GATHER_ROWS = 4096  # images copied at a time, so that a data set larger than the memory can be split


class Pictures:
    """A data set of images: the sources `train`, `val` and `test` of uint8 (B, C, H, W) images in [0, 255].

    Every prefix of a held-out split is itself stratified, so `n` held-out images are the first n, and a real-vs-real
    floor at n compares the first n with the next n.

    sources: by split; shape: (C, H, W) of one image, where H = W; classes: names of the labels, [] without labels.
    flip:    whether training may mirror images left to right; never right for digits and letters.
    skipped: files that could not be read, each with the reason.
    facts:   `channels`, `size` (pixels along a side), `shape`, `num_classes` (0 without labels), `classes`.
    """

    def __init__(
        self,
        name: str,
        sources: Mapping[str, ArraySource],
        shape: Sequence[int],
        classes: Sequence[str],
        flip: bool = False,
        skipped: Sequence[str] = (),
    ) -> None:
        self.name, self.flip = name, flip
        self.classes, self.skipped = list(classes), list(skipped)
        self.train, self.val, self.test = (sources[split] for split in SPLITS)
        self.facts: dict[str, object] = {
            "channels": shape[0],
            "size": shape[1],
            "shape": list(shape),
            "num_classes": len(self.classes),
            "classes": self.classes,
        }

    def augment(self, batch: Batch, u: Float[Tensor, "batch 8"]) -> Batch:
        """Half of the images mirrored left to right, if `flip`; u: uniform numbers in [0, 1)."""
        if not self.flip:
            return batch
        mirrored = (u[:, 0] < 0.5).to(batch.x.device).reshape(-1, 1, 1, 1)
        return batch.with_x(torch.where(mirrored, batch.x.flip(-1), batch.x))

    def describe(self) -> str:
        """One line for the start-up summary."""
        channels, size = self.facts["channels"], self.facts["size"]
        counts = f"{len(self.train):,} training, {len(self.val):,} validation and {len(self.test):,} test images"
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"{self.name}: {counts} of {channels}x{size}x{size}{classes}{describe_skipped(self.skipped)}"


class ImageData(Pictures):
    """A cached data set of images."""

    def __init__(self, name: str, cache: Path, flip: bool = False) -> None:
        about, resident = json.loads((cache / "about.json").read_text()), Resident()

        def array(split: str, what: str) -> Shards:
            return Shards.of([cache / f"{split}_{what}.npy"], resident)

        x = {split: array(split, "x") for split in SPLITS}
        cond = {split: {"label": array(split, "label")} if about["classes"] else {} for split in SPLITS}
        sources = {split: ArraySource(x[split], cond[split]) for split in SPLITS}
        super().__init__(name, sources, x["train"].shape[1:], about["classes"], flip, about["skipped"])


def write_splits(
    folder: Path,
    x: UInt8[np.ndarray, "n channels height width"],
    labels: Int64[np.ndarray, " n"],
    rows: Mapping[str, Int64[np.ndarray, " m"]],
) -> None:
    """Writes `rows` of the images, split by split, in pieces: neither side has to fit into memory.

    UserError if a split is empty.
    """
    for split, chosen in rows.items():
        if not len(chosen):
            total = sum(map(len, rows.values()))
            raise UserError(f"{total} readable pictures are too few: none is left for the {split} split")
        shape = (len(chosen), *x.shape[1:])
        out = np.lib.format.open_memmap(folder / f"{split}_x.npy", mode="w+", dtype=np.uint8, shape=shape)
        for start in range(0, len(chosen), GATHER_ROWS):
            piece = chosen[start : start + GATHER_ROWS]
            out[start : start + len(piece)] = x[piece]
        out.flush()
        np.save(folder / f"{split}_label.npy", labels[chosen])


def write_about(folder: Path, classes: Sequence[str], skipped: Sequence[str] = ()) -> None:
    """The label names, and the files that could not be read."""
    (folder / "about.json").write_text(json.dumps({"classes": list(classes), "skipped": list(skipped)}))
