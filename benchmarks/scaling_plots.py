"""The picture of `benchmarks.scaling`: a column an axis; of each modality a row of times and a row of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.scaling_fits import UPPER, Growth
from benchmarks.scaling_series import Series

COLOURS = {"training": "tab:blue", "sampling": "tab:orange"}
MEGA = 1e6


def plot(series: Sequence[Series], path: Path, seconds: str) -> None:
    """seconds: the label of the times."""
    modalities, axes = (list(dict.fromkeys(getattr(one, name) for one in series)) for name in ("modality", "axis"))
    rows: list[tuple[str, str, Callable[[Series], tuple[list[float] | None, Growth | None]]]] = []
    for modality in modalities:
        rows.append((modality, seconds, lambda one: (one.seconds, one.time)))
        if any(one.bytes for one in series if one.modality == modality):
            rows.append((modality, "MB above rest", lambda one: (one.bytes, one.memory)))
    figure = Figure(figsize=(1 + 3.4 * len(axes), 0.8 + 2.5 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(axes), squeeze=False)
    for row, (modality, label, of) in zip(grid, rows, strict=True):
        scale = 1 if label == seconds else 1 / MEGA
        for panel, axis in zip(row, axes, strict=True):
            shown = [one for one in series if (one.modality, one.axis) == (modality, axis) and of(one)[0]]
            panel.set_visible(bool(shown))
            for one in shown:
                _curve(panel, one, *of(one), scale, bars=label == seconds)
            if shown:
                _dress(panel, shown[0], f"{modality}: {label}")
    figure.suptitle(f"points; n^p by the upper {UPPER} (lines); in proportion to the data or the weights (dotted)")
    figure.savefig(path, dpi=90)


def _curve(panel: Any, one: Series, costs: list[float], growth: Growth, scale: float, bars: bool) -> None:
    colour, n = COLOURS[one.work], one.n
    panel.plot(n, [c * scale for c in costs], "o", ms=4, color=colour)
    if bars:
        panel.vlines(n, one.low, one.high, color=colour, linewidth=0.8)
    upper = n[-UPPER:]
    label = f"{one.work}: {growth.power}"
    panel.plot(upper, [growth.power(each) * scale for each in upper], color=colour, linewidth=1.2, label=label)
    proportional = [costs[-1] * scale * (each / n[-1]) ** one.proportional for each in upper]
    panel.plot(upper, proportional, color=colour, linestyle=":", linewidth=1.2)


def _dress(panel: Any, one: Series, label: str) -> None:
    panel.set(xscale="log", yscale="log", xlabel=one.unit, ylabel=label)
    panel.xaxis.set_major_locator(FixedLocator(one.n))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(one.n, [f"{each:g}" for each in one.n], fontsize="small")
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small", handlelength=1, loc="upper left")
    low, high = panel.get_ylim()
    panel.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
