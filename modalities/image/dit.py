"""The transformer denoiser of images (DiT: Peebles & Xie 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.batch import is_full
from core.layers.attention import SelfAttention
from core.layers.embedding import ConditionEmbedding, Features, LogSnrFeatures, frequencies, sinusoids
from core.layers.init import glorot, zero
from core.layers.masks import masked, pool_mask, spatial_mask
from core.layers.patches import check_size, patchify, unpatchify


def positions(height: int, width: int, features: int, device: torch.device | None = None) -> Float[Tensor, "cells f"]:
    """Fixed sinusoidal features of a grid's rows (first half of the features) and columns, row by row.

    The frequencies run from 1 to 1/10000, as in the transformer. `features` must be a multiple of 4.
    """
    waves = frequencies(features // 4, 1, 1e-4).to(device)
    rows = sinusoids(torch.arange(height, device=device), waves)[:, None].expand(-1, width, -1)
    columns = sinusoids(torch.arange(width, device=device), waves)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1)


def modulate(x: Float[Tensor, "b n w"], shift: Float[Tensor, "b w"], scale: Float[Tensor, "b w"]) -> Tensor:
    """x (1 + scale) + shift, the same for every token."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


def normalise(x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
    """Layer normalisation of each token, without weights: the modulation has them."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each scaled, shifted and gated by the embedding (adaLN-zero).

    The gates start at 0, and so the block as the identity.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, embedding: int, dropout: float) -> None:
        super().__init__()
        hidden = int(mlp_ratio * width)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.modulation = zero(nn.Linear(embedding, 6 * width))

    def forward(
        self, x: Float[Tensor, "b n w"], embedding: Float[Tensor, "b e"], real: Bool[Tensor, "b n"] | None
    ) -> Float[Tensor, "b n w"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding).chunk(6, dim=-1)
        x = torch.addcmul(x, gate1[:, None], self.attention(modulate(normalise(x), shift1, scale1), real))
        return torch.addcmul(x, gate2[:, None], self.mlp(modulate(normalise(x), shift2, scale2)))


class DiT(nn.Module):
    """A transformer over the patches of an image, told the noise level and, if `num_classes`, the label.

    channels, num_classes, features, learned_variance, checkpoint: as of `modalities.image.unet.UNet2d`
    width, depth, heads, mlp_ratio: of the transformer; `width` must be a multiple of 4 and of `heads`
    patch_size: height and width must be multiples of it; others are refused, not padded
    dropout:    probability, in the perceptrons

    DiT-S/2 is width 384, depth 12, 6 heads, patches of 2; B, L and XL are 768 x 12, 1024 x 24, 1152 x 28.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        width: int = 96,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 4,
        patch_size: int = 4,
        dropout: float = 0,
        features: Features | None = None,
        learned_variance: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"{width=} is not a multiple of 4, which the sines and cosines of two axes need")
        self.patch_size, self.width, self.checkpoint = patch_size, width, checkpoint
        self.embed = ConditionEmbedding(features or LogSnrFeatures(width), width, {"label": num_classes})
        self.patches = nn.Linear(channels * patch_size**2, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, mlp_ratio, width, dropout) for _ in range(depth))
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.out = zero(nn.Linear(width, (2 * channels if learned_variance else channels) * patch_size**2))
        glorot(self)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        c_noise: Float[Tensor, " batch"],
        mask: Float[Tensor, "batch 1 maskheight maskwidth"],
        cond: Mapping[str, Tensor],
    ) -> Float[Tensor, "batch outputs height width"]:
        check_size(x, self.patch_size, dims=2)
        mask = spatial_mask(mask, x)
        embedding = self.embed(c_noise, cond)
        cells = pool_mask(mask, self.patch_size)
        real = None if is_full(cells) else cells.flatten(1) > 0

        patches = patchify(masked(x, mask), self.patch_size)
        height, width = patches.shape[2:]
        tokens = self.patches(patches.flatten(2).transpose(1, 2))
        tokens = tokens + positions(height, width, self.width, x.device).to(tokens.dtype)
        for block in self.blocks:
            if self.checkpoint and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, embedding, real, use_reentrant=False)
            else:
                tokens = block(tokens, embedding, real)
        shift, scale = self.modulation(embedding).chunk(2, dim=-1)
        patches = self.out(modulate(normalise(tokens), shift, scale)).transpose(1, 2).unflatten(2, (height, width))
        return masked(unpatchify(patches, self.patch_size), mask)
