"""Pictures of samples: the grid beside real clips, the strip and animation of a trajectory, thumbnails."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from core.batch import Batch
from modalities.audio.artefacts import Clip, unpadded
from modalities.audio.panels import COLORS, Panels, Scale, peak

GRID, STRIP, GIF = "grid.png", "trajectory.png", "trajectory.gif"
MAX_SOUNDS, COLUMNS, MAX_TAKES = 20, 5, 4
MAX_MOMENTS, MAX_ROWS = 8, 8
GAP, TITLE, WAVE_HEIGHT = 0.08, 0.16, 0.28  # inches
LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 0.4, 0.65, 0.34, 0.38, 0.3  # inches: margins; between samples and real clips
TILE = (100, 60)  # pixels of a spectrogram in an animation
THUMBNAIL, THUMBNAIL_WAVE = (240, 96), 32  # pixels of a spectrogram; of the waveform's height above it
LEVELS = 254  # colours of loudness
WAVE, ENDED = 254, 255  # the numbers of the other colours: of a waveform, and of what is outside a clip
COARSE = 6  # levels that an animation draws as one, as its file would be twice as large otherwise
GIF_MILLISECONDS, GIF_LAST_MILLISECONDS = 120, 1500

Places = list[list[int | None]]  # which sound stands where, row by row
Names = Mapping[str, Sequence[str]]  # of the values of each condition
Pixels = UInt8[np.ndarray, "height width"]


def places(batch: Batch) -> Places:
    """Up to 20 sounds in rows of at most 5: a column for each class where there are several, so far as they go."""
    label = batch.cond.get("label")
    values = [] if label is None else label.unique().tolist()[:MAX_SOUNDS]
    if len(values) < 2:
        numbers = list(range(min(len(batch), MAX_SOUNDS)))
        columns = min(COLUMNS, max(1, math.ceil(math.sqrt(len(numbers)))))
        return [numbers[i : i + columns] for i in range(0, len(numbers), columns)]
    takes = max(1, min(MAX_TAKES, MAX_SOUNDS // len(values)))
    of_class = [torch.nonzero(label == value).flatten().tolist()[:takes] for value in values]
    rows: Places = []
    for i in range(0, len(values), COLUMNS):
        block = of_class[i : i + COLUMNS]
        for take in range(max(map(len, block))):
            rows.append([numbers[take] if take < len(numbers) else None for numbers in block])
    return rows


def counterparts(batch: Batch, rows: Places, real: Batch) -> Places:
    """In each sound's place a real one of the same label, each once, as alike as there are in other conditions."""
    shared = [name for name in batch.cond if name in real.cond and name != "drop"]
    free = torch.ones(len(real), dtype=torch.bool)

    def find(number: int | None) -> int | None:
        if number is None:
            return None
        fits, likeness = free.clone(), torch.zeros(len(real))
        for name in shared:
            same = (real.cond[name] == batch.cond[name][number]).cpu()
            likeness += same
            if name == "label":
                fits &= same
        if not fits.any():
            return None
        best = int(torch.where(fits, likeness, -1.0).argmax())
        free[best] = False
        return best

    return [[find(number) for number in row] for row in rows]


def caption(batch: Batch, number: int, names: Names) -> str:
    """What a sound was asked to be, such as "seven, theo"; "" where there are no names."""
    named = [(values, batch.cond[name]) for name, values in names.items() if name in batch.cond]
    return ", ".join(str(values[int(value[number])]) for values, value in named)


