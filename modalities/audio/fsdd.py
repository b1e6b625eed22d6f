"""The Free Spoken Digit Dataset: 3,000 recordings of the ten digits by six speakers, at 8 kHz."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from core.cache import cache_dir
from core.cli import say
from core.errors import UserError
from core.folders import files_in, fingerprint, report_skipped
from core.splits import stratified_split
from modalities.audio.archives import check_sha256, download, wav_members
from modalities.audio.clips import Reader
from modalities.audio.data import MULTIPLE, AudioData, build, check_multiple

CACHE_VERSION = 1  # a new one whenever the reading, the split or the layout changes
URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/heads/master.tar.gz"
INSTEAD = "get it on another machine, and give it as data.path=FILE, or its recordings as data.path=FOLDER"
FOLDER = "recordings"
NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)\.wav")
TEST_INDICES = 5  # of each digit and speaker, by the data set's own rule
VAL_SHARE = 2 / 27  # 200 of the 2,700 that are left


class Fsdd(AudioData):
    """Spoken digits. Conditions: `label`, the digit, and `speaker`. Recordings 0 to 4 of each digit and speaker are
    the test split (300); of the others a stratified 200 are for validation, and 2,500 for training.

    path:        a folder with the recordings in it, an archive of one (.tar.gz, .zip), or None: downloaded once.
    sha256:      the archive's checksum, if it is to be checked.
    sample_rate, max_seconds, normalise: see `clips.Reader`; 8,000 Hz is the recordings' own rate, and 2% of them are
                 longer than 0.8 seconds.
    multiple, silence: see `AudioData`.
    strict:      refuse the set if a file cannot be read. Otherwise such files are named, counted and skipped.

    Raises UserError if there is nothing at `path`, no network, a wrong checksum, or an archive that is damaged.
    """

    def __init__(
        self,
        path: str | None = None,
        sha256: str | None = None,
        sample_rate: int = 8000,
        max_seconds: float | None = 0.8,
        normalise: str = "peak",
        multiple: int = MULTIPLE,
        silence: bool = False,
        strict: bool = False,
    ) -> None:
        check_multiple(multiple)
        reader = Reader(sample_rate, max_seconds, normalise=normalise)
        options = [CACHE_VERSION, sample_rate, max_seconds, normalise]
        home = cache_dir("fsdd")
        root = None if path is None else Path(path).expanduser().resolve()
        if root is None or not root.is_dir():
            archive = home / "recordings.tar.gz" if root is None else root
            if root is None and not archive.exists():
                download(URL, archive, INSTEAD)
            _checked(archive, sha256, downloaded=root is None)
            cache = home / fingerprint([archive], options)
            if not cache.exists():
                say(f"reading the recordings in {archive}")
                found = _members(archive, downloaded=root is None)
                _build(cache, list(found), list(found.values()), reader)
        else:
            files = files_in(root, {".wav"}, "recordings")
            cache = home / fingerprint(files, options)
            if not cache.exists():
                say(f"reading {len(files):,} recordings of {root}")
                _build(cache, list(map(str, files)), files, reader)
        super().__init__("fsdd", cache, multiple, silence)
        report_skipped(self.skipped, strict)


def _checked(archive: Path, sha256: str | None, downloaded: bool) -> None:
    if not archive.is_file():
        raise UserError(f"data.path={archive}: no such folder or archive; null downloads it")
    try:
        check_sha256(archive, sha256)
    except UserError:
        if downloaded:
            archive.unlink()  # the next run is to try again
        raise


def _members(archive: Path, downloaded: bool) -> dict[str, bytes]:
    try:
        found = wav_members(archive, FOLDER)
    except UserError:
        if downloaded:
            archive.unlink(missing_ok=True)
        raise
    if not found:
        raise UserError(f"{archive} holds no {FOLDER}/*.wav")
    return found


def _build(cache: Path, names: Sequence[str], files: Sequence[Path | bytes], reader: Reader) -> None:
    """Fills the cache from the files whose names say a digit, a speaker and a number; UserError for any other name."""
    found = []
    for name in names:
        match = NAME.fullmatch(Path(name).name)
        if match is None:
            raise UserError(
                f"{name} is no recording of the Free Spoken Digit Dataset: {{digit}}_{{speaker}}_{{index}}.wav"
            )
        found.append(match)
    speakers = sorted({match["speaker"] for match in found})
    digit = np.array([int(match["digit"]) for match in found], dtype=np.int64)
    speaker = np.array([speakers.index(match["speaker"]) for match in found], dtype=np.int64)
    index = np.array([int(match["index"]) for match in found], dtype=np.int64)

    def divide(good: Int64[np.ndarray, " n"]) -> dict[str, Int64[np.ndarray, " _"]]:
        test = index[good] < TEST_INDICES
        rest = good[~test]
        rows = stratified_split(digit[rest] * len(speakers) + speaker[rest], {"val": VAL_SHARE})
        return {"train": rest[rows["train"]], "val": rest[rows["val"]], "test": good[test]}

    conditions = {"label": [str(d) for d in range(10)], "speaker": speakers}
    build(cache, names, files, reader, conditions, {"label": digit, "speaker": speaker}, divide)
