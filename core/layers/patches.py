"""Space to depth and back, for any number of spatial axes."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor


def patchify(x: Float[Tensor, "batch channels *size"], patch: int) -> Float[Tensor, "batch patched *grid"]:
    """Fold patches of `patch` positions per axis into the channels: (B, C, *S) -> (B, C patch^d, *S/patch).

    The channels of the result are ordered (channel, place in the patch), as in pixel-unshuffle.
    """
    if patch == 1:
        return x
    batch, channels, *size = x.shape
    grid = [length // patch for length in size]
    split = x.reshape(batch, channels, *(n for cells in grid for n in (cells, patch)))
    places, cells = range(3, split.ndim, 2), range(2, split.ndim, 2)
    return split.permute(0, 1, *places, *cells).reshape(batch, channels * patch ** len(size), *grid)


def unpatchify(x: Float[Tensor, "batch patched *grid"], patch: int) -> Float[Tensor, "batch channels *size"]:
    """The inverse of `patchify`."""
    if patch == 1:
        return x
    batch, patched, *grid = x.shape
    dims = len(grid)
    split = x.reshape(batch, patched // patch**dims, *[patch] * dims, *grid)
    order = [axis for d in range(dims) for axis in (2 + dims + d, 2 + d)]
    return split.permute(0, 1, *order).reshape(batch, patched // patch**dims, *(n * patch for n in grid))


def check_size(x: Float[Tensor, "batch channels *size"], stride: int, dims: int) -> None:
    """Refuse a shape that a network of this total stride cannot divide evenly.

    Raises:
        ValueError: x has not `dims` spatial axes, or their lengths are not multiples of `stride`.
    """
    size = tuple(x.shape[2:])
    if len(size) != dims:
        raise ValueError(f"x has shape {tuple(x.shape)}; this network wants (batch, channels) and {dims} spatial axes")
    if any(length % stride for length in size):
        padded = tuple(math.ceil(length / stride) * stride for length in size)
        raise ValueError(
            f"size {size} is not a multiple of the network's stride {stride}: "
            f"resize or pad (with a mask) to {padded}, or choose fewer levels or a smaller patch_size"
        )
