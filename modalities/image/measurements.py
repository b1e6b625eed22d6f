"""What can be measured of a picture: fewer pixels, blurred ones, grey ones.

Each is a mean whose weights sum to 1, so that A 1 = 1. In diffusion coordinates z = (x - shift) / scale this makes
A z = (A x - shift) / scale: a measured picture, encoded as pictures are, is the measurement of the encoded one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.editing import Operator

X = Float[Tensor, "batch channels height width"]
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow turns colour into grey


@dataclass(frozen=True)
class Downsample(Operator):
    """The mean of each square of `factor` x `factor` pixels."""

    factor: int = 2

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"factor={self.factor}: must be at least 2")

    def __call__(self, x: X) -> Float[Tensor, "batch channels h w"]:
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"factor={self.factor} does not divide {width}x{height} pixels")
        return F.avg_pool2d(x, self.factor)


@dataclass(frozen=True)
class Blur(Operator):
    """The mean under a Gaussian of standard deviation `sigma` pixels, cut at 3 sigma; edges are mirrored."""

    sigma: float = 1.5

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"sigma={self.sigma}: must be positive")

    def __call__(self, x: X) -> X:
        radius = math.ceil(3 * self.sigma)
        height, width = x.shape[-2:]
        if radius >= min(height, width):
            raise ValueError(f"sigma={self.sigma} is too wide for {width}x{height} pixels")
        places = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
        weights = torch.softmax(-(places**2) / (2 * self.sigma**2), dim=0)
        padded = F.pad(x, (radius,) * 4, mode="reflect")
        flat = padded.flatten(0, 1)[:, None]  # each channel for itself
        flat = F.conv2d(F.conv2d(flat, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
        return flat.reshape(x.shape)


@dataclass(frozen=True)
class Grey(Operator):
    """The brightness of a picture in colour: what is left to draw is its colours."""

    def __call__(self, x: X) -> Float[Tensor, "batch 1 height width"]:
        if x.shape[1] != 3:
            raise ValueError(f"pictures of {x.shape[1]} channel have no colours to take away")
        return (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
