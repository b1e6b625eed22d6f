"""The U-Net denoisers of sound: over the waveform, and over time and frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.batch import is_full
from core.layers.conditional import ConditionalUNet
from core.layers.init import convolution
from core.layers.masks import masked, pool_mask, spatial_mask
from core.layers.patches import check_size, unpatchify

Conditions = Mapping[str, Sequence[str] | int]


class UNet1d(ConditionalUNet):
    """A U-Net over the patches of a waveform (B, 1, L).

    conditions, widths, options: see `core.layers.conditional.ConditionalUNet`
    local_bands: of the spectrogram `cond["spectrogram"]` (B, 1, frames, bands) that a vocoder follows; 0: none
    hop:         samples between its frames, a multiple of the patch size
    jitter:      standard deviation of noise that training adds to it: a model's spectrograms are not quite real ones
    """

    def __init__(
        self,
        conditions: Conditions,
        widths: Sequence[int] = (96, 128, 192),
        *,
        patch_size: int = 16,
        local_bands: int = 0,
        hop: int = 80,
        local_channels: int = 4,
        jitter: float = 0.0,
        **options: Any,
    ) -> None:
        if local_bands and hop % patch_size:
            raise ValueError(f"hop={hop}: must be a multiple of patch_size={patch_size}")
        extra = local_channels if local_bands else 0
        super().__init__(1, 1, conditions, widths, patch_size=patch_size, extra=extra, **options)
        self.patch_size, self.repeats = patch_size, hop // patch_size
        self.local = _Local(local_bands, hop, local_channels * patch_size, jitter) if local_bands else None

    def forward(
        self,
        x: Float[Tensor, "batch 1 length"],
        c_noise: Float[Tensor, " batch"],
        mask: Float[Tensor, "batch 1 masklength"],
        cond: Mapping[str, Tensor],
    ) -> Float[Tensor, "batch outputs length"]:
        if self.local is not None:
            check_size(x, self.stride, 1)
            followed = self.local(x, mask, cond).repeat_interleave(self.repeats, dim=-1)
            x = torch.cat([x, unpatchify(followed, self.patch_size)], dim=1)
        return super().forward(x, c_noise, mask, cond)


class _Local(nn.Module):
    """What the network sees of a spectrogram at each frame of `hop` samples; zeros where the condition is dropped."""

    def __init__(self, bands: int, hop: int, channels: int, jitter: float) -> None:
        super().__init__()
        self.bands, self.hop, self.jitter = bands, hop, jitter
        self.first = convolution(1, bands, 2 * channels)
        self.second = convolution(1, 2 * channels, channels)

    def forward(self, x: Tensor, mask: Tensor, cond: Mapping[str, Tensor]) -> Float[Tensor, "batch channels frames"]:
        frames = self._frames(x, cond)
        if self.training and self.jitter:  # as dropout does, from the generator that each step seeds
            frames = frames + self.jitter * torch.randn_like(frames)
        if "drop" in cond:
            frames = frames * (~cond["drop"].bool()).to(x.dtype)[:, None, None]
        real = pool_mask(spatial_mask(mask, x), self.hop)
        return self.second(masked(F.silu(self.first(masked(frames, real))), real))

    def _frames(self, x: Tensor, cond: Mapping[str, Tensor]) -> Float[Tensor, "batch bands frames"]:
        if "spectrogram" not in cond:
            raise ValueError("this network follows a spectrogram: cond['spectrogram'] is missing")
        spectrogram, wanted = cond["spectrogram"], (len(x), 1, x.shape[-1] / self.hop, self.bands)
        if tuple(spectrogram.shape) != wanted:
            shape = f"({len(x)}, 1, {wanted[2]:g}, {self.bands})"
            raise ValueError(
                f"cond['spectrogram'] has shape {tuple(spectrogram.shape)}; {x.shape[-1]} samples need {shape}, "
                f"a frame for every {self.hop}"
            )
        return spectrogram[:, 0].transpose(1, 2).to(x.dtype)


class SpectrogramUNet(ConditionalUNet):
    """A U-Net over time and frequency (B, 1, frames, bands), told where on both axes it is.

    bands: of the spectrogram; each has learned numbers of its own, since a low band is nothing like a high one
    conditions, widths, options: see `core.layers.conditional.ConditionalUNet`

    Frames and bands must be multiples of `stride`.
    """

    FRAMES = 64  # about a clip: positions in time are counted in it

    def __init__(
        self,
        bands: int,
        conditions: Conditions,
        widths: Sequence[int] = (64, 128),
        *,
        patch_size: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(2, 1, conditions, widths, patch_size=patch_size, extra=4, **options)
        self.frequency = nn.Parameter(torch.randn(2, bands))

    def forward(
        self,
        x: Float[Tensor, "batch 1 frames bands"],
        c_noise: Float[Tensor, " batch"],
        mask: Float[Tensor, "batch 1 maskframes 1"],
        cond: Mapping[str, Tensor],
    ) -> Float[Tensor, "batch outputs frames bands"]:
        check_size(x, self.stride, 2)
        batch, _, frames, bands = x.shape
        if bands != self.frequency.shape[1]:
            raise ValueError(f"bands={self.frequency.shape[1]}, but the codec's frames have {bands}")
        since = torch.arange(frames, device=x.device, dtype=x.dtype) / self.FRAMES
        length = mask[:, 0, :, 0].sum(1, keepdim=True) if not is_full(mask) else mask[:, 0, :, 0] * frames
        until = length.to(x.dtype) / self.FRAMES - since
        time = torch.stack([since.expand(batch, -1), until], dim=1)[..., None]  # (B, 2, frames, 1)
        where = [self.frequency[None, :, None].expand(batch, 2, frames, bands), time.expand(-1, -1, -1, bands)]
        return super().forward(torch.cat([x, *where], dim=1), c_noise, mask, cond)
