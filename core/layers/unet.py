"""The one body of all the U-Nets, over one or two axes (Ronneberger et al. 2015; Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.layers.blocks import Block, Downsample, Style, Upsample
from core.layers.init import convolution, zero
from core.layers.masks import masked, pool_mask, spatial_mask
from core.layers.norm import GroupNorm
from core.layers.patches import check_size, patchify, unpatchify


class UNet(nn.Module):
    """A U-Net whose output starts at exactly 0, and on whose real positions padding has no influence.

    Each level has `blocks` residual blocks on the way down and one more on the way up; every feature map of the way
    down (the first convolution and the downsamplings included) is concatenated to the input of a block on the way up.
    The middle, at the coarsest resolution, is a block with attention and one without.

    inputs, outputs: channels of the data and of the result
    widths:          channels of each level, finest first; the resolution halves from one to the next
    blocks:          residual blocks per level
    attention:       the levels with self-attention after each block, 0 the finest
    patch_size:      the network works on patches of so many positions per axis, folded into the channels
    checkpoint:      recompute each block's activations in the backward pass: less memory, about a third more time
    style:           the blocks' common options

    Raises:
        ValueError: options that do not fit together; in forward, a size that is not a multiple of `stride`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        style: Style,
        *,
        blocks: int = 1,
        attention: Sequence[int] = (),
        patch_size: int = 1,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        levels = range(len(widths))  # 0 the finest
        if blocks < 1:
            raise ValueError(f"{blocks=}: each level needs at least one")
        if not set(attention) <= set(levels):
            raise ValueError(f"attention={list(attention)} names levels that are not among {list(levels)}")
        self.dims, self.patch_size, self.checkpoint = style.dims, patch_size, checkpoint
        self.levels = len(widths)
        self.stride = patch_size * 2 ** (self.levels - 1)
        folded = patch_size**style.dims

        self.conv_in = convolution(style.dims, inputs * folded, widths[0])
        skips = [widths[0]]  # channels of the feature maps that the way up will concatenate
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            for _ in range(blocks):
                self.down.append(Block(skips[-1], width, style, level in attention))
                skips.append(width)
            if level < levels[-1]:
                self.down.append(Downsample(width, style))
                skips.append(width)

        self.middle = nn.ModuleList(Block(widths[-1], widths[-1], style, attends) for attends in (True, False))

        self.up = nn.ModuleList()
        before = widths[-1]
        for level in reversed(levels):
            for _ in range(blocks + 1):
                self.up.append(Block(before + skips.pop(), widths[level], style, level in attention))
                before = widths[level]
            if level > 0:
                self.up.append(Upsample(before, style))

        self.norm_out = GroupNorm(style.groups, widths[0], style.eps)
        self.conv_out = zero(convolution(style.dims, widths[0], outputs * folded))

    def forward(
        self,
        x: Float[Tensor, "batch inputs *size"],
        embedding: Float[Tensor, "batch width"],
        mask: Float[Tensor, "batch 1 *masksize"],
    ) -> Float[Tensor, "batch outputs *size"]:
        check_size(x, self.stride, self.dims)
        mask = spatial_mask(mask, x)
        masks = [pool_mask(mask, self.patch_size)]  # one per level, finest first
        for _ in range(self.levels - 1):
            masks.append(pool_mask(masks[-1], 2))

        h = self.conv_in(patchify(masked(x, mask), self.patch_size))
        skips, level = [h], 0
        for module in self.down:
            if isinstance(module, Downsample):
                h = module(h, masks[level])
                level += 1
            else:
                h = self._run(module, h, embedding, masks[level])
            skips.append(h)
        for block in self.middle:
            h = self._run(block, h, embedding, masks[level])
        for module in self.up:
            if isinstance(module, Upsample):
                level -= 1
                h = module(h, masks[level])
            else:
                h = self._run(module, torch.cat((h, skips.pop()), dim=1), embedding, masks[level])
        h = self.conv_out(masked(F.silu(self.norm_out(h, masks[0])), masks[0]))
        return masked(unpatchify(h, self.patch_size), mask)

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)
