"""Reading sound files of any kind as mono clips of one rate; whatever cannot be used is named, with the reason."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float32, Int16

from core.errors import UserError
from core.folders import files_in
from core.pulse import Pulse

SUFFIXES = {".wav", ".flac", ".ogg"}
FULL_SCALE = 32767  # the int16 that stands for 1
PEAK = 0.9  # of a clip with `normalise=peak`: what a codec adds on top still has room below 1
MIN_SECONDS, MAX_SECONDS = 0.02, 3600  # of a file
SILENCE = 1e-3  # -60 dB: a sound that never leaves its mean by more is silent ...
QUIET = 0.01  # ... and so is a piece of a file that stays 40 dB below the rest
RATES = (4_000, 384_000)  # Hz that are sampling rates; a small file can claim any
MAX_CHANNELS = 16
FADE_SECONDS = 0.005  # at the end of a clip that is cut, which would click
MIN_REST = 0.25  # of a window: what is left at the end of a file must be longer, or it is dropped
MAX_DENOMINATOR = 1000  # of the ratio of two rates: within 1e-6 (0.002 cents) of it, and no filter is huge
UNKNOWN = 2**32 - 1  # bytes, by the header of a sound that was written before its length was known
BLOCK = 1 << 20  # frames read at a time, so that many channels take no more memory than one


def sound_files(root: Path) -> list[Path]:
    """All WAV, FLAC and OGG files under a folder, sorted, without hidden ones. UserError if there are none."""
    return files_in(root, SUFFIXES, "sound files")


def first_rate(files: Sequence[Path]) -> int:
    """The sampling rate of the first file whose header can be read, in Hz. UserError if there is none."""
    sf = soundfile()
    for file in files:
        try:
            return int(sf.info(str(file)).samplerate)
        except sf.SoundFileError:
            continue
    raise UserError(f"none of {len(files):,} sound files can be read, such as {files[0]}")


@dataclass(frozen=True)
class Reader:
    """How a file becomes clips.

    sample_rate: in Hz; files of other rates are resampled.
    max_seconds: of a clip; None: any length.
    windows:     whether a longer file is cut into clips one after another, without the silent ones; otherwise it gives
                 its beginning, faded out within 5 ms.
    normalise:   `peak` scales each clip to a peak of 0.9; `none` only scales down a clip beyond full scale.
    """

    sample_rate: int
    max_seconds: float | None = None
    windows: bool = False
    normalise: str = "peak"

    def __post_init__(self) -> None:
        low, high = RATES
        if not low <= self.sample_rate <= high:
            raise UserError(f"data.sample_rate={self.sample_rate}: from {low:,} to {high:,} Hz")
        if self.max_seconds is not None and not 2 * MIN_SECONDS <= self.max_seconds <= MAX_SECONDS:
            raise UserError(
                f"data.max_seconds={self.max_seconds}: from {2 * MIN_SECONDS} to {MAX_SECONDS} seconds, or null"
            )
        if self.normalise not in ("peak", "none"):
            raise UserError(f"data.normalise={self.normalise}: peak or none")

    def __call__(self, file: Path | bytes) -> list[Int16[np.ndarray, " _"]]:
        """The clips of one file, or of its bytes. Raises the decoder's error, or ValueError for what is no sound."""
        x, rate = read(file)
        peak = np.abs(x - x.mean()).max()
        if peak < SILENCE:
            raise ValueError("silent")
        clips = self._cut(resample(x, rate, self.sample_rate))
        clips = [clip for clip in clips if np.abs(clip - clip.mean()).max() >= max(SILENCE, QUIET * peak)]
        return [to_int16(clip * scale(clip, self.normalise)) for clip in clips]

    def _cut(self, x: Float32[np.ndarray, " n"]) -> list[Float32[np.ndarray, " _"]]:
        longest = len(x) if self.max_seconds is None else round(self.max_seconds * self.sample_rate)
        if len(x) <= longest:
            return [x]
        if not self.windows:
            return [fade_out(x[:longest], round(FADE_SECONDS * self.sample_rate))]
        pieces = [x[start : start + longest] for start in range(0, len(x), longest)]
        return pieces if len(pieces[-1]) >= MIN_REST * longest else pieces[:-1]


