"""Quality against cost: a plot of each figure against evaluations and against seconds, its Pareto front marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.pareto import COSTS, Board, spaced
from benchmarks.study import MARKERS


def plot(board: Board, path: Path) -> list[Path]:
    """Writes the board's plots beside each other, as .png and .svg; returns both paths."""
    figures = [figure for figure in board.figures if any(cell.has(figure) for cell in board.cells)]
    picture = Figure(figsize=(12.5, 0.6 + 3.6 * max(len(figures), 1)), layout="constrained")
    grid = picture.subplots(max(len(figures), 1), len(COSTS), squeeze=False)
    colours = _colours(board)
    for row, figure in zip(grid, figures, strict=False):
        for axes, cost in zip(row, COSTS, strict=True):
            _panel(axes, board, figure, cost, colours)
    picture.legend(handles=_legend(board, colours), loc="outside right upper", fontsize="small")
    picture.suptitle(f"{board.name}: {board.n} samples a setting, bars are standard errors")
    paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
    with matplotlib.rc_context({"svg.hashsalt": "0"}):  # the same board, the same file
        picture.savefig(paths[0], dpi=100)
        picture.savefig(paths[1], metadata={"Date": None})
    return paths


def _colours(board: Board) -> dict[float, Any]:
    scales = sorted({cell.scale for cell in board.cells})
    shades = matplotlib.colormaps["viridis"]
    return {scale: shades(place / max(len(scales) - 1, 1) * 0.8) for place, scale in enumerate(scales)}


def _markers(board: Board) -> dict[str, str]:
    samplers = dict.fromkeys(cell.sampler for cell in board.cells)
    return {name: MARKERS[place % len(MARKERS)] for place, name in enumerate(samplers)}


def _panel(axes: Any, board: Board, figure: str, cost: str, colours: dict[float, Any]) -> None:
    known, markers = [cell for cell in board.cells if cell.has(figure)], _markers(board)
    for cell in known:
        point, look = (cell.cost(cost), cell.values[figure]), {"marker": markers[cell.sampler], "ms": 5}
        axes.errorbar(*point, cell.errors[figure], **look, color=colours[cell.scale], elinewidth=0.8, linestyle="none")
    best = board.front(figure, cost)
    x, y = [cell.cost(cost) for cell in best], [cell.values[figure] for cell in best]
    axes.plot(x, y, color="crimson", linewidth=1.2, zorder=0)
    axes.plot(x, y, "o", ms=11, mfc="none", mec="crimson", mew=1)
    if figure in board.floor:
        level, error = board.floor[figure], board.floor_errors[figure]
        axes.axhline(level, color="black", linestyle=":", linewidth=1)
        axes.axhspan(level - error, level + error, color="black", alpha=0.07, linewidth=0)
    lower = figure in board.lower_is_better
    axes.set(xlabel=COSTS[cost], ylabel=f"{spaced(figure)} ({'lower' if lower else 'higher'} is better)")
    if all(cell.cost(cost) > 0 for cell in known):
        axes.set_xscale("log")
    if cost == "nfe":
        ticks = sorted({cell.cost(cost) for cell in known})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.grid(alpha=0.3)


def _legend(board: Board, colours: dict[float, Any]) -> list[Line2D]:
    plain = {"color": "grey", "linestyle": "none"}
    samplers = [Line2D([], [], marker=marker, label=name, **plain) for name, marker in _markers(board).items()]
    scales = [
        Line2D([], [], marker="s", linestyle="none", color=colour, label=f"guidance {scale:g}")
        for scale, colour in colours.items()
    ]
    front = Line2D([], [], color="crimson", marker="o", mfc="none", label="Pareto front")
    return [*samplers, *scales, front, Line2D([], [], color="black", linestyle=":", label="real data")]
