"""Masks and sounds in frames: what the codecs of time and frequency share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch, is_full


def whole_frames(batch: Batch, hop: int) -> Batch:
    """The batch with silence (that is padding) at its end, up to a whole number of frames of `hop` samples."""
    short = -batch.x.shape[-1] % hop
    if not short:
        return batch
    mask = sample_mask(batch)
    return Batch(F.pad(batch.x, (0, short)), F.pad(mask, (0, short)), batch.cond)


def sample_mask(batch: Batch) -> Float[Tensor, "batch 1 length"]:
    """The mask with a value for each sample."""
    return batch.mask.expand(-1, 1, batch.x.shape[-1])


def frame_mask(mask: Float[Tensor, "batch 1 length"], hop: int) -> Float[Tensor, "batch 1 frames 1"]:
    """A frame of `hop` samples is real if any of them is. A full mask (B, 1, 1) stays one number a clip."""
    if is_full(mask):
        return mask[..., None]
    return F.max_pool1d(mask, hop)[..., None]


def mask_of_frames(mask: Float[Tensor, "batch 1 frames 1"], hop: int) -> Float[Tensor, "batch 1 length"]:
    """The samples of the real frames."""
    return mask[..., 0] if is_full(mask) else mask[..., 0].repeat_interleave(hop, dim=-1)


def stft(x: Float[Tensor, "batch length"], window: int, hop: int) -> Float[Tensor, "batch frames bins"]:
    """Complex, of Hann windows centred on the middle of each frame of `hop` samples; silence beyond both ends.

    length must be a multiple of hop; there are length / hop frames.
    """
    margin = window // 2 - hop // 2
    padded = F.pad(x, (margin, window - hop - margin))
    taper = torch.hann_window(window, dtype=x.dtype, device=x.device)
    spectrum = torch.stft(padded, window, hop, window=taper, center=False, return_complex=True)
    return spectrum.transpose(1, 2)
