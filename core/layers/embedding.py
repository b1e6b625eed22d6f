"""What a denoiser is told beside its input: the noise level, and categorical conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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


class Conditions(nn.Module):
    """The sum of one learned vector for each categorical condition, with one for "none", the null of guidance.

    conditions: by name, the names of its values or their number; value k of a sample stands in `cond[name]` (B,).
    """

    def __init__(self, conditions: Mapping[str, Sequence[str] | int], width: int) -> None:
        super().__init__()
        counts = {name: values if isinstance(values, int) else len(values) for name, values in conditions.items()}
        # Row 0 is the null, value k is row k + 1: so a value past the last is an error, not silently the null.
        self.tables = nn.ModuleDict({name: nn.Embedding(count + 1, width) for name, count in counts.items() if count})

    def forward(self, cond: Mapping[str, Tensor], batch: int) -> Float[Tensor, "batch width"]:
        """Rows of `cond[name]`, null where `cond["drop"]` (B,) is true and for a condition that is absent."""
        for name, table in self.tables.items():
            assert isinstance(table, nn.Embedding)
            self._check(name, cond.get(name), table.num_embeddings - 1)
        vectors = [self._rows(table, cond.get(name), cond.get("drop"), batch) for name, table in self.tables.items()]
        return torch.stack(vectors).sum(0)

    @staticmethod
    def _check(name: str, value: Tensor | None, count: int) -> None:
        """ValueError for what is no value, where no GPU has to wait for it; there a value past the last is an error."""
        if value is None or value.device.type != "cpu":
            return
        wrong = (value < 0) | (value >= count) | (value != value.long())
        if bool(wrong.any()):
            raise ValueError(f"{name}={value[wrong][0].item()}: must be a whole number from 0 to {count - 1}")

    @staticmethod
    def _rows(table: nn.Module, value: Tensor | None, drop: Tensor | None, batch: int) -> Tensor:
        assert isinstance(table, nn.Embedding)
        if value is None:
            return table.weight[:1].expand(batch, -1)
        row = value.long() + 1
        return table(row if drop is None else row.masked_fill(drop.bool(), 0))


class ConditionEmbedding(nn.Module):
    """Noise level and conditions as one vector per sample, ready (after its SiLU) for each block's linear projection.

    features:   turns c_noise (B,) into (B, features.width): `LogSnrFeatures` or `StepFeatures`
    conditions: see `Conditions`; {} for a network that ignores `cond`
    """

    def __init__(
        self, features: Features, width: int, conditions: Mapping[str, Sequence[str] | int] | None = None
    ) -> None:
        super().__init__()
        self.features = features
        self.noise = nn.Sequential(nn.Linear(features.width, width), nn.SiLU(), nn.Linear(width, width))
        known = Conditions(conditions or {}, width)
        self.conditions = known if known.tables else None

    def forward(self, c_noise: Float[Tensor, " batch"], cond: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        embedding = self.noise(self.features(c_noise).to(self.noise[0].weight.dtype))
        if self.conditions is not None:
            embedding = embedding + self.conditions(cond, len(c_noise))
        return F.silu(embedding)
