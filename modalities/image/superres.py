"""Pictures given themselves with fewer pixels: the coordinates of a model that enlarges."""

from __future__ import annotations

from torch import Tensor

from core.batch import Batch
from modalities.image.codec import Pixels
from modalities.image.measurements import Downsample


class Enlarging(Pixels):
    """`Pixels`, with the means over squares of `factor` x `factor` of them as the condition `low` (B, C, H/f, W/f)."""

    conditions = ("low",)

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.small = Downsample(factor)

    def encode(self, batch: Batch) -> Batch:
        encoded = super().encode(batch)
        return Batch(encoded.x, encoded.mask, {**encoded.cond, "low": self.small(encoded.x)})

    def decode(self, batch: Batch) -> Batch:
        decoded = super().decode(batch)
        cond: dict[str, Tensor] = {name: value for name, value in decoded.cond.items() if name != "low"}
        return Batch(decoded.x, decoded.mask, cond)
