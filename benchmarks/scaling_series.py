"""One series of `benchmarks.scaling`: what was measured at its points, and how it grows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from benchmarks.scaling_fits import Growth, growth


@dataclass(frozen=True)
class Series:
    """unit: of n. proportional: the power of n that the amount of data, or of weights, grows with; the affine law's.

    seconds: medians; low, high: the fastest and the slowest round. bytes: None where they cannot be told.
    """

    modality: str
    axis: str
    work: str
    unit: str
    proportional: float
    n: list[float]
    seconds: list[float]
    low: list[float]
    high: list[float]
    bytes: list[float] | None

    @classmethod
    def of(
        cls,
        modality: str,
        axis: str,
        work: str,
        unit: str,
        proportional: float,
        n: Sequence[float],
        seconds: Sequence[Sequence[float]],
        memory: Sequence[float | None],
    ) -> Series:
        """seconds: of each point, in each round."""
        middle, low, high = (_rounded(map(of, seconds)) for of in (statistics.median, min, max))
        known = [one for one in memory if one]
        sizes = known if len(known) == len(n) else None  # a point without any has no logarithm
        return cls(modality, axis, work, unit, proportional, list(n), middle, low, high, sizes)

    @cached_property
    def time(self) -> Growth:
        return growth(self.n, self.seconds, self.proportional)

    @cached_property
    def memory(self) -> Growth | None:
        return None if self.bytes is None else growth(self.n, self.bytes, self.proportional)

    def content(self) -> dict[str, Any]:
        """For JSON: what was measured, and the fits."""
        fits = {"time": self.time, "memory": self.memory}
        return asdict(self) | {name: None if one is None else asdict(one) for name, one in fits.items()}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Series:
        return cls(**{name: content[name] for name in cls.__dataclass_fields__})


def _rounded(values: Any) -> list[float]:
    """To what the clock can tell."""
    return [float(f"{value:.4g}") for value in values]
