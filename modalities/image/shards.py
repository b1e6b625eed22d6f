"""Pictures that the user wrote as arrays: read where they lie, however many, without a copy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from core.data import ArraySource
from core.errors import UserError, reason_of
from core.shards import Resident, Shards
from core.splits import SPLIT_SEED, SPLITS, interleaved
from modalities.image.data import Pictures
from modalities.image.pictures import check_shape

LABELS_AT_ONCE = 2**20  # of which the highest is looked for
MAX_UNNAMED = 100_000  # classes without a classes.json


class ImageShards(Pictures):
    """The folders train/, val/ and test/ under `path`, each with `x-*.npy`, uint8 (n, C, H, W) with H = W.

    Beside each `x-*.npy` there may be its `label-*.npy`, int64 (n,), from 0; `classes.json` in `path`, a list, may name
    them. Files are joined in the order of their names. The held-out splits are read in an order whose prefixes are
    stratified; so the files may hold one class after another.

    flip:   whether training may mirror images left to right.
    memory: MB (10^6 bytes) of the files that may stay mapped, in each process that reads them.

    Raises UserError for a file or folder that is missing, damaged, or not of that form.
    """

    def __init__(self, path: str, flip: bool = False, memory: int = 1000) -> None:
        if not (isinstance(memory, int) and memory >= 1):
            raise UserError(f"data.memory={memory}: a whole number of MB, 1 or more")
        root, resident = Path(path).expanduser().resolve(), Resident(memory * 10**6)
        files = {split: _files(root / split, "x") for split in SPLITS}
        x = {split: Shards.of(files[split], resident) for split in SPLITS}
        for split, images in x.items():
            _check(root / split, images, x["train"].shape[1:])
        labelled = any(True for split in SPLITS for _ in (root / split).glob("label-*.npy"))
        labels = {split: _labels(root / split, files[split], x[split], resident) for split in SPLITS if labelled}
        classes = _classes(root / "classes.json", labels) if labels else []
        sources = {}
        for split, images in x.items():
            cond, rows = {"label": labels[split]} if labels else {}, None
            if split != "train":
                every = np.arange(len(images))
                known = labels[split][every] if labels else np.zeros_like(every)
                rows = interleaved(known, np.random.default_rng(SPLIT_SEED))
            sources[split] = ArraySource(images, cond, rows=rows)
        super().__init__(root.name, sources, x["train"].shape[1:], classes, flip)


def _files(folder: Path, what: str) -> list[Path]:
    files = sorted(folder.glob(f"{what}-*.npy"))
    if not files:
        raise UserError(f"{folder} holds no {what}-*.npy: data.path must have train/, val/ and test/ with such files")
    return files


def _check(folder: Path, images: Shards, shape: tuple[int, ...]) -> None:
    """UserError unless they are square pictures of the training split's shape."""
    found = f"{images.dtype} of {'x'.join(map(str, images.shape[1:])) or 'single numbers'}"
    if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[2] != images.shape[3]:
        raise UserError(f"{folder}/x-*.npy hold {found}: must be uint8 (n, channels, size, size)")
    if images.shape[1:] != shape:
        raise UserError(f"{folder}/x-*.npy hold {found}, but train {'x'.join(map(str, shape))}: all must be alike")
    check_shape(images.shape[2], images.shape[1])


def _labels(folder: Path, pictures: list[Path], images: Shards, resident: Resident) -> Shards:
    """UserError unless there is a file of as many labels for each of pictures."""
    files = _files(folder, "label")
    expected = [picture.name.replace("x-", "label-", 1) for picture in pictures]
    if odd := sorted(set(expected) ^ {file.name for file in files}):
        raise UserError(f"{folder}: {odd[0]} is {'missing' if odd[0] in expected else 'of no x-*.npy'}")
    labels = Shards.of(files, resident)
    if labels.dtype != np.int64 or len(labels.shape) != 1:
        raise UserError(f"{files[0]} holds {labels.dtype} of {len(labels.shape)} axes: must be int64 (n,)")
    for file, own, its in zip(files, labels.lengths, images.lengths, strict=True):
        if own != its:
            raise UserError(f"{file} holds {own} labels for {its} pictures")
    return labels


def _classes(file: Path, labels: dict[str, Shards]) -> list[str]:
    """The names of the labels, their numbers without a file. UserError for labels that it does not name."""
    ends = []
    for shards in labels.values():
        for begin in range(0, len(shards), LABELS_AT_ONCE):
            piece = shards[begin : begin + LABELS_AT_ONCE]
            ends += [int(piece.min()), int(piece.max())]
    lowest, highest = min(ends), max(ends)
    if not file.exists():
        names = [str(label) for label in range(min(highest + 1, MAX_UNNAMED))]
    else:
        try:
            names = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file} cannot be read as JSON: {reason_of(error)}") from error
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise UserError(f"{file} must be a list of the classes' names")
        if len(set(names)) < len(names):
            raise UserError(f"{file} has one name twice: each class needs its own")
    if lowest < 0 or highest >= len(names):
        allowed = f"to {len(names) - 1}, which {file.name} names" if file.exists() else f"to {MAX_UNNAMED - 1}"
        raise UserError(f"{file.parent} has labels from {lowest} to {highest}: must be from 0 {allowed}")
    return names
