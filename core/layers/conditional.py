"""The U-Net body with what it is told: a denoiser over one or two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from core.layers import init
from core.layers.blocks import Style
from core.layers.embedding import ConditionEmbedding, Features, LogSnrFeatures
from core.layers.unet import UNet


class ConditionalUNet(nn.Module):
    """A U-Net over `dims` axes, told the noise level and the categorical `conditions`.

    dims, channels:   1 or 2 axes; channels of the data (the output has as many)
    conditions:       name -> values (or their number), see `core.layers.embedding.Conditions`; {} ignores `cond`
    widths:           channels of each level, finest first
    extra:            input channels beside the data's that a subclass concatenates, of the data's resolution
    embedding:        width of the vector of noise level and conditions; 4 widths[0] unless given
    blocks, attention, patch_size, checkpoint: see `core.layers.unet.UNet`
    features:         of c_noise; the default, `LogSnrFeatures(widths[0])`, wants a log-SNR
    learned_variance: the output has twice the channels, the second half for the variance (Nichol & Dhariwal 2021)
    glorot:           initial weights of Ho et al. (2020); false: those of PyTorch, better in short trainings
    style:            the blocks' options by name, see `core.layers.blocks.Style`: film, dropout, groups, ...

    Lengths must be multiples of `stride` = patch_size * 2^(levels - 1); others are refused, not padded.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        conditions: Mapping[str, Sequence[str] | int],
        widths: Sequence[int],
        *,
        extra: int = 0,
        embedding: int | None = None,
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
        embedding = embedding or 4 * widths[0]
        self.embed = ConditionEmbedding(features or LogSnrFeatures(widths[0]), embedding, conditions)
        self.body = UNet(
            channels + extra,
            2 * channels if learned_variance else channels,
            widths,
            Style(dims=dims, embedding=embedding, **style),
            blocks=blocks,
            attention=attention,
            patch_size=patch_size,
            checkpoint=checkpoint,
        )
        if glorot:
            init.glorot(self)

    @property
    def stride(self) -> int:
        return self.body.stride

    def forward(
        self,
        x: Float[Tensor, "batch channels *size"],
        c_noise: Float[Tensor, " batch"],
        mask: Float[Tensor, "batch 1 *masksize"],
        cond: Mapping[str, Tensor],
    ) -> Float[Tensor, "batch outputs *size"]:
        return self.body(x, self.embed(c_noise, cond), mask)