def save_grid(
    batch: Batch, path: Path, sample_rate: int, conditions: Names | None = None, real: Batch | None = None
) -> None:
    """Up to 20 sounds as waveforms and log-mel spectrograms, real ones like them at the right, as a PNG.

    conditions: names of the values of each condition, which become titles. Colours (loudness) and time have one scale
    for all; a waveform is as high as its peak, which stands beside it. ValueError names sounds that are not finite.
    """
    rows = places(batch)
    sides = [("samples", batch, rows)] + ([] if real is None else [("real", real, counterparts(batch, rows, real))])
    sounds = [_chosen(source, chosen) for _, source, chosen in sides]
    columns, size = max(map(len, rows)), (1.3, 0.75)
    step_x, step_y = size[0] + GAP, TITLE + WAVE_HEIGHT + size[1] + GAP
    width = LEFT + len(sides) * columns * step_x + (len(sides) - 1) * BETWEEN + RIGHT
    height = TOP + len(rows) * step_y + BOTTOM
    scale = Scale([clip for side in sounds for clip in side.values()], sample_rate)
    panels = Panels(scale, width, height, size)
    for side, (title, source, chosen) in enumerate(sides):
        begin = LEFT + side * (columns * step_x + BETWEEN)
        panels.text(begin, 0.2, title, 10, weight="bold")
        for i, row in enumerate(chosen):
            for j, number in enumerate(row):
                left, top = begin + j * step_x, TOP + i * step_y
                if number is not None:
                    clip = sounds[side][number]
                    panels.title(left, top + 0.12, caption(source, number, conditions or {}))
                    panels.text(left + size[0], top + 0.12, f"peak {peak(clip):.2g}", 5.5, ha="right", color="gray")
                    panels.waveform(left, top + TITLE, WAVE_HEIGHT, clip)
                    panels.spectrogram(left, top + TITLE + WAVE_HEIGHT, clip)
        for j in range(columns):
            lowest = max((i for i, row in enumerate(chosen) if j < len(row) and row[j] is not None), default=None)
            if lowest is not None:
                panels.seconds(begin + j * step_x, TOP + lowest * step_y + TITLE + WAVE_HEIGHT)
    for i in range(len(rows)):
        panels.hertz(LEFT, TOP + i * step_y + TITLE + WAVE_HEIGHT)
    panels.text(LEFT - 0.06, TOP + TITLE + WAVE_HEIGHT - 0.08, "kHz", 6, ha="right")
    panels.color_bar(width - RIGHT + 0.05, TOP + TITLE + WAVE_HEIGHT, size[1])
    panels.save(path)


def save_row(
    titles: Sequence[str],
    sounds: Sequence[Clip],
    path: Path,
    sample_rate: int,
    new: Sequence[tuple[float, float]] = (),
) -> None:
    """Sounds one below another, each with its title, waveform and spectrogram, on one scale of time and loudness.

    new: stretches of seconds that a bar between waveform and spectrogram marks in all of them.
    """
    size = (4.8, 0.8)
    step = TITLE + WAVE_HEIGHT + size[1] + GAP
    panels = Panels(Scale(sounds, sample_rate), LEFT + size[0] + RIGHT, TOP / 2 + len(sounds) * step + BOTTOM, size)
    for row, (title, clip) in enumerate(zip(titles, sounds, strict=True)):
        top = TOP / 2 + row * step
        panels.title(LEFT, top + 0.12, title)
        panels.text(LEFT + size[0], top + 0.12, f"peak {peak(clip):.2g}", 5.5, ha="right", color="gray")
        panels.waveform(LEFT, top + TITLE, WAVE_HEIGHT, clip)
        panels.spectrogram(LEFT, top + TITLE + WAVE_HEIGHT, clip)
        panels.hertz(LEFT, top + TITLE + WAVE_HEIGHT)
        for begin, end in new:
            panels.bar(LEFT, top + TITLE + WAVE_HEIGHT, begin, end)
    panels.seconds(LEFT, TOP / 2 + (len(sounds) - 1) * step + TITLE + WAVE_HEIGHT)
    panels.text(LEFT - 0.06, TOP / 2 + TITLE + WAVE_HEIGHT - 0.08, "kHz", 6, ha="right")
    panels.color_bar(LEFT + size[0] + 0.05, TOP / 2 + TITLE + WAVE_HEIGHT, size[1])
    panels.save(path)


def save_strip(moments: Sequence[Batch], path: Path, sample_rate: int, conditions: Names | None = None) -> None:
    """From noise to sound: rows are sounds, columns about evenly spaced moments, the first and the last among them.

    Colours are those of the last moment's loudness.
    """
    chosen = torch.linspace(0, len(moments) - 1, min(len(moments), MAX_MOMENTS)).round().long().tolist()
    columns = [unpadded(moments[k].x[:MAX_ROWS], moments[k].mask[:MAX_ROWS]) for k in chosen]
    size = (1.3, 0.75)
    step_x, step_y = size[0] + GAP, size[1] + GAP
    left, height = 1.3, TOP + len(columns[0]) * step_y + BOTTOM
    width = left + len(columns) * step_x + RIGHT
    panels = Panels(Scale(columns[-1], sample_rate), width, height, size)
    titles = {0: "noise", len(moments) - 1: "sound"}
    for j, column in enumerate(columns):
        panels.text(left + j * step_x, TOP - 0.08, titles.get(chosen[j], f"{chosen[j] + 1} of {len(moments)}"), 8)
        for i, clip in enumerate(column):
            panels.spectrogram(left + j * step_x, TOP + i * step_y, clip)
        panels.seconds(left + j * step_x, TOP + (len(column) - 1) * step_y)
    for i in range(len(columns[0])):
        panels.hertz(left, TOP + i * step_y)
        panels.text(0.1, TOP + i * step_y + size[1] / 2, caption(moments[-1], i, conditions or {}), 8, va="center")
    panels.color_bar(width - RIGHT + 0.05, TOP + 0.03, size[1])
    panels.save(path)


