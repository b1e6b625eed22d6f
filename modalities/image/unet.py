"""The U-Net denoiser of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.layers.conditional import ConditionalUNet


class UNet2d(ConditionalUNet):
    """A U-Net over height and width, told the noise level and, if `num_classes`, the label.

    channels:    of the images
    num_classes: labels 0 ... num_classes-1 in `cond["label"]`; 0 for a network that ignores it
    widths:      channels of each level, finest first
    low:         whether it sees a smaller picture of as many channels, `cond["low"]` (B, C, H/f, W/f), beside x
    options:     see `core.layers.conditional.ConditionalUNet`
    """

    def __init__(
        self, channels: int, num_classes: int, widths: Sequence[int] = (32, 64), *, low: bool = False, **options: Any
    ) -> None:
        extra = channels if low else 0
        super().__init__(2, channels, {"label": num_classes}, widths, extra=extra, **options)
        self.null = nn.Parameter(torch.zeros(channels, 1, 1)) if low else None  # a colour in place of no picture

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        c_noise: Float[Tensor, " batch"],
        mask: Float[Tensor, "batch 1 *masksize"],
        cond: Mapping[str, Tensor],
    ) -> Float[Tensor, "batch outputs height width"]:
        if self.null is not None:
            x = torch.cat([x, _enlarged(cond, self.null.to(x.dtype).expand_as(x))], dim=1)
        return super().forward(x, c_noise, mask, cond)


def _enlarged(cond: Mapping[str, Tensor], null: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """`cond["low"]`, each pixel repeated, and `null` where the condition is absent or dropped."""
    low = cond.get("low")
    if low is None:
        return null
    if any(large % small for large, small in zip(null.shape, low.shape, strict=True)):
        raise ValueError(f"cond['low'] has shape {tuple(low.shape)}, which x of {tuple(null.shape)} is no multiple of")
    large = F.interpolate(low.to(null.dtype), null.shape[2:], mode="nearest")
    return large if "drop" not in cond else torch.where(cond["drop"].bool()[:, None, None, None], null, large)
