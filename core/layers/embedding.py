"""What a denoiser is told beside its input: the noise level, and a class label."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def sinusoids(x: Float[Tensor, "*shape"], frequencies: Float[Tensor, " half"]) -> Float[Tensor, "*shape features"]:
    """(sin(w_1 x), ..., sin(w_n x), cos(w_1 x), ..., cos(w_n x)) for angular frequencies w, in float32."""
    angle = x.float()[..., None] * frequencies.float()
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def frequencies(number: int, highest: float, lowest: float) -> Float[Tensor, " number"]:
    """`number` angular frequencies, log-spaced from `highest` down to `lowest`, both included."""
    return torch.logspace(math.log10(highest), math.log10(lowest), number, dtype=torch.float64).float()


class Features(nn.Module):
    """Sinusoidal features of a number: (B,) -> (B, width), half sines, then half cosines."""

    frequencies: Tensor

    def __init__(self, frequencies: Float[Tensor, " half"]) -> None:
        super().__init__()
        self.width = 2 * len(frequencies)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
        return sinusoids(x, self.frequencies)


class LogSnrFeatures(Features):
    """Features of a log-SNR in [-20, 20].

    The slowest sinusoid makes half a turn over the range, so that no two levels look alike; the fastest has a period of
    2, about the change in log-SNR that a network can tell apart without being made rough in it.
    """

    def __init__(self, width: int) -> None:
        super().__init__(frequencies(width // 2, math.pi, math.pi / 40))


class StepFeatures(Features):
    """Features of a step number 0 ... T-1, as Ho et al. (2020) take them from the transformer (Vaswani et al. 2017).

    The frequencies are log-spaced from 1 to 1/max_period, both included; the step is multiplied by `scale` first.
    """

    def __init__(self, width: int, max_period: float = 10_000, scale: float = 1) -> None:
        super().__init__(frequencies(width // 2, scale, scale / max_period))


class LabelEmbedding(nn.Module):
    """One learned vector per class, and one for "no label", the null that classifier-free guidance needs."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        # Row 0 is the null, class k is row k + 1: so a label past the last class is an error, not silently the null.
        self.table = nn.Embedding(num_classes + 1, width)

    def forward(self, cond: Mapping[str, Tensor], batch: int) -> Float[Tensor, "batch width"]:
        """Rows of `cond["label"]` (B,), null where `cond["drop"]` (B,) is true or the label is absent."""
        label = cond.get("label")
        if label is None:
            return self.table.weight[:1].expand(batch, -1)
        row = label.long() + 1
        if "drop" in cond:
            row = row.masked_fill(cond["drop"].bool(), 0)
        return self.table(row)


class ConditionEmbedding(nn.Module):
    """Noise level and label as one vector per sample, ready (after its SiLU) for each block's linear projection.

    features:    turns c_noise (B,) into (B, features.width): `LogSnrFeatures` or `StepFeatures`
    num_classes: 0 for a network without labels, which then ignores `cond`
    """

    def __init__(self, features: Features, width: int, num_classes: int = 0) -> None:
        super().__init__()
        self.features = features
        self.noise = nn.Sequential(nn.Linear(features.width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = LabelEmbedding(num_classes, width) if num_classes else None

    def forward(self, c_noise: Float[Tensor, " batch"], cond: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        embedding = self.noise(self.features(c_noise).to(self.noise[0].weight.dtype))
        if self.label is not None:
            embedding = embedding + self.label(cond, len(c_noise))
        return F.silu(embedding)
