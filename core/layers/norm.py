"""Group normalisation that does not see padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.batch import is_full


def over_positions(
    channels: Float[Tensor, "batch channels"], x: Float[Tensor, "batch channels *size"]
) -> Float[Tensor, "batch channels *ones"]:
    """Values per channel, the same at every position of x: (B, C) -> (B, C, 1, ..., 1), in the dtype of x."""
    return channels.to(x.dtype).reshape(*channels.shape, *[1] * (x.ndim - 2))


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) with statistics over the real positions only.

    With a mask, mean and variance of each group are sums over its channels and real positions, divided by their number;
    what the padding holds changes nothing. A full mask takes the plain `F.group_norm`.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(
                f"{channels} channels cannot be normalised in {groups} groups: the number must divide them"
            )
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Float[Tensor, "batch channels *size"], mask: Float[Tensor, "batch 1 *masksize"]
    ) -> Float[Tensor, "batch channels *size"]:
        if is_full(mask):
            return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        normal = self._normalise(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, mask)
        return torch.addcmul(
            over_positions(self.bias[None], normal), normal, over_positions(self.weight[None], normal)
        ).to(x.dtype)

    def _normalise(self, x: Tensor, mask: Tensor) -> Tensor:
        # (B, groups, channels of a group x positions); the mask repeats over a group's channels
        grouped = x.reshape(x.shape[0], self.groups, -1)
        real = mask.to(x.dtype).expand(-1, x.shape[1] // self.groups, *x.shape[2:]).reshape(x.shape[0], 1, -1)
        count = real.sum(-1, keepdim=True).clamp_min(1)
        centred = grouped - (grouped * real).sum(-1, keepdim=True) / count
        variance = (centred.square() * real).sum(-1, keepdim=True) / count
        return (centred * torch.rsqrt(variance + self.eps)).reshape(x.shape)
