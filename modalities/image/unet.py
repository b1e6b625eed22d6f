"""The U-Net denoiser of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.layers.conditional import ConditionalUNet


class UNet2d(ConditionalUNet):
    """A U-Net over height and width, told the noise level and, if `num_classes`, the label.

    channels:    of the images
    num_classes: labels 0 ... num_classes-1 in `cond["label"]`; 0 for a network that ignores `cond`
    widths:      channels of each level, finest first
    options:     see `core.layers.conditional.ConditionalUNet`
    """

    def __init__(self, channels: int, num_classes: int, widths: Sequence[int] = (32, 64), **options: Any) -> None:
        super().__init__(2, channels, {"label": num_classes}, widths, **options)
