"""How a cost grows: the exponent of c n^p, and the line a + b n^q where it describes the cost better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UPPER = 4  # points that the exponent is fitted on: at the lower ones fixed costs hide it
ENOUGH = 4  # points that decide between the two laws, of two numbers each
NEAR = 0.3  # by how much (of a logarithm) a line may miss a point, if it is to be given


@dataclass(frozen=True)
class Power:
    """cost = factor n^exponent, by least squares of the logarithms.

    error: the standard error of the exponent by the residuals, None of two points. It tells how far the points are from
    a straight line, be it by chance or because they follow another law.
    """

    exponent: float
    error: float | None
    factor: float

    def __call__(self, n: float) -> float:
        return float(self.factor * n**self.exponent)

    def __str__(self) -> str:
        return f"{self.exponent:.2f}" + ("" if self.error is None else f" ± {self.error:.2f}")


@dataclass(frozen=True)
class Affine:
    """cost = fixed + each n^power, by least squares of the relative residuals; with standard errors."""

    fixed: float
    fixed_error: float
    each: float
    each_error: float
    power: float

    def __call__(self, n: float) -> float:
        return float(self.fixed + self.each * n**self.power)

    def __str__(self) -> str:
        return f"{self.fixed:.2g} + {self.each:.2g} n" + ("" if self.power == 1 else f"^{self.power:g}")


@dataclass(frozen=True)
class Growth:
    """power: of the upper points. last: the exponent of the last doubling alone, which tells whether it still rises.

    affine: of all points, where both of its numbers are positive, it is nearer to them than any power law, and near to
    each.
    """

    power: Power
    last: float
    affine: Affine | None


def growth(n: Sequence[float], costs: Sequence[float], power: float = 1.0) -> Growth:
    """n: increasing, at least two; costs: positive, in any unit. power: of n in the affine law; 0 for none."""
    line = affine(n, costs, power) if power and len(n) >= ENOUGH else None
    if line is not None and not (min(line.fixed, line.each) > 0 and _is_better(line, n, costs)):
        line = None
    last = math.log(costs[-1] / costs[-2]) / math.log(n[-1] / n[-2])
    return Growth(fit(n[-UPPER:], costs[-UPPER:]), last, line)


def fit(n: Sequence[float], costs: Sequence[float]) -> Power:
    """The power law that is nearest to all of the points."""
    (log_factor, exponent), (_, error) = _least_squares(np.log(n), np.log(costs), np.ones(len(n)))
    return Power(exponent, error if math.isfinite(error) else None, math.exp(log_factor))


def affine(n: Sequence[float], costs: Sequence[float], power: float = 1.0) -> Affine:
    """The line in n^power that is nearest to all of the points; of at least three."""
    y = np.asarray(costs, dtype=float)
    (fixed, each), (fixed_error, each_error) = _least_squares(np.asarray(n, dtype=float) ** power, y, 1 / y)
    return Affine(fixed, fixed_error, each, each_error, power)


def _least_squares(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(a, b) of y = a + b x with residuals times weights, and their standard errors, infinite of two points."""
    columns = np.stack([np.ones_like(x), x], axis=1) * weights[:, None]
    scales = np.linalg.norm(columns, axis=0)  # x^2 can be a million times 1: without them digits are lost
    columns, target = columns / scales, y * weights
    found, *_ = np.linalg.lstsq(columns, target, rcond=None)
    free = len(x) - 2
    variance = float(((target - columns @ found) ** 2).sum()) / free if free else math.inf
    errors = np.sqrt(variance * np.diag(np.linalg.inv(columns.T @ columns))) / scales
    a, b = found / scales
    return (float(a), float(b)), (float(errors[0]), float(errors[1]))


def _is_better(line: Affine, n: Sequence[float], costs: Sequence[float]) -> bool:
    lines, powers = _off(line, n, costs), _off(fit(n, costs), n, costs)
    return max(map(abs, lines)) <= NEAR and math.hypot(*lines) < math.hypot(*powers)


def _off(law: Power | Affine, n: Sequence[float], costs: Sequence[float]) -> list[float]:
    """How far a law is from each point: the logarithm of their ratio."""
    return [math.log(law(one) / cost) for one, cost in zip(n, costs, strict=True)]