def read(file: Path | bytes) -> tuple[Float32[np.ndarray, " n"], int]:
    """One file as the mean of its channels, and its rate in Hz.

    Raises the decoder's error, or ValueError if the header claims too much, or if the sound is shorter than 20 ms or
    holds NaN or infinities.
    """
    sf = soundfile()
    with BytesIO(file) if isinstance(file, bytes) else file.open("rb") as content:
        _check_claim(content)
    with sf.SoundFile(BytesIO(file) if isinstance(file, bytes) else str(file)) as sound:  # reads the header alone
        rate, channels = sound.samplerate, sound.channels
        if not RATES[0] <= rate <= RATES[1]:
            raise ValueError(f"{rate} Hz is not from {RATES[0]:,} to {RATES[1]:,}")
        if channels > MAX_CHANNELS:
            raise ValueError(f"{channels} channels, more than the {MAX_CHANNELS} allowed")
        if sound.frames > MAX_SECONDS * rate:
            raise ValueError("longer than an hour")
        blocks = sound.blocks(BLOCK, dtype="float32", always_2d=True)
        mono = [block.mean(1, dtype=np.float64).astype(np.float32) for block in blocks]
    x = np.concatenate([np.zeros(0, np.float32), *mono])
    if len(x) < MIN_SECONDS * rate:
        raise ValueError(f"{len(x)} samples, shorter than {MIN_SECONDS * 1000:g} ms" if len(x) else "empty")
    if not np.isfinite(x).all():
        raise ValueError("holds NaN or infinite values")
    return x / max(np.float32(1), np.abs(x).max()), rate


def _check_claim(content: BinaryIO) -> None:
    """ValueError for a WAV file whose header claims more sound than there is: cut off, or made to harm."""
    if content.read(4) != b"RIFF":
        return
    size = content.seek(0, os.SEEK_END)
    place = 12
    while place + 8 <= size:
        content.seek(place)
        kind, length = struct.unpack("<4sI", content.read(8))
        if kind == b"data":
            if length != UNKNOWN and place + 8 + length > size:
                raise ValueError(f"its header claims {length:,} bytes of sound, and {size - place - 8:,} are there")
            return
        place += 8 + length + length % 2


def soundfile() -> Any:
    """The package. UserError if it is missing."""
    try:
        import soundfile as package
    except ImportError as error:
        raise UserError("sound files need the package soundfile: pip install 'polydiffusion[audio]'") from error
    return package


def resample(x: Float32[np.ndarray, " n"], rate: int, to: int) -> Float32[np.ndarray, " m"]:
    """The sound at another rate, both in Hz: band-limited interpolation. UserError if torchaudio is missing."""
    if rate == to:
        return x
    ratio = Fraction(to, rate).limit_denominator(MAX_DENOMINATOR)
    return _resampler(ratio.denominator, ratio.numerator)(torch.from_numpy(x)).numpy()


@lru_cache(maxsize=16)
def _resampler(old: int, new: int) -> Any:
    try:
        from torchaudio.transforms import Resample
    except ImportError as error:
        raise UserError("other sampling rates need torchaudio: pip install 'polydiffusion[audio]'") from error
    return Resample(old, new)  # its filter is made once


def fade_out(x: Float32[np.ndarray, " n"], samples: int) -> Float32[np.ndarray, " n"]:
    """The clip with its last samples brought to 0, along half a cosine."""
    x = x.copy()
    x[len(x) - samples :] *= 0.5 + 0.5 * np.cos(np.pi * (np.arange(samples, dtype=np.float32) + 1) / samples)
    return x


def scale(x: Float32[np.ndarray, " n"], normalise: str) -> float:
    """The factor by which a clip is normalised."""
    peak = float(np.abs(x).max())
    return PEAK / peak if normalise == "peak" else 1 / max(peak, 1)


def to_int16(x: Float32[np.ndarray, "*n"]) -> Int16[np.ndarray, "*n"]:
    """[-1, 1] to the nearest of 65,535 levels."""
    return np.rint(x * FULL_SCALE).astype(np.int16)


def read_all(
    reader: Reader, files: Sequence[Path | bytes]
) -> Iterator[tuple[int, list[Int16[np.ndarray, " _"]] | str]]:
    """Each file's number and its clips, or why there are none, in order; read ahead by a few threads."""

    def one(number: int) -> tuple[int, list[Int16[np.ndarray, " _"]] | str]:
        try:
            return number, reader(files[number]) or "silent"
        except UserError:  # a missing package is no fault of the file
            raise
        except Exception as error:  # on damaged bytes a decoder may raise anything
            return number, _reason(error)

    pulse, threads = Pulse("read", len(files), "sound files"), min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(threads) as pool:  # libsndfile decodes outside Python's lock
        for start in range(0, len(files), 2 * threads):
            pulse(start)
            yield from pool.map(one, range(start, min(start + 2 * threads, len(files))))


def _reason(error: Exception) -> str:
    """One line, without the name of the file that libsndfile puts before it."""
    said = getattr(error, "error_string", None) or str(error)
    return " ".join(said.split()) or type(error).__name__
