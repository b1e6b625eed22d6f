"""Sounds on disk: one WAV per sample, without clipping or clicks; and the sounds of a folder read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core import random
from core.batch import Batch
from core.errors import UserError, reason_of
from modalities.audio import clips

STEPS = 2**15  # of 16-bit sound per unit of amplitude, as libsndfile reads it
PEAK = 0.999  # what louder clips are scaled to
FADE_SECONDS = 0.002
DITHER_SEED = 0xD17E

Clip = Float[np.ndarray, " length"]


def lengths(x: Tensor, mask: Tensor) -> list[int]:
    """How many samples of each clip are real. x: (B, 1, L); mask: (B, 1, L), 1 up to the clip's end, or (B, 1, 1)."""
    return (mask != 0).expand(x.shape).flatten(1).sum(dim=1).tolist()


def unpadded(x: Tensor, mask: Tensor, first: int = 0) -> list[Clip]:
    """The clips without their padding, as float64. ValueError names those that are not finite, counted from `first`."""
    x = x.detach().cpu().double()
    bad = (~x.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{len(bad)} of {len(x)} sounds are not finite, the first is number {first + bad[0]}")
    return [row[0, :length].numpy() for row, length in zip(x, lengths(x, mask.cpu()), strict=True)]


def wav_name(number: int) -> str:
    """The file of a clip."""
    return f"{number:05d}.wav"


def write_wavs(x: Tensor, mask: Tensor, folder: Path, sample_rate: int, first: int = 0, dither: bool = False) -> int:
    """One 16-bit WAV per clip, numbered from `first`: 00000.wav, 00001.wav, ...; returns how many were made softer.

    x: (B, 1, L), in [-1, 1] or louder: a clip whose peak exceeds 1 is scaled to PEAK, never clipped.
    mask: a clip ends where it does. The first and the last 2 ms are faded, so that neither clicks.
    dither: adds triangular noise of up to one step (of the clip's number alone), so that what rounding leaves is noise.
    ValueError names clips that are not finite; then nothing is written.
    """
    soundfile, sounds, softer = clips.soundfile(), unpadded(x, mask, first), 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(sounds, start=first):
        peak = np.abs(clip).max(initial=0.0)
        if peak > 1:
            clip, softer = clip * (PEAK / peak), softer + 1
        steps = faded(clip, round(FADE_SECONDS * sample_rate)) * STEPS
        if dither:
            steps = steps + triangular(number, len(steps))
        # +1 is one step beyond 16 bits; nothing else is cut off
        pcm = np.rint(steps).clip(-STEPS, STEPS - 1).astype(np.int16)
        soundfile.write(folder / wav_name(number), pcm, sample_rate, subtype="PCM_16")
    return softer


def faded(clip: Clip, width: int) -> Clip:
    """The clip with its first and last `width` samples (at most half of it) raised from 0 and lowered to it."""
    width = min(width, len(clip) // 2)
    ramp = np.sin(0.5 * np.pi * np.arange(width) / max(width, 1)) ** 2
    gain = np.ones(len(clip))
    gain[:width], gain[len(clip) - width :] = ramp, ramp[::-1]
    return clip * gain


def triangular(number: int, length: int) -> Clip:
    """Dither: independent numbers in (-1, 1) of triangular density, the sum of two uniform ones."""
    key = random.keys(DITHER_SEED, torch.tensor([number]))
    return (random.uniform(key, (length, 2), torch.float64).sum(dim=-1) - 1)[0].numpy()


def read_wavs(folder: Path, sample_rate: int | None = None) -> tuple[Batch, int]:
    """The sounds of a folder in the order of their names, each padded to the longest, and their sample rate in Hz.

    x is (N, 1, L) in [-1, 1], channels averaged. sample_rate: what all are resampled to, that of the first if None.
    UserError names a file that cannot be read, is shorter than 20 ms or holds what is not finite.
    """
    sounds = []
    for file in clips.sound_files(folder):
        sound, sample_rate = read_sound(file, sample_rate)
        sounds.append(sound)
    assert sample_rate is not None
    sizes = torch.tensor([len(sound) for sound in sounds])
    x = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)[:, None]
    if (sizes == x.shape[-1]).all():
        return Batch.full(x), sample_rate
    return Batch(x, (torch.arange(x.shape[-1]) < sizes[:, None, None]).float()), sample_rate


def read_sound(file: Path, sample_rate: int | None) -> tuple[Float[Tensor, " length"], int]:
    """One file in [-1, 1], channels averaged, resampled to `sample_rate` unless that is None; and its rate in Hz.

    UserError names a file that cannot be read.
    """
    try:
        sound, rate = clips.read(file)
    except UserError:  # a missing package is no fault of the file
        raise
    except Exception as error:  # on damaged bytes a decoder may raise anything
        raise UserError(f"{file} cannot be read: {reason_of(error)}") from error
    sample_rate = sample_rate or rate
    sound = clips.resample(sound, rate, sample_rate)
    # the filter may overshoot 1
    return torch.from_numpy(sound * np.float32(clips.scale(sound, "none"))), sample_rate
