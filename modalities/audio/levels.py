"""How loud a sound is, where, and what is wrong with it: band energies, tails, clipping, clicks.

Clips x (B, 1, L) and masks (B, 1, L) or (B, 1, 1); padding counts nowhere. Every function returns one row a clip.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from modalities.audio.logmel import filters, stft_magnitude

OCTAVES = 4  # up to half the sample rate; the lowest band reaches down to 0
MEL_BANDS, SPECTRUM_SECONDS = 40, 0.064  # of the mel spectrum; the windows of all spectra
QUIETEST_DB = -80.0  # levels are clamped there
TAIL, TAIL_SECONDS = 0.05, 0.01  # the end of a clip: this part of it, and no less than that
LOUDEST_SECONDS = 0.02  # over which the loudest moment is averaged
CLIPPED = 0.999
CLICK_SECONDS, CLICK_GUARD = 0.025, 0.001  # how far a click is looked at on both sides, without its own closest samples
CLICK_RATIO, CLICK_LEAST = 2.0, 0.1  # how much it exceeds all that is around, and what part of the clip's peak it has


def lengths(x: Float[Tensor, "batch 1 length"], mask: Float[Tensor, "batch 1 #length"]) -> Float[Tensor, " batch"]:
    """In samples, at least 1."""
    return mask.expand_as(x).sum(dim=(1, 2)).clamp(min=1)


def band_edges(sample_rate: int) -> list[tuple[int, int]]:
    """Low and high end of each of OCTAVES bands, in Hz."""
    ends = [round(sample_rate / 2 ** (OCTAVES - k)) for k in range(OCTAVES)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def band_levels(
    x: Float[Tensor, "batch 1 length"], mask: Float[Tensor, "batch 1 #length"], sample_rate: int
) -> Float[Tensor, "batch bands"]:
    """The energy in each octave band in dB, relative to the clip's energy in all of them."""
    energy = _energy(x * mask, sample_rate)
    hertz = torch.linspace(0, sample_rate / 2, energy.shape[1], device=x.device)
    bands = [energy[:, (hertz > low) & (hertz <= high)].sum(dim=1) for low, high in band_edges(sample_rate)]
    return _relative(torch.stack(bands, dim=1))


def mel_levels(
    x: Float[Tensor, "batch 1 length"], mask: Float[Tensor, "batch 1 #length"], sample_rate: int
) -> Float[Tensor, "batch bands"]:
    """The energy in each mel band in dB, relative to the clip's energy in all of them."""
    energy = _energy(x * mask, sample_rate)
    return _relative(energy @ filters(sample_rate, 2 * (energy.shape[1] - 1), MEL_BANDS).to(x))


def _energy(x: Tensor, sample_rate: int) -> Float[Tensor, "batch bins"]:
    """Of each frequency, over the whole clip."""
    width = round(SPECTRUM_SECONDS * sample_rate / 2) * 2
    x = F.pad(x, (0, width))  # so that the last samples are in as many frames as all others
    return stft_magnitude(x, width, width // 2).square().sum(dim=1)


def tail_level(
    x: Float[Tensor, "batch 1 length"], mask: Float[Tensor, "batch 1 #length"], sample_rate: int
) -> Float[Tensor, " batch"]:
    """The end of each clip in dB, relative to its loudest moment: about 0 where it breaks off, or noise goes on."""
    x = x * mask
    length = lengths(x, mask)
    size = (TAIL * length).clamp(min=TAIL_SECONDS * sample_rate).minimum(length).round()[:, None]
    place, end = torch.arange(x.shape[2], device=x.device), length[:, None]
    tail = (x[:, 0].square() * ((place >= end - size) & (place < end))).sum(dim=1) / size[:, 0]
    moment = round(LOUDEST_SECONDS * sample_rate)
    padded = F.pad(x.square(), (moment, moment))
    loudest = F.avg_pool1d(padded, moment, stride=max(moment // 4, 1)).amax(dim=(1, 2))
    return _decibel(tail / loudest.clamp(min=torch.finfo(x.dtype).tiny))


def clipped_share(
    x: Float[Tensor, "batch 1 length"], mask: Float[Tensor, "batch 1 #length"]
) -> Float[Tensor, " batch"]:
    """The share of samples at or beyond 0.999 of full scale."""
    return ((x.abs() >= CLIPPED) * mask).sum(dim=(1, 2)) / lengths(x, mask)


def clicks_per_second(
    x: Float[Tensor, "batch 1 length"], mask: Float[Tensor, "batch 1 #length"], sample_rate: int
) -> Float[Tensor, " batch"]:
    """Isolated jumps: samples whose second difference is more than twice as large as any other within 25 ms.

    A voice's pulses are sharp too, but never alone: the next one is less than 25 ms away. (Jumps of one clip that
    follow each other faster hide each other; they are a tone, and change its spectrum.)
    """
    n = x.shape[2]
    inside = (torch.arange(n - 2, device=x.device) + 2 < lengths(x, mask)[:, None])[:, None]
    jump = x.diff(n=2, dim=2).abs() * inside
    near, reach = math.ceil(CLICK_GUARD * sample_rate), round(CLICK_SECONDS * sample_rate)
    side = reach - near  # samples in each of both neighbourhoods, from `near` on
    windows = F.max_pool1d(F.pad(jump, (reach, reach)), side, stride=1)  # [k]: the largest of k-reach ... k-near-1
    around = torch.maximum(windows[..., : n - 2], windows[..., reach + near + 1 :][..., : n - 2])
    itself = F.max_pool1d(jump, 2 * near + 1, stride=1, padding=near)  # one click is counted once
    peak = (x * mask).abs().amax(dim=2, keepdim=True)
    clicks = inside & (jump == itself) & (jump > CLICK_RATIO * around) & (jump > CLICK_LEAST * peak)
    return clicks.sum(dim=(1, 2)) * sample_rate / lengths(x, mask)


def _relative(energy: Tensor) -> Tensor:
    return _decibel(energy / energy.sum(dim=1, keepdim=True).clamp(min=torch.finfo(energy.dtype).tiny))


def _decibel(energy: Tensor) -> Tensor:
    return 10 * energy.clamp(min=10 ** (QUIETEST_DB / 10)).log10()
