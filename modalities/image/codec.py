"""Pixels <-> diffusion coordinates."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.batch import Batch
from core.codec import Affine


def as_float(images: Float[Tensor, "n channels h w"] | UInt8[Tensor, "n channels h w"]) -> Float[Tensor, "n c h w"]:
    """uint8 images in [0, 255] -> float32 in [0, 1]; float images, in [0, 1] already, as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


class Pixels(Affine):
    """encode: uint8 in [0, 255] or floats in [0, 1] -> z in [-1, 1].  decode: z -> floats in [0, 1].

    Likelihoods are those of 256 equally spaced values.
    """

    def __init__(self) -> None:
        super().__init__(shift=0.5, scale=0.5, low=0.0, high=1.0, levels=256)

    def encode(self, batch: Batch) -> Batch:
        return super().encode(batch.with_x(as_float(batch.x)))
