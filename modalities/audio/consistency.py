"""Sounds made to have a given spectrogram: alternating projections from a first guess that has the phases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from modalities.audio.bands import Bands
from modalities.audio.frames import mask_of_frames, stft

QUIET = 1e-3  # amplitudes below it are not divided by: a tenth of the usual floor of the spectrograms


def consistent(
    x: Float[Tensor, "batch length"],
    amplitude: Float[Tensor, "batch frames bands"],
    mask: Float[Tensor, "batch frames 1"],
    bands: Bands,
    iterations: int,
    momentum: float = 0.0,
) -> Float[Tensor, "batch length"]:
    """A sound near x whose bands have the given amplitudes, in the frames that are real (mask 1, or (B, 1, 1)).

    Griffin & Lim's (1984) iteration, in bands: each step scales the spectrum of x to the amplitudes, band by band, and
    takes the sound whose spectrum is nearest. What x has within a band stays in its proportions: the harmonics, and
    all phases. momentum: of the spectra from one step to the next (Perraudin et al. 2013).
    """
    inside = mask_of_frames(mask[:, None], bands.hop)[:, 0]
    before = spectrum = stft(x, bands.window, bands.hop)
    for _ in range(iterations):
        x = istft(_scaled(spectrum, amplitude, bands) * mask, mask, bands.window, bands.hop) * inside
        now = stft(x, bands.window, bands.hop)
        spectrum, before = now + momentum * (now - before), now
    return x


def _scaled(spectrum: Tensor, amplitude: Tensor, bands: Bands) -> Tensor:
    gain = amplitude / bands.amplitude(spectrum).clamp(min=QUIET)
    return spectrum * (gain @ bands.spread.to(gain))


def istft(
    spectrum: Float[Tensor, "batch frames bins"], mask: Float[Tensor, "batch frames 1"], window: int, hop: int
) -> Float[Tensor, "batch length"]:
    """The sound whose `frames.stft` is nearest on the real frames: windowed, added, divided by the windows."""
    taper = torch.hann_window(window, dtype=spectrum.real.dtype, device=spectrum.device)[:, None]
    frames = torch.fft.irfft(spectrum.transpose(1, 2), n=window, dim=1) * taper
    total = (spectrum.shape[1] - 1) * hop + window

    def added(parts: Float[Tensor, "batch window frames"]) -> Float[Tensor, "batch total"]:
        return F.fold(parts, (1, total), (1, window), stride=(1, hop))[:, 0, 0]

    weight = added(taper**2 * mask.transpose(1, 2).expand(-1, 1, spectrum.shape[1]))
    margin = window // 2 - hop // 2
    sound = added(frames) / weight.clamp(min=1e-6)
    return sound[:, margin : margin + spectrum.shape[1] * hop]
