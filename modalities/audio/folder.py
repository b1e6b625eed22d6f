"""Any folder of sound files as a data set; class subfolders give labels, and long files are cut into windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from core.cache import cache_dir
from core.cli import say
from core.folders import class_folders, fingerprint, report_skipped
from core.splits import SPLIT_SEED, check_shares, stratified_split
from modalities.audio.clips import Reader, first_rate, sound_files
from modalities.audio.data import MULTIPLE, AudioData, build, check_multiple

CACHE_VERSION = 1  # a new one whenever the reading, the split or the layout changes


class AudioFolder(AudioData):
    """All WAV, FLAC and OGG files under `path`, as mono clips of at most `max_seconds`.

    path:        searched recursively. Where the files lie in two or more subfolders, those of the first level are the
                 classes, in sorted order (condition `label`); `labels=False` ignores subfolders.
    sample_rate: in Hz, to which all files are resampled; None: that of the first readable file.
    max_seconds: longer files are cut into windows, without the silent ones; None keeps every file whole.
    normalise:   `peak` scales each clip to a peak of 0.9; `none` keeps the loudness.
    val, test:   the shares of the two held-out splits, stratified, of files: all windows of a file are in one split.
    multiple, silence: see `AudioData`.
    strict:      refuse the folder if a file cannot be read. Otherwise such files are named, counted and skipped.

    Cached under a hash of the files' paths, sizes and dates and of the options. Raises UserError for a missing or
    empty folder, files beside class folders, too few files for the splits, and unreadable files if `strict`.
    """

    def __init__(
        self,
        path: str,
        sample_rate: int | None = None,
        max_seconds: float | None = 1.0,
        normalise: str = "peak",
        labels: bool = True,
        val: float = 0.05,
        test: float = 0.1,
        split_seed: int = SPLIT_SEED,
        multiple: int = MULTIPLE,
        silence: bool = False,
        strict: bool = False,
    ) -> None:
        check_multiple(multiple)
        check_shares(val, test)
        root = Path(path).expanduser().resolve()
        files = sound_files(root)
        classes, y = class_folders(root, files, "sound files") if labels else ([], np.zeros(len(files), dtype=np.int64))
        reader = Reader(sample_rate or first_rate(files), max_seconds, windows=True, normalise=normalise)
        options = [CACHE_VERSION, reader.sample_rate, max_seconds, normalise, classes, val, test, split_seed]
        cache = cache_dir("audio_folder") / fingerprint(files, options)
        if not cache.exists():
            say(f"reading {len(files):,} sound files of {root}")

            def divide(good: Int64[np.ndarray, " n"]) -> dict[str, Int64[np.ndarray, " _"]]:
                rows = stratified_split(y[good], {"val": val, "test": test}, split_seed)
                return {split: good[chosen] for split, chosen in rows.items()}

            conditions = {"label": classes} if classes else {}
            build(cache, list(map(str, files)), files, reader, conditions, {"label": y}, divide)
        super().__init__(root.name, cache, multiple, silence)
        report_skipped(self.skipped, strict)
