"""The comparison as one page that works offline, from the file alone: tables, plots, pictures, sounds, molecules.

What a modality's `present` writes as a page of its own, such as players or turning molecules, stands in a frame inside.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks.pareto import COSTS, Board, Cell, spaced, worded

PAGE = "compare.html"
STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 80rem; padding: 1.5rem; font: 15px/1.45 system-ui, sans-serif; }
p, h2, h3 { overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; }
.front { font-weight: bold; } .advised { background: #c4143c22; }
img { display: block; max-width: 100%; height: auto; background: #fff; }
iframe { box-sizing: border-box; width: 100%; height: 34rem; border: 1px solid #8886; }
.scroll { overflow-x: auto; margin-bottom: 1rem; }
@media (prefers-color-scheme: dark) { img[src^="data:image/svg"] { filter: invert(.93) hue-rotate(180deg); } }
"""
FRAMED = "<style>nav a:not([href]) { display: none; }</style>"  # what looks like a button, and would do nothing
READING = """Each row is a setting: a sampler, the evaluations of a sample's path that it may take, and the scale of
guidance. NFE counts passes of the network for each sample: guidance makes two of an evaluation. ± is a bootstrap's
standard error. Bold: on the Pareto front of that figure, so no other setting here is as good at no more NFE. Shaded:
the fewest evaluations within two errors of the best. Real data: other held-out samples, as many, measured alike; no
sample can be expected to do better."""


def html(boards: Sequence[Board], folder: Path, about: Mapping[str, object], skipped: Mapping[str, str]) -> str:
    """The whole page. folder: where the plots `<modality>.svg` and the cells lie."""
    facts = ", ".join(f"{name} {value}" for name, value in about.items())
    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Comparison</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n'
        "</head>\n<body>",
        f"<h1>What to sample with</h1>\n<p>{READING}</p>\n<p><small>{escape(facts)}</small></p>",
        *(f"<p>{escape(name)} is left out: {escape(why)}</p>" for name, why in skipped.items()),
        *(_section(board, folder) for board in boards),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _section(board: Board, folder: Path) -> str:
    through = f", through {board.instrument}" if board.instrument else ""
    about = f"{board.data}; {board.checkpoint}; {board.n} samples a setting{through}"
    parts = [f"<section>\n<h2>{escape(board.name)}</h2>", f"<p><strong>{escape(board.verdict)}.</strong></p>"]
    parts += [f"<p>{escape(about)}</p>", _table(board)]
    parts.append(_image((folder / f"{board.name}.svg").read_bytes(), "svg+xml", f"{board.name}: quality against cost"))
    parts += [_shown(f"{_role(board, cell)}: {cell.label}", folder / cell.samples) for cell in shown(board)]
    parts.append(_shown("Real data", folder / board.floor_samples))
    return "\n".join([*(part for part in parts if part), "</section>"])


def shown(board: Board) -> list[Cell]:
    """The settings whose samples can be seen: what is advised, the best, and the rest of the headline's front."""
    first = [cell for cell in (board.advised, board.best) if cell is not None]
    every = [*first, *board.front(board.headline, "nfe")]
    return list({cell.key: cell for cell in every}.values())


def _role(board: Board, cell: Cell) -> str:
    if board.advised is not None and cell.key == board.advised.key:
        return "Advised"
    return "Best" if board.best is not None and cell.key == board.best.key else "On the front"


def _table(board: Board) -> str:
    fronts = {figure: {cell.key for cell in board.front(figure, "nfe")} for figure in board.figures}
    names = ("sampler", "evaluations", "guidance", *COSTS, "memory, MB", *map(spaced, board.figures))
    head = "".join(f"<th>{escape({'seconds': 's a sample', 'nfe': 'NFE'}.get(name, name))}</th>" for name in names)
    rows = []
    for cell in board.cells:
        memory = "-" if cell.memory is None else f"{cell.memory / 1e6:.0f}"
        plain = (cell.sampler, cell.evaluations, f"{cell.scale:g}", f"{cell.nfe:g}", f"{cell.seconds:.3g}", memory)
        cells = "".join(f"<td>{escape(str(value))}</td>" for value in plain)
        for figure in board.figures:
            bold = ' class="front"' if cell.key in fronts[figure] else ""
            cells += f"<td{bold}>{worded(cell.values.get(figure), cell.errors.get(figure))}</td>"
        advised = board.advised is not None and cell.key == board.advised.key
        rows.append(f"<tr{' class=advised' if advised else ''}>{cells}</tr>")
    real = "".join(f"<td>{worded(board.floor.get(f), board.floor_errors.get(f))}</td>" for f in board.figures)
    rows.append(f"<tr><td>real data</td>{'<td></td>' * 5}{real}</tr>")
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{chr(10).join(rows)}\n</table></div>'


def _shown(title: str, folder: Path) -> str:
    """What the modality has made of these samples: its page in a frame, or its picture."""
    page, picture = next(iter(sorted(folder.glob("*.html"))), None), folder / "grid.png"
    if page is not None:
        inside = (
            f'<iframe loading="lazy" sandbox="allow-scripts" title="{escape(title)}" srcdoc="{framed(page)}"></iframe>'
        )
    elif picture.exists():
        inside = _image(picture.read_bytes(), "png", title)
    else:
        return ""
    return f"<h3>{escape(title)}</h3>\n{inside}"


def framed(page: Path) -> str:
    """The page as a frame's attribute; what it links to lies not beside it there, so nothing is linked to."""
    alone = re.sub(r' (?:href|src)="(?!data:|#)[^"]*"(?: download)?', "", page.read_text(encoding="utf-8"))
    return escape(alone.replace("</head>", f"{FRAMED}</head>", 1))


def _image(content: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
