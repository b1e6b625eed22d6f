"""A sheet of paper for pictures of molecules, placed in inches: frames, words, marks, portraits and formulas."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from modalities.molecules import depiction, rendering
from modalities.molecules.molecule import Molecule
from modalities.molecules.rendering import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
MARK = 0.075  # inches: the width of a tick or a cross
STABLE, BROKEN, INK, FAINT, LINE = "#23924f", "#c4453c", "#26282e", "#777c87", "#d9dce2"


class Sheet:
    """A white figure of width x height inches; contents are placed by their left upper corners, in inches."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        width, height = (math.ceil(inches * DPI - 1e-6) / DPI for inches in (width, height))  # whole pixels
        self.figure: Figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)  # no global state, no display
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self.axes.set_axis_off()

    def text(self, left: float, base: float, words: str, size: float, **style: object) -> None:
        """Words of `size` points that stand on a line at `base`."""
        self.axes.text(left, base, words.replace("$", r"\$"), fontsize=size, **{"color": INK, **style})

    def picture(self, left: float, top: float, picture: Picture) -> None:
        """Pixel by pixel."""
        left, top = round(left * DPI) / DPI, round(top * DPI) / DPI
        extent = (left, left + picture.shape[1] / DPI, top + picture.shape[0] / DPI, top)
        self.axes.imshow(picture, extent=extent, aspect="auto", origin="upper", interpolation="none")

    def frame(self, left: float, top: float, size: tuple[float, float], color: str, wide: float) -> None:
        """A rectangle with round corners."""
        from matplotlib.patches import FancyBboxPatch

        style = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": "white", "edgecolor": color}
        self.axes.add_patch(FancyBboxPatch((left, top), *size, linewidth=wide, zorder=-1, **style))

    def line(self, left: float, top: float, right: float) -> None:
        """A thin one, from left to right."""
        self.axes.plot((left, right), (top, top), color=LINE, linewidth=0.6, solid_capstyle="butt")

    def mark(self, left: float, middle: float, good: bool) -> None:
        """A tick or a cross."""
        tick, cross = ([(0, 0.5), (0.36, 0.86), (1, 0.1)],), ([(0.1, 0.1), (0.9, 0.9)], [(0.1, 0.9), (0.9, 0.1)])
        for stroke in tick if good else cross:
            x, y = np.array(stroke).T * MARK
            style = {"linewidth": 1.3, "solid_capstyle": "round", "solid_joinstyle": "round"}
            self.axes.plot(left + x, middle - MARK / 2 + y, color=STABLE if good else BROKEN, **style)

    def save(self, path: Path) -> None:
        self.canvas.draw()
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]).save(path, optimize=True)


def portrait(molecule: Molecule, size: tuple[int, int], largest_unit: float) -> Picture:
    """Balls and sticks at their widest, as large as fits, at most `largest_unit` pixels per angstrom."""
    seen = molecule.positions @ rendering.facing(molecule.positions).T
    seen = seen - (seen.max(0) + seen.min(0)) / 2
    across, high = rendering.reach(seen, molecule.numbers)
    unit = min(largest_unit, (size[0] / 2 - 2) / across, (size[1] / 2 - 2) / high)
    return rendering.draw(seen, molecule.numbers, molecule.orders, size, unit)


def formula_picture(molecule: Molecule, size: tuple[int, int]) -> Picture:
    """The structural formula."""
    return np.asarray(Image.open(io.BytesIO(depiction.png(molecule, size))).convert("RGB"))


def pixels(size: tuple[float, float]) -> tuple[int, int]:
    """Of a size in inches."""
    return round(size[0] * DPI), round(size[1] * DPI)
