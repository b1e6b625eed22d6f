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


def hann(length: int, like: Tensor) -> Float[Tensor, " length"]:
    """The periodic Hann window."""
    return torch.hann_window(length, dtype=like.dtype, device=like.device)


def stft(x: Float[Tensor, "batch length"], window: int, hop: int) -> Float[Tensor, "batch frames bins"]:
    """Complex, of Hann windows centred on the middle of each frame of `hop` samples; silence beyond both ends.

    length must be a multiple of hop; there are length / hop frames.
    """
    margin = window // 2 - hop // 2
    padded = F.pad(x, (margin, window - hop - margin))
    spectrum = torch.stft(padded, window, hop, window=hann(window, x), center=False, return_complex=True)
    return spectrum.transpose(1, 2)


def istft(spectrum: Float[Tensor, "batch frames bins"], window: int, hop: int) -> Float[Tensor, "batch length"]:
    """The sound whose `stft` is nearest: overlapped, added, and divided by the windows' summed squares."""
    frames = torch.fft.irfft(spectrum.transpose(1, 2), n=window, dim=1)
    taper = hann(window, frames)[:, None]
    total = (spectrum.shape[1] - 1) * hop + window

    def overlap(parts: Tensor) -> Tensor:
        return F.fold(parts, (1, total), (1, window), stride=(1, hop))[:, 0, 0]

    weight = overlap((taper**2).expand(1, window, spectrum.shape[1]))
    margin = window // 2 - hop // 2
    sound = overlap(frames * taper) / weight.clamp(min=1e-6)
    return sound[:, margin : margin + spectrum.shape[1] * hop]
