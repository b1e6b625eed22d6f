"""Pictures of samples: the grid beside real molecules, and the strip and animation of a trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from core.batch import Batch
from modalities.molecules import rendering
from modalities.molecules.molecule import SUBSCRIPTS, VERDICTS, Molecule, molecules, spread
from modalities.molecules.rendering import Picture, Turn
from modalities.molecules.sheet import BROKEN, DPI, FAINT, INK, LINE, STABLE, Sheet, formula_picture, pixels, portrait

COLUMNS, ROWS = 6, 4  # of samples; real molecules have one row more
CARD, GAP, MARGIN = (1.62, 2.42), 0.1, 0.22  # inches
BALLS, FORMULA = (1.5, 1.2), (1.5, 0.72)  # size of a card's two pictures, in inches
HEAD = 0.46  # inches above a section of cards
LARGEST_UNIT = 0.2  # inches per angstrom: small molecules look small
MAX_ROWS, MAX_MOMENTS = 6, 8
TILE = (1.2, 1.06)  # inches of a moment in the strip
TILE_UNIT = 0.17  # inches per angstrom there
GIF_TILE, GIF_COLUMNS, GIF_MOST, GIF_UNIT, GIF_FINER = (180, 160), 4, 8, 27.0, 2  # pixels, molecules, pixels / angstrom
FALLING, TURNING = 36, 45  # frames: from noise to data; of one turn at the end
FALL_MILLISECONDS, TURN_MILLISECONDS, REST_MILLISECONDS = 70, 80, 900
COLORS = 96


def save_grid(samples: Sequence[Molecule], path: Path, real: Sequence[Molecule] = ()) -> None:
    """Up to 24 samples, evenly spaced over all, and up to 6 real molecules in a row below them, as a PNG.

    Each is drawn as balls and sticks, seen at its widest, above its structural formula, in which atoms that are not
    stable are marked; a green frame is around stable molecules.
    """
    shown = _chosen(samples, COLUMNS * ROWS)
    sections = [(f"{len(shown)} of {len(samples):,} samples", shown)]
    if real:
        sections.append(("Real molecules", _chosen(real, COLUMNS)))
    _save_sections(sections, path)


def save_edit(before: Molecule, kept: Sequence[int], after: Sequence[Molecule], path: Path) -> None:
    """The molecule before, the part of it that stays if not all of it does, and up to 18 after, as in `save_grid`."""
    shown = _chosen(after, COLUMNS * (ROWS - 1))
    sections = [("Before", [before]), (f"{len(shown)} of {len(after):,} after", shown)]
    if 0 < len(kept) < len(before):
        sections.insert(1, ("What stays", [_part_of(before, kept)]))
    _save_sections(sections, path)


def _part_of(molecule: Molecule, atoms: Sequence[int]) -> Molecule:
    rows = list(atoms)
    return Molecule(molecule.index, molecule.positions[rows], molecule.numbers[rows], {})


def _save_sections(sections: Sequence[tuple[str, list[Molecule]]], path: Path) -> None:
    lines = [-(-len(group) // COLUMNS) for _, group in sections]
    columns = max(3, min(COLUMNS, max(len(group) for _, group in sections)))
    step_x, step_y = CARD[0] + GAP, CARD[1] + GAP
    sheet = Sheet(2 * MARGIN + columns * step_x - GAP, MARGIN + sum(HEAD + rows * step_y for rows in lines))
    top = MARGIN / 2
    for (title, group), rows in zip(sections, lines, strict=True):
        _head(sheet, top + 0.26, title, group)
        top += HEAD
        for k, molecule in enumerate(group):
            _card(sheet, MARGIN + k % columns * step_x, top + k // columns * step_y, molecule)
        top += rows * step_y
    sheet.save(path)


def _chosen(found: Sequence[Molecule], most: int) -> list[Molecule]:
    return [found[k] for k in spread(len(found), most)]


def _head(sheet: Sheet, base: float, title: str, group: Sequence[Molecule]) -> None:
    sheet.text(MARGIN, base, title, 11, weight="bold")
    words = ",  ".join(f"{sum(getattr(molecule, name) for molecule in group)} {name}" for name in VERDICTS)
    right = sheet.axes.get_xlim()[1] - MARGIN
    sheet.text(right, base, words, 8, ha="right", color=FAINT)


def _card(sheet: Sheet, left: float, top: float, molecule: Molecule) -> None:
    sheet.frame(left, top, CARD, STABLE if molecule.stable else LINE, 1.4 if molecule.stable else 0.8)
    inset = (CARD[0] - BALLS[0]) / 2
    sheet.picture(left + inset, top + inset, portrait(molecule, pixels(BALLS), LARGEST_UNIT * DPI))
    middle = top + inset + BALLS[1]
    sheet.picture(left + inset, middle, formula_picture(molecule, pixels(FORMULA)))
    base = middle + FORMULA[1] + 0.13
    sheet.text(left + 0.1, base, molecule.formula.translate(SUBSCRIPTS), 8.5, weight="bold")
    known = "  ".join(f"{name} {value:.3g}" for name, value in list(molecule.properties.items())[:1])
    sheet.text(left + CARD[0] - 0.1, base, known[:18], 6.5, ha="right", color=FAINT)
    at = left + 0.1
    for word, wide in zip(VERDICTS, (0.47, 0.4, 0), strict=True):
        good = getattr(molecule, word)
        sheet.mark(at, base + 0.125, good)
        sheet.text(at + 0.11, base + 0.155, word, 6, color=INK if good else FAINT)
        at += wide


class Camera:
    """How one molecule is looked at during all its way: as suits its end, with its middle in the middle.

    What is too wide then, as noise is, is drawn nearer to the middle, all atoms by one factor, and as large as ever.
    """

    def __init__(self, end: Molecule, size: tuple[int, int], largest_unit: float, turning: bool) -> None:
        self.turn: Turn = rendering.facing(end.positions)
        self.size = size
        seen = self._seen(end)
        if turning:  # as wide as it is from any side
            seen = np.stack([np.hypot(seen[:, 0], seen[:, 2]), seen[:, 1], seen[:, 2]], axis=1)
        across, high = rendering.reach(seen, end.numbers)
        self.unit = min(largest_unit, (size[0] / 2 - 3) / across, (size[1] / 2 - 3) / high)

    def _seen(self, molecule: Molecule) -> rendering.Positions:
        return (molecule.positions - molecule.positions.mean(0)) @ self.turn.T

    def shoot(self, molecule: Molecule, angle: float = 0.0, finer: int = rendering.FINER) -> Picture:
        """A picture; angle: in radians, by which it is turned about the upright axis."""
        seen = self._seen(molecule) @ rendering.about(1, angle).T
        ball = max(rendering.radius(number) for number in molecule.numbers.tolist())
        room = np.array([*self.size, 1.3 * max(self.size)]) / (2 * self.unit) - ball
        seen = seen * min(1.0, *(room / np.abs(seen).max(0).clip(min=1e-9)))
        return rendering.draw(seen, molecule.numbers, molecule.orders, self.size, self.unit, finer=finer)


def save_strip(moments: Sequence[Batch], path: Path, elements: Sequence[str]) -> None:
    """Up to 6 molecules, a row each, at up to 8 evenly spaced moments, the first and the last among them, as a PNG.

    Each atom has the colour of its most likely element at the moment. ValueError names molecules that are not finite.
    """
    rows = torch.tensor(spread(len(moments[-1]), MAX_ROWS))
    chosen = spread(len(moments), MAX_MOMENTS)
    columns = [molecules(moments[k][rows], elements) for k in chosen]
    step_x, step_y, head = TILE[0] + GAP, TILE[1] + GAP, 0.34
    right = MARGIN + len(columns) * step_x
    sheet = Sheet(right + FORMULA[0] + MARGIN, head + len(rows) * step_y + MARGIN / 2)
    titles = {0: "noise", len(moments) - 1: "molecule"}
    for j, k in enumerate(chosen):
        words = titles.get(k, f"{k + 1} of {len(moments)}")
        sheet.text(MARGIN + j * step_x + TILE[0] / 2, 0.24, words, 8, ha="center", color=FAINT)
    for i, end in enumerate(columns[-1]):
        top, camera = head + i * step_y, Camera(end, pixels(TILE), TILE_UNIT * DPI, turning=False)
        for j, column in enumerate(columns):
            sheet.picture(MARGIN + j * step_x, top, camera.shoot(column[i]))
        sheet.picture(right, top, formula_picture(end, pixels(FORMULA)))
        sheet.text(right + 0.1, top + FORMULA[1] + 0.14, end.formula.translate(SUBSCRIPTS), 8, weight="bold")
        word, color = ("stable", STABLE) if end.stable else ("not stable", BROKEN)
        sheet.text(right + FORMULA[0] - 0.1, top + FORMULA[1] + 0.14, word, 6.5, ha="right", color=color)
        if i:
            sheet.line(MARGIN, top - GAP / 2, right + FORMULA[0])
    sheet.save(path)


def save_gif(moments: Sequence[Batch], path: Path, elements: Sequence[str]) -> None:
    """Up to 8 molecules as their atoms fall into place; then each turns around once, stable ones in green frames.

    Between two moments the atoms are drawn on the straight way from one to the other. ValueError names molecules that
    are not finite.
    """
    rows = torch.tensor(spread(len(moments[-1]), GIF_MOST))
    way = [moment[rows].to("cpu") for moment in moments]
    ends = molecules(way[-1], elements)
    cameras = [Camera(end, GIF_TILE, GIF_UNIT, turning=True) for end in ends]
    frames, durations = [], []
    for time in np.linspace(0, len(way) - 1, FALLING).tolist():
        before, after = way[math.floor(time)], way[math.ceil(time)]
        now = before.with_x(torch.lerp(before.x, after.x, time % 1))
        frames.append(_frame(cameras, molecules(now, elements), 0.0))
        durations.append(FALL_MILLISECONDS)
    stable = [end.stable for end in ends]
    for angle in np.linspace(0, 2 * np.pi, TURNING + 1):
        frames.append(_frame(cameras, ends, angle, stable))
        durations.append(TURN_MILLISECONDS)
    durations[FALLING - 1] = durations[-1] = REST_MILLISECONDS
    _write_gif(frames, durations, path)


def _frame(cameras: Sequence[Camera], shown: Sequence[Molecule], angle: float, stable: Sequence[bool] = ()) -> Picture:
    """The molecules side by side, in rows of up to 4."""
    width, height = GIF_TILE
    columns = min(GIF_COLUMNS, max(1, len(shown)))
    lines = -(-len(shown) // columns)
    canvas = Image.new("RGB", (columns * width, lines * height), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (camera, molecule) in enumerate(zip(cameras, shown, strict=True)):
        left, top = i % columns * width, i // columns * height
        canvas.paste(Image.fromarray(camera.shoot(molecule, angle, GIF_FINER)), (left, top))
        if stable and stable[i]:
            box = (left + 2, top + 2, left + width - 3, top + height - 3)
            pen.rounded_rectangle(box, radius=9, outline=STABLE, width=2)
    return np.asarray(canvas)


def _write_gif(frames: Sequence[Picture], durations: Sequence[int], path: Path) -> None:
    """Endless, all frames in one palette, chosen for a few of them."""
    few = np.concatenate([frames[k] for k in spread(len(frames), 6)])
    palette = Image.fromarray(few).quantize(COLORS - 1, Image.Quantize.MEDIANCUT)
    colors = bytes(palette.getpalette()[: 3 * (COLORS - 1)]) + b"\xff\xff\xff"
    first, *others = [_indexed(frame, palette, colors) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=others, duration=list(durations), loop=0, optimize=False)


def _indexed(frame: Picture, palette: Image.Image, colors: bytes) -> Image.Image:
    """A frame in the colours of the palette, and on white paper: the last colour, which quantising would only near."""
    places = np.array(Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE))
    places[(frame == 255).all(-1)] = len(colors) // 3 - 1
    picture = Image.fromarray(places, mode="P")
    picture.putpalette(colors)
    return picture
