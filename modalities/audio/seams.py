"""What is kept of a sound and what is new, put together so that nothing is heard where they meet."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from modalities.audio.consistency import istft
from modalities.audio.frames import stft
from modalities.audio.prediction import Sound, continued

HOP_SECONDS = 0.008  # of the spectra whose magnitudes the new part has; their windows are four times as long
FADE_SECONDS = 0.003  # over which the new part takes up what it is off at a seam
REACH_SECONDS = 0.1  # from a seam, in which phases begin as linear prediction has them ...
CONTEXT_SECONDS = 0.1875  # ... from so much of the kept part
LEAST = 16  # samples to predict from
ITERATIONS = 16
SAME = 1e-4  # of full scale: how far off the kept samples are after a codec that loses nothing
SPLICE = 512  # window, in samples, of the spectra in which bands are put together
QUIET = 1e-5  # magnitudes below it are not divided by

Sounds = Float[Tensor, "batch length"]


def joined(original: Sounds, edited: Sounds, keep: Sounds, real: Sounds, sample_rate: int) -> Sounds:
    """A sound that is `original` where keep is 1, sample by sample, with the short-time magnitudes of `edited`.

    The new sound of a spectrogram has phases of its own, which the kept ones contradict at every seam. So they are
    found again, by Griffin & Lim's (1984) iteration with the kept samples put in their place at each step, which begins
    as the kept part would go on by linear prediction. A sound that has the kept samples already stays as it is.

    real: 1 up to each sound's end, beyond which it is silent and kept.
    """
    if bool(((edited - original).abs() * keep * real <= SAME).all()):
        return torch.where(keep > 0, original, edited)
    hop = 2 * round(HOP_SECONDS * sample_rate / 2)
    length, short = original.shape[-1], -original.shape[-1] % hop
    original, edited = F.pad(original, (0, short)), F.pad(edited, (0, short))
    keep = F.pad(keep, (0, short), value=1.0)
    fade, whole = max(1, round(FADE_SECONDS * sample_rate)), original.new_ones(1, 1, 1)
    wanted = stft(edited, 4 * hop, hop).abs()
    x = placed(original, led_on(original, edited, keep, real, sample_rate), keep, fade)
    for _ in range(ITERATIONS):
        spectrum = stft(x, 4 * hop, hop)
        scaled = spectrum / spectrum.abs().clamp(min=QUIET) * wanted
        x = placed(original, istft(scaled, whole, 4 * hop, hop), keep, fade)
    return x[..., :length]


def led_on(original: Sounds, edited: Sounds, keep: Sounds, real: Sounds, sample_rate: int) -> Sounds:
    """`edited`, but near a seam what linear prediction makes of the kept part there."""
    reach, context = round(REACH_SECONDS * sample_rate), round(CONTEXT_SECONDS * sample_rate)
    led = edited.clone()
    for row in range(len(led)):
        length = int(real[row].sum())
        known, new, stays = (x[row, :length].double().cpu().numpy() for x in (original, edited, keep))
        edges = np.flatnonzero(np.diff(stays, prepend=1, append=1))
        bounds = [0, *edges, length]  # kept from an even one to the next, new from there to the next even one
        for k in range(1, len(bounds) - 1, 2):
            begin, end = bounds[k], bounds[k + 1]
            before = known[bounds[k - 1] : begin][-context:]
            after = known[end : bounds[k + 2]][::-1][-context:]
            led[row, begin:end] = torch.from_numpy(_between(before, new[begin:end], after, reach))
    return led


def _between(before: Sound, new: Sound, after: Sound, reach: int) -> Sound:
    """Predictions from both sides (`after` backwards in time), which give way to each other, or after `reach` to `new`,
    at equal power.
    """
    near = min(reach, len(new))
    fade = np.cos(np.pi / 2 * (np.arange(near) + 0.5) / near)
    led, rest = np.zeros(len(new)), np.ones(len(new))
    for known, order in ((before, slice(None)), (after, slice(None, None, -1))):
        if len(known) >= LEAST:
            led[order][:near] += fade * continued(known, near, len(known) // 3)
            rest[order][:near] -= fade**2
    return led + np.sqrt(rest.clip(0)) * new


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
