"""The comparison of modalities as one page: tables, and pictures inside it, so that the file can be sent alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COSTS = ("sampler", "steps", "nfe", "seconds_per_sample")  # the columns of a row that are no figures of quality
STYLE = """body { font: 15px sans-serif; margin: 2em auto; max-width: 75em; }
table { border-collapse: collapse; } th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd; }
img { max-width: 100%; margin: 1em 1em 0 0; vertical-align: top; }"""


@dataclass(frozen=True)
class Section:
    """One modality: a row for each sampler and number of steps, the same figures of real data, pictures of samples."""

    name: str
    data: str
    checkpoint: str
    rows: Sequence[Mapping[str, Any]]
    real: Mapping[str, float]
    pictures: Sequence[str]


def html(sections: Sequence[Section], machine: Mapping[str, object]) -> str:
    """The whole page."""
    about = ", ".join(f"{key} {value}" for key, value in machine.items())
    parts = [f"<!doctype html><meta charset=utf-8><title>polydiffusion</title><style>{STYLE}</style>"]
    parts += ["<h1>Quality against the number of network evaluations</h1>", f"<p>{escape(about)}</p>"]
    for section in sections:
        parts += [f"<h2>{escape(section.name)}</h2>", f"<p>{escape(section.data)}; {escape(section.checkpoint)}</p>"]
        parts += [_table(section), _image(_curves(section), "figures against NFE")]
        parts += [_image(Path(picture).read_bytes(), Path(picture).stem) for picture in section.pictures]
    return "\n".join(parts)


def _table(section: Section) -> str:
    columns = list(section.rows[0])
    rows = [*section.rows, {"sampler": "real data", **section.real}]
    cells = ("".join(f"<td>{_cell(row.get(column, ''))}</td>" for column in columns) for row in rows)
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _image(png: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _curves(section: Section) -> bytes:
    """One small plot for each figure, a line for each sampler; the dashed line is real data."""
    names = [name for name in section.rows[0] if name not in COSTS and name != "n"]
    evaluations = sorted({row["nfe"] for row in section.rows})
    columns = 3
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 3 * lines), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(lines, columns, place)
        for sampler in dict.fromkeys(row["sampler"] for row in section.rows):
            points = [(row["nfe"], row[name]) for row in section.rows if row["sampler"] == sampler and name in row]
            axes.plot(*zip(*points, strict=True), marker="o", label=sampler)
        if name in section.real:
            axes.axhline(section.real[name], color="black", linestyle="--", linewidth=1, label="real data")
        axes.set(title=name.replace("_", " "), xlabel="NFE", xscale="log")
        axes.set_xticks(evaluations, [str(nfe) for nfe in evaluations])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    if names:
        figure.axes[0].legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()
