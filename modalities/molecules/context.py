"""What every atom is told: the noise level, its molecule's size and wanted properties, and whether it is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser import Cond
from core.layers.embedding import frequencies, sinusoids

LEVELS = 8  # sinusoids of the log-SNR: half sines, half cosines
USUAL_SIZE = 29  # atoms: what the size is told in units of, the largest of QM9


def sizes(mask: Float[Tensor, "b n 1"]) -> Float[Tensor, " b"]:
    """The number of atoms of each molecule."""
    return mask[..., 0].sum(1)


class Staying(nn.Module):
    """What each atom is told of itself: whether it is one of those that are known. It begins without effect."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, h: Float[Tensor, "b n width"], cond: Cond) -> Float[Tensor, "b n width"]:
        keep = cond.get("keep")
        return h if keep is None else h + keep[..., :1].to(h) * self.weight


class Context(nn.Module):
    """(B, width) plain numbers of order 1: sinusoids of c_noise, c_noise / 10, n / 29, and the properties.

    properties: by name, the mean and the standard deviation of its values in the training data. Each takes two columns:
    the standardised value, and 1; both are 0 where the property is absent or dropped, the null of guidance.
    """

    frequencies: Tensor

    def __init__(self, properties: Mapping[str, Sequence[float]] | None = None) -> None:
        super().__init__()
        self.properties = {name: (float(mean), float(std)) for name, (mean, std) in (properties or {}).items()}
        for name, (_, std) in self.properties.items():
            if not std > 0:
                raise ValueError(f"properties.{name}: a standard deviation of {std}; must be above 0")
        self.register_buffer("frequencies", frequencies(LEVELS // 2, math.pi / 2, math.pi / 40), persistent=False)
        self.width = LEVELS + 2 + 2 * len(self.properties)

    def forward(self, c_noise: Float[Tensor, " b"], mask: Float[Tensor, "b n 1"], cond: Cond) -> Float[Tensor, "b w"]:
        known = [c_noise / 10, sizes(mask).to(c_noise) / USUAL_SIZE]
        for name, (mean, std) in self.properties.items():
            value = cond.get(name)
            if value is None:
                known += [torch.zeros_like(c_noise)] * 2
                continue
            drop = cond.get("drop")
            present = torch.ones_like(c_noise) if drop is None else 1 - drop.to(c_noise)
            known += [(value.to(c_noise) - mean) / std * present, present]
        return torch.cat([sinusoids(c_noise, self.frequencies).to(c_noise), torch.stack(known, 1)], 1)
