"""Log-mel spectrograms for looking and listening: plots, the judge, and the mel error. Not a codec.

Their windows are short in seconds and fixed here, whatever a model's own spectrogram is, so that no model is measured
through the very frames it writes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

WINDOW, HOP = 0.025, 0.010  # seconds
FLOOR_DB = -80.0  # relative to a sine of full scale


def log_mel(
    x: Float[Tensor, "batch 1 length"],
    sample_rate: int,
    bands: int = 40,
    window: float = WINDOW,
    hop: float = HOP,
    floor_db: float = FLOOR_DB,
) -> Float[Tensor, "batch frames bands"]:
    """Levels in dB, clamped at floor_db from below; a sine of amplitude 1 reads 0 dB, shared between two bands.

    Frame k is centred on second k * hop, with silence outside the clip: so padding a clip with silence (masked clips
    are 0 there) only appends frames, the last ones of them at the floor. A multiple of `hop` gives 1 + length / hop.
    """
    width, step = round(window * sample_rate), round(hop * sample_rate)
    n_fft = 2 ** math.ceil(math.log2(2 * width))  # zero-padded twofold: narrow low bands still hold a bin each
    amplitude = stft_magnitude(x, width, step, n_fft)
    shape = torch.hann_window(width)
    spread = n_fft * shape.square().sum() / shape.sum() ** 2  # bins over which the window spreads a sine's power
    power = amplitude.square() @ filters(sample_rate, n_fft, bands).to(x) / spread
    return 10 * power.clamp(min=10 ** (floor_db / 10)).log10()


def stft_magnitude(
    x: Float[Tensor, "batch 1 length"], width: int, hop: int, n_fft: int | None = None
) -> Float[Tensor, "batch frames bins"]:
    """|STFT| with a Hann window of `width` samples, frame k centred on sample k * hop, silence outside the clip.

    Scaled so that a sine of amplitude 1 reads 1 at its bin.
    """
    window = torch.hann_window(width, device=x.device, dtype=x.dtype)
    spectrum = torch.stft(
        x[:, 0], n_fft or width, hop, width, window, center=True, pad_mode="constant", return_complex=True
    )
    return spectrum.abs().mT * (2 / window.sum())


@lru_cache(maxsize=16)
def filters(sample_rate: int, n_fft: int, bands: int) -> Float[Tensor, "bins bands"]:
    """Triangles of equal width and height 1 on the mel scale (HTK's), from 40 Hz to half the sample rate."""
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(n_fft // 2 + 1, 40.0, sample_rate / 2, bands, sample_rate)
