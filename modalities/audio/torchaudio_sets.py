"""Speech Commands and LJ Speech, downloaded by torchaudio and read by soundfile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from core.cache import cache_dir
from core.cli import say
from core.errors import UserError, reason_of
from core.folders import report_skipped
from core.splits import check_shares, stratified_split
from modalities.audio.clips import Reader, sound_files
from modalities.audio.data import MULTIPLE, AudioData, build, check_multiple

CACHE_VERSION = 1  # a new one whenever the reading, the split or the layout changes
SUBSETS = {"train": "training", "val": "validation", "test": "testing"}  # of Speech Commands, its own


class SpeechCommands(AudioData):
    """105,829 words of a second, of 35 classes (condition `label`), in their official splits. A download of 2.3 GB.

    words: the classes to keep, None for all; SC09 is [zero, one, two, three, four, five, six, seven, eight, nine].
    sample_rate, max_seconds, normalise: see `clips.Reader`; 16,000 Hz is the recordings' own rate, which nearly all
           are a second long.
    multiple, silence: see `AudioData`; strict: refuse the set if a file cannot be read.

    Raises UserError if torchaudio is missing, the set cannot be downloaded, or a word is none of its classes.
    """

    def __init__(
        self,
        words: Sequence[str] | None = None,
        sample_rate: int = 16000,
        max_seconds: float | None = 1.0,
        normalise: str = "peak",
        multiple: int = MULTIPLE,
        silence: bool = False,
        strict: bool = False,
    ) -> None:
        check_multiple(multiple)
        words = None if words is None else list(dict.fromkeys(words))
        reader = Reader(sample_rate, max_seconds, normalise=normalise)
        home = cache_dir("speech_commands")
        cache = home / _digest([CACHE_VERSION, words, sample_rate, max_seconds, normalise])
        if not cache.exists():
            _build_commands(cache, home / "downloads", words, reader)
        super().__init__("speech_commands", cache, multiple, silence)
        report_skipped(self.skipped, strict)


def _build_commands(cache: Path, root: Path, words: list[str] | None, reader: Reader) -> None:
    files: list[Path] = []
    spoken: list[str] = []
    official: list[str] = []
    for split, subset in SUBSETS.items():
        part = _open("SPEECHCOMMANDS", root, subset=subset)
        for row in range(len(part)):
            path, _, word, *_ = part.get_metadata(row)  # the path is relative to the set's folder
            if words is None or word in words:
                files.append(root / "SpeechCommands" / path)
                spoken.append(word)
                official.append(split)
    classes = sorted(set(spoken)) if words is None else words
    if absent := sorted(set(classes) - set(spoken)):
        raise UserError(f"data.words={words}: Speech Commands has no word {absent[0]}")
    label = np.array([classes.index(word) for word in spoken], dtype=np.int64)
    split_of = np.array(official)

    def divide(good: Int64[np.ndarray, " n"]) -> dict[str, Int64[np.ndarray, " _"]]:
        return {split: good[split_of[good] == split] for split in SUBSETS}

    say(f"reading {len(files):,} recordings of {root}")
    build(cache, list(map(str, files)), files, reader, {"label": classes}, {"label": label}, divide)


class LJSpeech(AudioData):
    """13,100 sentences of one speaker, 24 hours, without conditions, cut into windows. A download of 2.6 GB.

    val, test: the shares of the two held-out splits, of sentences.
    sample_rate, max_seconds, normalise: see `clips.Reader`; 22,050 Hz is the recordings' own rate.
    multiple, silence: see `AudioData`; strict: refuse the set if a file cannot be read.

    Raises UserError if torchaudio is missing or the set cannot be downloaded.
    """

    def __init__(
        self,
        sample_rate: int = 22050,
        max_seconds: float | None = 2.0,
        normalise: str = "peak",
        val: float = 0.01,
        test: float = 0.02,
        multiple: int = MULTIPLE,
        silence: bool = False,
        strict: bool = False,
    ) -> None:
        check_multiple(multiple)
        check_shares(val, test)
        reader = Reader(sample_rate, max_seconds, windows=True, normalise=normalise)
        home = cache_dir("ljspeech")
        cache = home / _digest([CACHE_VERSION, sample_rate, max_seconds, normalise, val, test])
        if not cache.exists():
            _open("LJSPEECH", home / "downloads")
            files = sound_files(home / "downloads" / "LJSpeech-1.1" / "wavs")

            def divide(good: Int64[np.ndarray, " n"]) -> dict[str, Int64[np.ndarray, " _"]]:
                rows = stratified_split(np.zeros(len(good), dtype=np.int64), {"val": val, "test": test})
                return {split: good[chosen] for split, chosen in rows.items()}

            say(f"reading {len(files):,} sentences of {files[0].parent}")
            build(cache, list(map(str, files)), files, reader, {}, {}, divide)
        super().__init__("ljspeech", cache, multiple, silence)
        report_skipped(self.skipped, strict)


def _open(name: str, root: Path, **options: str) -> Any:
    """The set of torchaudio.datasets, downloaded if it is not there. UserError if it cannot be had."""
    try:
        from torchaudio import datasets
    except ImportError as error:
        raise UserError(f"torchaudio's {name} needs torchaudio: pip install 'polydiffusion[audio]'") from error
    root.mkdir(parents=True, exist_ok=True)
    say(f"loading torchaudio's {name} into {root} (downloads it the first time)")
    try:
        return getattr(datasets, name)(root=str(root), download=True, **options)
    except Exception as error:  # no network, a moved address, a wrong checksum, a bad archive, a full disk, ...
        reason = reason_of(error)
        raise UserError(f"torchaudio's {name} could not be loaded into {root}: {reason}") from error


def _digest(options: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(options).encode()).hexdigest()[:20]
