"""Any folder of pictures as a data set; class subfolders give labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.cache import building, cache_dir
from core.cli import say
from core.folders import class_folders, fingerprint, report_skipped
from core.splits import SPLIT_SEED, check_shares, stratified_split
from modalities.image.data import ImageData, write_about, write_splits
from modalities.image.pictures import check_shape, decode_all, pictures_in

CACHE_VERSION = 1  # a new one whenever the decoding, the split or the layout changes


class ImageFolder(ImageData):
    """All pictures under `path`, cropped to the centre square and resized to `size`.

    path:      searched recursively. Where the pictures lie in two or more subfolders, those of the first level are the
               classes, in sorted order; `labels=False` ignores subfolders.
    channels:  1 (grey) or 3 (RGB). Transparent parts become white; photographs are turned as their EXIF says.
    flip:      whether training may mirror images left to right.
    val, test: the shares of the two held-out splits, stratified and fixed by `split_seed`.
    strict:    refuse the folder if a file cannot be read. Otherwise such files are named, counted and skipped.

    Cached under a hash of the files' paths, sizes and dates and of the options. Raises UserError for a missing or
    empty folder, pictures beside class folders, too few pictures for the splits, and unreadable files if `strict`.
    """

    def __init__(
        self,
        path: str,
        size: int,
        channels: int = 3,
        flip: bool = False,
        labels: bool = True,
        val: float = 0.05,
        test: float = 0.1,
        split_seed: int = SPLIT_SEED,
        strict: bool = False,
    ) -> None:
        check_shape(size, channels)
        check_shares(val, test)
        root = Path(path).expanduser().resolve()
        files = pictures_in(root)
        classes, y = class_folders(root, files, "pictures") if labels else ([], np.zeros(len(files), dtype=np.int64))
        options = [CACHE_VERSION, size, channels, classes, val, test, split_seed]
        cache = cache_dir("folder") / fingerprint(files, options)
        if not cache.exists():
            say(f"reading {len(files):,} pictures of {root}")
            with building(cache) as folder:
                scratch = folder / "scratch.npy"
                x, errors = decode_all(files, size, channels, scratch)
                good = np.array([row for row, file in enumerate(files) if file not in errors], dtype=np.int64)
                rows = stratified_split(y[good], {"val": val, "test": test}, split_seed)
                write_splits(folder, x, y, {split: good[chosen] for split, chosen in rows.items()})
                write_about(folder, classes, [f"{file}: {reason}" for file, reason in errors.items()])
                scratch.unlink()
        super().__init__(root.name, cache, flip)
        report_skipped(self.skipped, strict)
