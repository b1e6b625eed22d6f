"""Self-attention over tokens, and over the positions of a feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.batch import is_full
from core.layers.init import zero
from core.layers.norm import GroupNorm


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens (Vaswani et al. 2017); give `heads` or the `head_width`.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int = 1, head_width: int | None = None) -> None:
        super().__init__()
        if width % (head_width or heads):
            raise ValueError(f"{width} channels cannot be split into {heads=}, {head_width=}: these must divide them")
        self.heads = width // head_width if head_width else heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        real: Bool[Tensor, "batch tokens"] | None = None,
        bias: Float[Tensor, "batch heads tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """real: the tokens that may be attended to; None for all. bias: added to the logits of each head and pair."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, tokens, head width)
        query, key, value = qkv.unbind()
        mask = None if real is None else real[:, None, None, :]
        if bias is not None:
            mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class SpatialAttention(nn.Module):
    """x + attention(norm(x)) over the real positions of a feature map; starts as the identity."""

    def __init__(self, channels: int, groups: int, eps: float, heads: int = 1, head_width: int | None = None) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps)
        self.attention = SelfAttention(channels, heads, head_width)
        zero(self.attention.out)

    def forward(
        self, x: Float[Tensor, "batch channels *size"], mask: Float[Tensor, "batch 1 *masksize"]
    ) -> Float[Tensor, "batch channels *size"]:
        tokens = self.norm(x, mask).flatten(2).transpose(1, 2)
        attended = self.attention(tokens, None if is_full(mask) else mask.flatten(1) > 0)
        return x + attended.transpose(1, 2).reshape(x.shape)
