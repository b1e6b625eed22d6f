"""What can be measured of a sound: its low frequencies alone, as a lower sampling rate holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.editing import Operator

X = Float[Tensor, "batch 1 length"]


@dataclass(frozen=True)
class LowPass(Operator):
    """What a sampling rate lower by `factor` holds of a sound: nothing from 1 / factor of the frequencies upwards.

    A sinc under a Hann window of 2 * taps + 1 samples, whose way down takes about 4 / taps of all frequencies and ends
    there; silence beyond both ends, so that A = A^T. For waveforms, of which any scale is A's too.
    """

    factor: float = 2.0
    taps: int = 64

    def __post_init__(self) -> None:
        if self.taps < 4:
            raise ValueError(f"taps={self.taps}: must be at least 4")
        if not 1 < self.factor <= self.taps / 4:
            raise ValueError(f"factor={self.factor}: must be above 1 and at most {self.taps // 4}, a quarter of taps")

    def __call__(self, x: X) -> X:
        if x.ndim != 3 or x.shape[1] != 1:
            raise ValueError("only waveforms can be filtered (codec=waveform); of spectrograms keep bands instead")
        return F.conv1d(x, self.kernel(x)[None, None], padding=self.taps)

    def kernel(self, like: Tensor) -> Float[Tensor, " width"]:
        """Its impulse response, symmetric, of sum 1."""
        place = torch.arange(-self.taps, self.taps + 1, dtype=torch.float64)
        cutoff = 1 / self.factor - 2 / self.taps  # the middle of its way down, as a share of all frequencies
        taper = 0.5 + 0.5 * torch.cos(math.pi * place / (self.taps + 1))
        response = torch.sinc(cutoff * place) * taper
        return (response / response.sum()).to(like)
