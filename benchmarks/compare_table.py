"""A comparison's settings as a table in the terminal."""

from __future__ import annotations

from rich.table import Table

from benchmarks.pareto import Board, spaced, worded


def table(board: Board) -> Table:
    """A line for each setting; bold: on the figure's Pareto front against evaluations; an arrow: what is advised."""
    title = f"{board.name}: {board.n} samples a setting, ± bootstrap errors; bold: Pareto front; >: advised"
    found = Table(title=title, title_justify="left")
    for name in ("", "sampler", "evals", "guidance", "nfe", "s", "MB", *map(spaced, board.figures)):
        found.add_column(name, justify="left" if name in ("", "sampler") else "right")
    fronts = {figure: {cell.key for cell in board.front(figure, "nfe")} for figure in board.figures}
    for cell in board.cells:
        cells = [worded(cell.values.get(figure), cell.errors.get(figure)) for figure in board.figures]
        marked = [
            f"[bold]{text}[/bold]" if cell.key in fronts[figure] else text
            for text, figure in zip(cells, board.figures, strict=True)
        ]
        arrow = ">" if board.advised is not None and cell.key == board.advised.key else ""
        memory = "-" if cell.memory is None else f"{cell.memory / 1e6:.0f}"
        cost = (f"{cell.scale:g}", f"{cell.nfe:g}", f"{cell.seconds:.3g}", memory)
        found.add_row(arrow, cell.sampler, f"{cell.evaluations}", *cost, *marked)
    real = [worded(board.floor.get(figure), board.floor_errors.get(figure)) for figure in board.figures]
    found.add_row("", "real data", "", "", "", "", "", *real)
    return found
