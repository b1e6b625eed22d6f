"""The pictures of a training run: its loss over steps, and over noise levels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no global state, no display
    return figure, figure.add_subplot()


def level_curve(path: Path, edges: Sequence[float], history: Sequence[tuple[int, Sequence[float]]]) -> None:
    """Validation loss by log-SNR, one line a validation, the latest ones darkest. edges: of the bins, in nats."""
    figure, axes = _figure()
    centres = [(a + b) / 2 for a, b in pairwise(edges)]
    shown = history[-8:]
    for i, (step, means) in enumerate(shown):
        axes.plot(centres, means, color="tab:blue", alpha=(i + 1) / len(shown), marker=".", label=f"step {step}")
    axes.set(xlabel="log-SNR (noise left, data right)", ylabel="validation loss", yscale="log")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def loss_curve(path: Path, tables: Sequence[Path]) -> None:
    """Training and validation loss over steps, from the CSV tables of a run and of its resumptions, in order."""
    rows = [row for table in tables for row in csv.DictReader(table.read_text().splitlines())]
    if not rows:
        return
    figure, axes = _figure()
    for name, style in (("train/loss", {"alpha": 0.35}), ("val/loss", {"marker": "o"})):
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        if not points:
            continue
        steps, losses = zip(*points, strict=True)
        axes.plot(steps, losses, label=name, **style)
        if name == "train/loss" and len(points) > 20:
            axes.plot(steps, _smoothed(losses), label="train/loss, smoothed")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _smoothed(values: Sequence[float], half: int = 5) -> list[float]:
    """The mean of each value and its `half` neighbours on both sides."""
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
