"""Settings of one model as points of cost and quality: which of them no other beats, and which one to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot, inf, isfinite

Values = dict[str, float]
COSTS = {"nfe": "network evaluations of a sample", "seconds": "seconds of a sample"}


@dataclass(frozen=True)
class Cell:
    """One setting of a model's sampling, what a sample of it cost, and how good its samples are.

    evaluations: of a sample's path that were allowed; steps: of the sampler within them; scale: of guidance, 1 for
    none; nfe: passes of the network for each sample, twice as many with guidance; seconds: for each sample; memory: the
    most of the process (on a GPU: of its tensors) while it drew, in bytes, None where it cannot be told. values,
    errors: the figures and their standard errors. samples: where they lie, from
    the comparison's folder.
    """

    key: str
    sampler: str
    evaluations: int
    steps: int
    scale: float
    nfe: float
    seconds: float
    memory: float | None
    values: Values
    errors: Values
    samples: str

    @property
    def label(self) -> str:
        return f"{self.sampler}, {self.evaluations} evaluations, guidance {self.scale:g}"

    def cost(self, name: str) -> float:
        return float({"nfe": self.nfe, "seconds": self.seconds}[name])

    def has(self, figure: str) -> bool:
        return isfinite(self.values.get(figure, inf))


@dataclass(frozen=True)
class Board:
    """The cells of one modality's model, and what they are compared with.

    floor, floor_errors: the same figures of other held-out data, as many as the samples. lower_is_better: names of
    figures. headline: the figure that settles which setting to use.
    """

    name: str
    checkpoint: str
    digest: str
    data: str
    instrument: str | None
    n: int
    headline: str
    lower_is_better: Sequence[str]
    floor: Values
    floor_errors: Values
    floor_samples: str
    cells: Sequence[Cell] = field(default=())

    @property
    def figures(self) -> list[str]:
        """Those of real data or of any cell; the headline first."""
        every = [self.floor, *(cell.values for cell in self.cells)]
        return list(dict.fromkeys([self.headline, *(figure for values in every for figure in values)]))

    def loss(self, cell: Cell, figure: str) -> float:
        """The figure, or its negative where higher is better: smaller is better of all."""
        return cell.values[figure] if figure in self.lower_is_better else -cell.values[figure]

    def front(self, figure: str, cost: str) -> list[Cell]:
        """The cells that no other beats in this figure and this cost, by rising cost."""
        known = [cell for cell in self.cells if cell.has(figure)]
        kept = front([(cell.cost(cost), self.loss(cell, figure)) for cell in known])
        return sorted((known[place] for place in kept), key=lambda cell: (cell.cost(cost), self.loss(cell, figure)))

    @property
    def best(self) -> Cell | None:
        """The best cell by the headline."""
        known = [cell for cell in self.cells if cell.has(self.headline)]
        return min(known, key=lambda cell: self.loss(cell, self.headline), default=None)

    @property
    def advised(self) -> Cell | None:
        """The cell of fewest passes whose headline is within two errors (of the difference) of the best one's."""
        best, figure = self.best, self.headline
        if best is None:
            return None
        near = [
            cell
            for cell in self.cells
            if cell.has(figure)
            and self.loss(cell, figure) - self.loss(best, figure) <= 2 * hypot(cell.errors[figure], best.errors[figure])
        ]
        return min(near, key=lambda cell: (cell.nfe, self.loss(cell, figure)))

    @property
    def verdict(self) -> str:
        """What to use, in a sentence."""
        best, advised = self.best, self.advised
        if best is None or advised is None:
            return f"no setting has a {spaced(self.headline)}"
        text = f"best {spaced(self.headline)}: {self._said(best)}"
        if advised.key == best.key:
            return f"{text}; none that is cheaper is within two errors of it"
        return f"{text}; fewest evaluations within two errors of it: {self._said(advised)}"

    def _said(self, cell: Cell) -> str:
        quality = worded(cell.values[self.headline], cell.errors[self.headline])
        return f"{cell.label} ({quality}; NFE {cell.nfe:g}, {cell.seconds:.3g} s a sample)"


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points that no other dominates: is as good in both coordinates, and better in one."""
    return [
        place
        for place, (a, b) in enumerate(points)
        if not any(c <= a and d <= b and (c < a or d < b) for c, d in points)
    ]


def worded(value: float | None, error: float | None) -> str:
    """A figure and its error; a dash for one that is not there."""
    if value is None or not isfinite(value):
        return "-"
    return f"{value:.3g}" if error is None or not isfinite(error) else f"{value:.3g} ± {error:.2g}"


def spaced(name: str) -> str:
    return name.replace("_", " ")
