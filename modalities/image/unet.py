"""The U-Net denoiser of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from core.layers import init
from core.layers.blocks import Style
from core.layers.embedding import ConditionEmbedding, Features, LogSnrFeatures
from core.layers.unet import UNet


class UNet2d(nn.Module):
    """A U-Net over height and width, told the noise level and, if `num_classes`, the label.

    channels:         of the images
    num_classes:      labels 0 ... num_classes-1 in `cond["label"]`; 0 for a network that ignores `cond`
    widths:           channels of each level, finest first
    blocks, attention, patch_size, checkpoint: see `core.layers.unet.UNet`
    features:         of c_noise; the default, `LogSnrFeatures(widths[0])`, wants a log-SNR
    learned_variance: the output has twice the channels, the second half for the variance (Nichol & Dhariwal 2021)
    glorot:           initial weights of Ho et al. (2020); false: those of PyTorch, better in short trainings
    style:            the blocks' options by name, see `core.layers.blocks.Style`: film, dropout, groups, ...

    Height and width must be multiples of patch_size * 2^(levels - 1); others are refused, not padded.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        widths: Sequence[int] = (32, 64),
        *,
        blocks: int = 1,
        attention: Sequence[int] = (),
        patch_size: int = 1,
        features: Features | None = None,
        learned_variance: bool = False,
        checkpoint: bool = False,
        glorot: bool = False,
        **style: Any,
    ) -> None:
        super().__init__()
        embedding = 4 * widths[0]
        self.embed = ConditionEmbedding(features or LogSnrFeatures(widths[0]), embedding, num_classes)
        self.body = UNet(
            channels,
            2 * channels if learned_variance else channels,
            widths,
            Style(dims=2, embedding=embedding, **style),
            blocks=blocks,
            attention=attention,
            patch_size=patch_size,
            checkpoint=checkpoint,
        )
        if glorot:
            init.glorot(self)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        c_noise: Float[Tensor, " batch"],
        mask: Float[Tensor, "batch 1 maskheight maskwidth"],
        cond: Mapping[str, Tensor],
    ) -> Float[Tensor, "batch outputs height width"]:
        return self.body(x, self.embed(c_noise, cond), mask)
