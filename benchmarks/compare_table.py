"""A comparison's settings as a table in the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from benchmarks.pareto import Board, worded


def table(board: Board) -> Table:
    """A line for each setting; bold: on the figure's Pareto front against evaluations; an arrow: what is advised."""
    memory = [cell.memory / 1e6 for cell in board.cells if cell.memory is not None]
    peak = f"; memory up to {max(memory):.0f} MB" if memory else ""
    title = f"{board.name}: {board.n} samples a setting, ± bootstrap{peak}; bold: Pareto front; >: advised"
    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True)
    for name in ("sampler", "evals", "scale", "nfe", "s", *(figure.replace("_", "\n") for figure in board.figures)):
        found.add_column(name, justify="left" if name == "sampler" else "right", no_wrap=True)
    fronts = {figure: {cell.key for cell in board.front(figure, "nfe")} for figure in board.figures}
    for cell in board.cells:
        figures = []
        for figure in board.figures:
            text = _short(cell.values.get(figure), cell.errors.get(figure))
            figures.append(f"[bold]{text}[/bold]" if cell.key in fronts[figure] else text)
        arrow = "> " if board.advised is not None and cell.key == board.advised.key else "  "
        cost = (f"{cell.evaluations}", f"{cell.scale:g}", f"{cell.nfe:g}", f"{cell.seconds:.3g}")
        found.add_row(arrow + cell.sampler, *cost, *figures)
    real = [_short(board.floor.get(figure), board.floor_errors.get(figure)) for figure in board.figures]
    found.add_row("  real data", "", "", "", "", *real)
    return found


def _short(value: float | None, error: float | None) -> str:
    """As narrow as a terminal of 80 columns needs: the error has one digit."""
    if error is None:
        return worded(value, None)
    return f"{worded(value, None)}±{f'{error:.1g}' if error < 1 else f'{error:.0f}'}"
