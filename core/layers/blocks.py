"""The blocks of a U-Net over one or two axes; each takes the mask of its own resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.layers.attention import SpatialAttention
from core.layers.init import convolution, zero
from core.layers.masks import masked
from core.layers.norm import GroupNorm, over_positions


@dataclass(frozen=True)
class Style:
    """What all the blocks of a network have in common.

    dims:       number of spatial axes, 1 or 2
    embedding:  width of the vector that carries noise level and conditions
    film:       that vector scales and shifts the second norm's output (Nichol & Dhariwal 2021; FiLM); false: it is
                added before that norm (Ho et al. 2020)
    dropout:    probability, before the second convolution
    groups:     of the group norms, and eps added to their variance
    heads:      of the attention, or head_width, their channels
    asymmetric: stride-2 convolutions pad only after the last position, as in Ho et al.'s TensorFlow; false: both sides
    """

    dims: int
    embedding: int
    film: bool = True
    dropout: float = 0
    groups: int = 8
    eps: float = 1e-5
    heads: int = 1
    head_width: int | None = None
    asymmetric: bool = False


class ResidualBlock(nn.Module):
    """x + conv(dropout(SiLU(norm(conv(SiLU(norm(x))))))), the second norm modulated by the embedding.

    The last convolution starts at 0, and so the block as its skip connection.
    """

    def __init__(self, inputs: int, outputs: int, style: Style) -> None:
        super().__init__()
        self.film = style.film
        self.norm1 = GroupNorm(style.groups, inputs, style.eps)
        self.conv1 = convolution(style.dims, inputs, outputs)
        self.embedding = nn.Linear(style.embedding, outputs * (2 if style.film else 1))
        self.norm2 = GroupNorm(style.groups, outputs, style.eps)
        self.dropout = nn.Dropout(style.dropout)
        self.conv2 = zero(convolution(style.dims, outputs, outputs))
        self.skip = nn.Identity() if inputs == outputs else convolution(style.dims, inputs, outputs, kernel=1)

    def forward(
        self, x: Float[Tensor, "batch inputs *size"], embedding: Float[Tensor, "batch width"], mask: Tensor
    ) -> Float[Tensor, "batch outputs *size"]:
        h = self.conv1(masked(F.silu(self.norm1(x, mask)), mask))
        modulation = over_positions(self.embedding(embedding), h)
        if self.film:
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h, mask), 1 + scale)
        else:
            h = self.norm2(h + modulation, mask)
        h = self.conv2(masked(self.dropout(F.silu(h)), mask))
        return self.skip(x) + h


class Block(nn.Module):
    """A residual block, with self-attention after it if `attention`."""

    def __init__(self, inputs: int, outputs: int, style: Style, attention: bool) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, outputs, style)
        self.attention = (
            SpatialAttention(outputs, style.groups, style.eps, style.heads, style.head_width) if attention else None
        )

    def forward(
        self, x: Float[Tensor, "batch inputs *size"], embedding: Float[Tensor, "batch width"], mask: Tensor
    ) -> Float[Tensor, "batch outputs *size"]:
        h = self.residual(x, embedding, mask)
        return h if self.attention is None else self.attention(h, mask)


class Downsample(nn.Module):
    """Half the resolution, by a convolution of stride 2; takes the mask of its input."""

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        self.pad = (0, 1) * style.dims if style.asymmetric else ()
        self.conv = convolution(style.dims, channels, channels, stride=2, padding=0 if style.asymmetric else 1)

    def forward(self, x: Float[Tensor, "batch channels *size"], mask: Tensor) -> Float[Tensor, "batch channels *half"]:
        x = masked(x, mask)
        return self.conv(F.pad(x, self.pad) if self.pad else x)


class Upsample(nn.Module):
    """Double the resolution, by repeating the nearest value and a convolution; takes the mask of its output."""

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        self.conv = convolution(style.dims, channels, channels)

    def forward(self, x: Float[Tensor, "batch channels *half"], mask: Tensor) -> Float[Tensor, "batch channels *size"]:
        return self.conv(masked(F.interpolate(x, scale_factor=2, mode="nearest"), mask))
