"""How far one clip is from another that it should equal, sample by sample: for vocoders and other round trips.

All levels are clamped from below at FLOOR_DB under the loudest cell of the reference clip's spectrogram: what is
softer than that, nobody hears, and logarithms of almost-zeros would drown the rest. Windows are given in samples; none
of them is 256, which is the window of the models' own spectrograms at 8 kHz. Every function takes clips
x, reference (B, 1, L) and their mask, and returns one figure a clip: padding counts nowhere.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.audio.logmel import filters, stft_magnitude

WINDOWS = (128, 512, 1024)
MEL_WINDOW = 0.064  # seconds: 512 samples at 8 kHz
FLOOR_DB = -60.0


def log_spectral_distance(
    x: Float[Tensor, "batch 1 length"],
    reference: Float[Tensor, "batch 1 length"],
    mask: Float[Tensor, "batch 1 #length"],
    window: int,
) -> Float[Tensor, " batch"]:
    r"""$\mathrm{mean}_k \sqrt{\mathrm{mean}_f (L_x - L_r)^2}$ in dB; L are log-magnitudes in frame k, bin f."""
    ours, theirs, real = _paired(x, reference, mask, window)
    return _mean((_decibel(ours, theirs) - _decibel(theirs, theirs)).square().mean(dim=2).sqrt(), real)


def multi_resolution_distance(
    x: Float[Tensor, "batch 1 length"],
    reference: Float[Tensor, "batch 1 length"],
    mask: Float[Tensor, "batch 1 #length"],
) -> Float[Tensor, " batch"]:
    r"""Spectral convergence $|R - X|_F / |R|_F$ plus the mean of $|\ln X - \ln R|$, averaged over WINDOWS.

    (Yamamoto et al. 2020, eq. 4-6, with the floor of this file in the logarithms)
    """
    total = x.new_zeros(len(x))
    for window in WINDOWS:
        ours, theirs, real = _paired(x, reference, mask, window)
        gap, norm = (((value.square().sum(dim=2) * real).sum(dim=1)).sqrt() for value in (theirs - ours, theirs))
        logarithms = (_decibel(ours, theirs) - _decibel(theirs, theirs)).abs().mean(dim=2) * (math.log(10) / 20)
        total += gap / norm.clamp(min=torch.finfo(x.dtype).tiny) + _mean(logarithms, real)
    return total / len(WINDOWS)


def mel_error(
    x: Float[Tensor, "batch 1 length"],
    reference: Float[Tensor, "batch 1 length"],
    mask: Float[Tensor, "batch 1 #length"],
    sample_rate: int,
    bands: int = 40,
) -> Float[Tensor, " batch"]:
    """The mean absolute difference of mel spectrograms (windows of MEL_WINDOW seconds) in dB."""
    ours, theirs, real = _paired(x, reference, mask, 2 * round(MEL_WINDOW * sample_rate / 2))
    mel = filters(sample_rate, 2 * (ours.shape[2] - 1), bands).to(x)
    ours, theirs = ((value.square() @ mel).sqrt() for value in (ours, theirs))
    return _mean((_decibel(ours, theirs) - _decibel(theirs, theirs)).abs().mean(dim=2), real)


def _paired(x: Tensor, reference: Tensor, mask: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both magnitude spectrograms (B, frames, bins), and which frames (B, frames) have their centre inside the clip."""
    if x.shape != reference.shape:
        raise ValueError(f"a pair of clips has one shape, not {tuple(x.shape)} and {tuple(reference.shape)}")
    hop = window // 4
    ours, theirs = (stft_magnitude(clips * mask, window, hop) for clips in (x, reference))
    lengths = mask.expand_as(x).sum(dim=(1, 2))
    return ours, theirs, (torch.arange(ours.shape[1], device=x.device) * hop < lengths[:, None]).to(x.dtype)


def _decibel(magnitude: Tensor, reference: Tensor) -> Tensor:
    floor = reference.amax(dim=(1, 2), keepdim=True) * 10 ** (FLOOR_DB / 20)
    return 20 * magnitude.maximum(floor).clamp(min=torch.finfo(magnitude.dtype).tiny).log10()


def _mean(values: Tensor, real: Tensor) -> Tensor:
    return (values * real).sum(dim=1) / real.sum(dim=1)
