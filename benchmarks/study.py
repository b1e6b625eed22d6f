"""What the study of quality against evaluations has found: its rows, and what they look like as tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from benchmarks.common import markdown_table

if TYPE_CHECKING:
    from rich.table import Table

MARKERS = "osD^vP*X<>h"
Values = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One sampler at one number of evaluations.

    evaluations: that were allowed to a sample; steps: of the sampler within them; nfe: passes of the network for each
    sample, twice as many with guidance; seconds: of CPU time for each sample. errors: bootstrap standard errors.
    """

    sampler: str
    times: str
    evaluations: int
    steps: int
    nfe: float
    seconds: float
    values: Values
    errors: Values

    @property
    def line(self) -> str:
        """A curve's name: the sampler, and its grid of times where that is not the model's own."""
        return self.sampler if self.times == "own" else f"{self.sampler}, {self.times}"

    @property
    def text(self) -> str:
        figures = ", ".join(f"{_spaced(name)} {_cell(value, self.errors[name])}" for name, value in self.values.items())
        return f"{self.line}, {self.evaluations} evaluations ({self.seconds:.3g} s a sample): {figures}"


@dataclass(frozen=True)
class Study:
    """The rows of one modality; the first is the reference that the others are compared with.

    real, real_errors: the same figures of other held-out data. lower_is_better: names of figures.
    """

    name: str
    data: str
    checkpoint: str
    n: int
    rows: Sequence[Row]
    real: Values
    real_errors: Values
    lower_is_better: Sequence[str]

    def is_near(self, row: Row, figure: str) -> bool:
        """Within two bootstrap errors (of the difference) of the reference's figure, or better."""
        reference = self.rows[0]
        worse = row.values[figure] - reference.values[figure]
        error = math.hypot(row.errors[figure], reference.errors[figure])
        return (worse if figure in self.lower_is_better else -worse) <= 2 * error

    @property
    def verdict(self) -> str:
        """Which rows are near the reference in every figure."""
        figures = self.figures()
        near = [f"{row.line} {row.evaluations}" for row in self.rows[1:] if all(self.is_near(row, f) for f in figures)]
        return f"in every figure within two errors of {_named(self.rows[0])}: {', '.join(near) or 'none'}"

    def figures(self) -> list[str]:
        """The names of those that every row has."""
        return [name for name in self.rows[0].values if all(name in row.values for row in self.rows)]


def terminal(study: Study) -> Table:
    """A line for each row; bold is what is within two errors of the reference."""
    from rich.table import Table

    reference = study.rows[0]
    title = f"{study.name}: {study.n} samples; bold: within two errors of {_named(reference)}, or better"
    table = Table(title=title, title_justify="left")
    for name in ("sampler", "evals", "steps", "nfe", "s", *map(_spaced, study.figures())):
        table.add_column(name, justify="left" if name == "sampler" else "right")
    for row in study.rows:
        cells = [_cell(row.values[figure], row.errors[figure]) for figure in study.figures()]
        near = [study.is_near(row, figure) for figure in study.figures()]
        cells = [f"[bold]{cell}[/bold]" if one else cell for cell, one in zip(cells, near, strict=True)]
        table.add_row(row.line, f"{row.evaluations}", f"{row.steps}", f"{row.nfe:g}", f"{row.seconds:.3g}", *cells)
    real = [_cell(study.real[f], study.real_errors[f]) if f in study.real else "" for f in study.figures()]
    table.add_row("real data", "", "", "", "", *real)
    return table


def markdown(study: Study) -> str:
    """All of a modality: what was drawn, and the tables of `figures`."""
    drawn = f"{study.data}; {study.n} samples of `{study.checkpoint}`."
    return "\n".join([f"### {study.name}", "", drawn, "", figures(study), ""])


def figures(study: Study) -> str:
    """A table for each figure: a row for each sampler, a column for each number of evaluations."""
    columns = sorted({row.evaluations for row in study.rows})
    lines = list(dict.fromkeys(row.line for row in study.rows))
    found = {(row.line, row.evaluations): row for row in study.rows}
    text = []
    for figure in study.figures():
        better = "lower" if figure in study.lower_is_better else "higher"
        real = f"real data {_cell(study.real[figure], study.real_errors[figure])}" if figure in study.real else ""
        text += [f"{_spaced(figure)} ({better} is better; {real}):", ""]
        rows = [[found.get((line, column)) for column in columns] for line in lines]
        cells = [
            [line, *(_bold(study, row, figure) if row else "" for row in each)]
            for line, each in zip(lines, rows, strict=True)
        ]
        text += [markdown_table(["sampler", *(f"{c:,}" for c in columns)], cells), ""]
    return "\n".join([*text, f"Bold: within two bootstrap errors of {_named(study.rows[0])}, or better."])


def _bold(study: Study, row: Row, figure: str) -> str:
    cell = _cell(row.values[figure], row.errors[figure])
    return f"**{cell}**" if study.is_near(row, figure) else cell


def _named(row: Row) -> str:
    return f"{row.line} at {row.evaluations:,} evaluations"


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: float, error: float) -> str:
    return f"{value:.3g} ± {error:.2g}"


def curves(study: Study, path: Path) -> None:
    """One plot for each figure, a line for each sampler; the band is the reference with two errors, dots are real."""
    names, reference = study.figures(), study.rows[0]
    figure = Figure(figsize=(1 + 4.5 * len(names), 4.2), layout="constrained")
    compared = [row for row in study.rows if row.evaluations != reference.evaluations]
    ticks = sorted({row.evaluations for row in compared})
    lines = list(dict.fromkeys(row.line for row in compared))
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place)
        for i, line in enumerate(lines):
            rows = [row for row in compared if row.line == line]
            x = [row.evaluations * 1.015 ** (i - len(lines) / 2) for row in rows]  # bars side by side
            y, error = [row.values[name] for row in rows], [row.errors[name] for row in rows]
            axes.errorbar(x, y, error, marker=MARKERS[i % len(MARKERS)], ms=4, lw=1.2, elinewidth=0.7, label=line)
        _levels(axes, study, name)
        axes.set(title=_spaced(name), xlabel="evaluations", xscale="log")
        if name in study.lower_is_better and min(row.values[name] for row in study.rows) > 0:
            axes.set_yscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    if names:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right", fontsize="small")
    figure.suptitle(f"{study.name}, {study.n} samples")
    figure.savefig(path, dpi=110)


def _levels(axes: object, study: Study, name: str) -> None:
    reference = study.rows[0]
    level, error = reference.values[name], reference.errors[name]
    axes.axhline(level, color="black", linestyle="--", linewidth=1, label=_named(reference))
    axes.axhspan(level - 2 * error, level + 2 * error, color="black", alpha=0.08, linewidth=0)
    if name in study.real:
        axes.axhline(study.real[name], color="black", linestyle=":", linewidth=1, label="real data")
