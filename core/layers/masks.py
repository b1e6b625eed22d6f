"""What a validity mask does inside a network: multiply, broadcast over the positions, pool at strides."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.batch import is_full


def masked(x: Float[Tensor, "batch channels *size"], mask: Tensor) -> Float[Tensor, "batch channels *size"]:
    """x with its padding set to zero; x itself where nothing is masked."""
    return x if is_full(mask) else x * mask.to(x.dtype)


def spatial_mask(mask: Tensor, x: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch 1 *masksize"]:
    """The mask with one value per position of x, (B, 1, *size); a full mask stays (B, 1, ..., 1).

    Raises:
        ValueError: the mask differs between channels, or does not broadcast to x.
    """
    if mask.ndim != x.ndim or mask.shape[:2] != (x.shape[0], 1):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; with x of shape {tuple(x.shape)} it must have "
            f"{x.ndim} axes and be ({x.shape[0]}, 1, ...): the same for every channel"
        )
    return mask if is_full(mask) else mask.expand(-1, -1, *x.shape[2:])


def pool_mask(mask: Float[Tensor, "batch 1 *size"], stride: int) -> Float[Tensor, "batch 1 *pooled"]:
    """The mask of cells of `stride` positions per axis: a cell is real if any of its positions is."""
    if is_full(mask) or stride == 1:
        return mask
    pool = {1: F.max_pool1d, 2: F.max_pool2d}[mask.ndim - 2]
    return pool(mask, stride)
