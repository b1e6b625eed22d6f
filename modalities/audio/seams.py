"""What is kept of a sound and what is new, put together so that nothing is heard where they meet."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from modalities.audio.consistency import istft
from modalities.audio.frames import stft

HOP_SECONDS = 0.008  # of the spectra whose magnitudes the new part has; their windows are four times as long
FADE_SECONDS = 0.003  # over which the new part takes up what it is off at a seam
ITERATIONS, MOMENTUM = 32, 0.99
SPLICE = 512  # window, in samples, of the spectra in which bands are put together
QUIET = 1e-5  # magnitudes below it are not divided by

Sounds = Float[Tensor, "batch length"]


def joined(original: Sounds, edited: Sounds, keep: Sounds, sample_rate: int) -> Sounds:
    """A sound that is `original` where keep is 1, sample by sample, with the short-time magnitudes of `edited`.

    The new sound of a spectrogram has phases of its own, which the kept ones contradict at every seam: so they are
    found again, by Griffin & Lim's (1984) iteration with the kept samples put in their place at each step. An edited
    sound that has the kept samples already stays as it is.
    """
    hop = 2 * round(HOP_SECONDS * sample_rate / 2)
    length, short = original.shape[-1], -original.shape[-1] % hop
    original, edited = F.pad(original, (0, short)), F.pad(edited, (0, short))
    keep = F.pad(keep, (0, short), value=1.0)
    fade, whole = max(1, round(FADE_SECONDS * sample_rate)), original.new_ones(1, 1, 1)
    wanted = stft(edited, 4 * hop, hop).abs()
    x = placed(original, edited, keep, fade)
    before = spectrum = stft(x, 4 * hop, hop)
    for _ in range(ITERATIONS):
        magnitude = spectrum.abs()
        scaled = torch.where(magnitude > QUIET, spectrum / magnitude.clamp(min=QUIET) * wanted, spectrum)
        x = placed(original, istft(scaled, whole, 4 * hop, hop), keep, fade)
        now = stft(x, 4 * hop, hop)
        spectrum, before = now + MOMENTUM * (now - before), now
    return x[..., :length]


def placed(original: Sounds, new: Sounds, keep: Sounds, fade: int) -> Sounds:
    """`original` where keep is 1, `new` elsewhere, which begins and ends where the kept part stops.

    What `new` is off by just before a seam is mirrored there, added to it, and fades out over `fade` samples.
    """
    off = (original - new) * keep
    start = _mirrored(off, keep, fade)
    end = _mirrored(off.flip(-1), keep.flip(-1), fade).flip(-1)
    return torch.where(keep > 0, original, new + start + end)


def _mirrored(off: Sounds, keep: Sounds, fade: int) -> Sounds:
    """In the first samples after each kept stretch, its last samples in reverse order, falling to 0."""
    last = off.shape[-1] - 1
    place = torch.arange(last + 1, device=off.device).expand_as(off)
    seam = torch.where(keep > 0, place, -1).cummax(-1).values  # the last kept sample before each
    distance, source = place - seam, (2 * seam + 1 - place).clamp(0, last)
    weight = 0.5 + 0.5 * torch.cos(math.pi * (distance - 0.5) / fade)
    near = (seam >= 0) & (distance >= 1) & (distance <= fade) & (distance <= seam + 1)
    return torch.where(near, weight * (off * keep).gather(-1, source), 0)


def joined_bands(original: Sounds, edited: Sounds, keep: Float[Tensor, "batch rows"]) -> Sounds:
    """The kept rows of frequency (equal shares of the way from 0 to half of the sample rate) of the original's
    short-time spectrum, the others of the edited sound's.
    """
    hop, taper = SPLICE // 4, torch.hann_window(SPLICE, dtype=original.dtype, device=original.device)
    ours, theirs = (
        torch.stft(x, SPLICE, hop, window=taper, pad_mode="constant", return_complex=True) for x in (original, edited)
    )
    share = F.interpolate(keep[:, None], ours.shape[1], mode="linear", align_corners=True)[:, 0, :, None]
    return torch.istft(share * ours + (1 - share) * theirs, SPLICE, hop, window=taper, length=original.shape[-1])