def save_gif(moments: Sequence[Batch], path: Path, sample_rate: int) -> None:
    """The spectrograms as they move from noise to sound; the last moment stays for a while, then all begins again."""
    rows = places(moments[-1])
    scale = Scale(list(_chosen(moments[-1], rows).values()), sample_rate)
    first, *others = [_coloured(_tiles(_chosen(moment, rows), rows, scale)) for moment in moments]
    durations = [GIF_MILLISECONDS] * len(others) + [GIF_LAST_MILLISECONDS]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0)


def thumbnails(batch: Batch, sample_rate: int) -> list[bytes]:
    """A small PNG of each sound, its waveform above its spectrogram; all on one scale."""
    sounds = unpadded(batch.x, batch.mask)
    scale, pictures = Scale(sounds, sample_rate), []
    for clip in sounds:
        file = io.BytesIO()
        _coloured(np.concatenate([_wave(clip, scale), _tile(clip, scale, THUMBNAIL)])).save(file, "PNG", optimize=True)
        pictures.append(file.getvalue())
    return pictures


def _chosen(batch: Batch, rows: Places) -> dict[int, Clip]:
    """The sounds that stand in the rows, by their numbers."""
    numbers = [number for row in rows for number in row if number is not None]
    return dict(zip(numbers, unpadded(batch.x[numbers], batch.mask[numbers]), strict=True))


def _tile(clip: Clip, scale: Scale, size: tuple[int, int]) -> Pixels:
    """A spectrogram as numbers of colours, on a canvas of (width, height) pixels."""
    width, height = size
    canvas = np.full((height, width), ENDED, dtype=np.uint8)
    shown = _width(clip, scale, width)
    mel = Image.fromarray(scale.mel(clip)[::-1].astype(np.float32) * (LEVELS - 1))
    canvas[:, :shown] = np.rint(np.asarray(mel.resize((shown, height), Image.Resampling.BILINEAR)))
    return canvas


def _wave(clip: Clip, scale: Scale) -> Pixels:
    """A waveform in the form of `_tile`."""
    canvas = np.full((THUMBNAIL_WAVE, THUMBNAIL[0]), ENDED, dtype=np.uint8)
    shown = _width(clip, scale, THUMBNAIL[0])
    middle, unit = (THUMBNAIL_WAVE - 1) / 2, (THUMBNAIL_WAVE / 2 - 1) / peak(clip)
    for column, stretch in enumerate(np.array_split(clip, shown)):
        high, low = (round(middle - unit * edge) for edge in (stretch.max(initial=0.0), stretch.min(initial=0.0)))
        canvas[high : low + 1, column] = WAVE
    return canvas


def _width(clip: Clip, scale: Scale, full: int) -> int:
    return max(1, round(full * len(clip) / scale.sample_rate / scale.seconds))


def _tiles(sounds: Mapping[int, Clip], rows: Places, scale: Scale) -> Pixels:
    width, height, margin = *TILE, 3
    shape = (len(rows) * (height + margin) + margin, max(map(len, rows)) * (width + margin) + margin)
    canvas = np.full(shape, ENDED, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, number in enumerate(row):
            if number is not None:
                tile = _tile(sounds[number], scale, TILE)
                top, left = margin + i * (height + margin), margin + j * (width + margin)
                canvas[top : top + height, left : left + width] = np.where(tile < LEVELS, tile // COARSE * COARSE, tile)
    return canvas


def _coloured(pixels: Pixels) -> Image.Image:
    """A picture with the palette of loudness, the waveform's colour and that of nothing."""
    from matplotlib import colormaps

    colors = colormaps[COLORS](np.linspace(0, 1, LEVELS))[:, :3]
    colors = np.concatenate([colors, [[0.45, 0.3, 0.75], [0.92, 0.92, 0.94]]])
    picture = Image.fromarray(pixels, mode="P")
    picture.putpalette((colors * 255).round().astype(np.uint8).tobytes())
    return picture
