"""Pictures on disk: one PNG per sample, the grid, the film strip and GIF of a trajectory; and PNGs read back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from core.batch import Batch
from core.errors import UserError
from modalities.image.codec import as_float
from modalities.image.pictures import pictures_in, read_picture

GRID, STRIP, GIF, EDIT = "grid.png", "trajectory.png", "trajectory.gif", "edit.png"
PREVIEWS = (GRID, STRIP, GIF, EDIT)  # what is not a sample among the samples
VISIBLE_SIZE = 56  # smaller images are enlarged by whole factors to at least this many pixels
MARGIN = 2
MAX_COLUMNS, MAX_ROWS = 10, 20
BACKGROUND = 255
GIF_MILLISECONDS = 80
GIF_LAST_MILLISECONDS = 1500  # long enough to look at the result

Pixels = UInt8[np.ndarray, "n height width channels"]


def to_pixels(images: Tensor) -> Pixels:
    """(B, C, H, W), uint8 or float in [0, 1] -> uint8 (B, H, W, C). ValueError names images that are not finite."""
    images = as_float(images.detach().cpu())
    bad = (~images.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{len(bad)} of {len(images)} images are not finite, the first is number {bad[0]}")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def to_image(pixels: UInt8[np.ndarray, "height width channels"]) -> Image.Image:
    """A picture of 1 (grey) or 3 (RGB) channels."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def write_pngs(images: Tensor, folder: Path, first: int = 0) -> None:
    """One PNG per image, numbered from `first`: 00000.png, 00001.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(to_pixels(images), start=first):
        to_image(pixels).save(folder / f"{number:05d}.png")


def read_pngs(folder: Path) -> Batch:
    """The pictures of a folder in the order of their names, as float (N, C, H, W) in [0, 1]; previews are left out.

    UserError names a file that cannot be read or differs from the first in size; if some are in colour, all become so.
    """
    files = [file for file in pictures_in(folder) if file.name not in PREVIEWS]
    if not files:
        raise UserError(f"{folder} holds previews, but no samples")
    arrays = []
    for file in files:
        try:
            arrays.append(read_picture(file, size=None, channels=None))
        except Exception as error:  # on damaged bytes a decoder may raise anything
            raise UserError(f"{file} cannot be read: {error}") from error
        if arrays[-1].shape[1:] != arrays[0].shape[1:]:
            sizes = " but ".join("x".join(map(str, array.shape[1:])) for array in (arrays[-1], arrays[0]))
            raise UserError(f"{file} has {sizes} pixels in {files[0].name}: all must have one size")
    channels = max(array.shape[0] for array in arrays)
    full = [np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays]
    return Batch.full(as_float(torch.from_numpy(np.stack(full))))


def tile(rows: Sequence[Pixels]) -> UInt8[np.ndarray, "height width channels"]:
    """One picture of rows of images with thin margins; small images enlarged by a whole factor, without smoothing."""
    _, height, width, channels = rows[0].shape
    factor = max(1, math.ceil(VISIBLE_SIZE / min(height, width)))
    step_y, step_x = height * factor + MARGIN, width * factor + MARGIN
    shape = (len(rows) * step_y + MARGIN, max(map(len, rows)) * step_x + MARGIN, channels)
    canvas = np.full(shape, BACKGROUND, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = MARGIN + i * step_y, MARGIN + j * step_x
            large = image.repeat(factor, axis=0).repeat(factor, axis=1)
            canvas[top : top + height * factor, left : left + width * factor] = large
    return canvas


def grid_rows(batch: Batch) -> list[Tensor]:
    """Which images stand in each row: a row for each class where there are several, else about a square."""
    label = batch.cond.get("label")
    values = [] if label is None else label.unique()[:MAX_ROWS]
    if len(values) > 1:
        return [torch.nonzero(label == value).flatten()[:MAX_COLUMNS].cpu() for value in values]
    columns = min(MAX_COLUMNS, math.ceil(math.sqrt(len(batch))))
    return list(torch.arange(len(batch)).split(columns))[:MAX_ROWS]


def save_grid(batch: Batch, path: Path) -> None:
    """The picture of the first samples, of each class where there are labels, as a PNG."""
    _save(to_image(_grid(batch, grid_rows(batch))), path)


def save_strip(moments: Sequence[Batch], path: Path) -> None:
    """The film strip: rows are samples, columns about evenly spaced moments, the first and the last among them."""
    places = torch.linspace(0, len(moments) - 1, min(len(moments), MAX_COLUMNS)).round().long().tolist()
    film = np.stack([to_pixels(moments[place].x[:MAX_COLUMNS]) for place in places], axis=1)  # (B, moments, H, W, C)
    _save(to_image(tile(list(film))), path)


def save_gif(moments: Sequence[Batch], path: Path) -> None:
    """The grid as it moves from noise to data; it stays on the last moment for a while, then begins again."""
    rows = grid_rows(moments[-1])
    first, *others = [to_image(_grid(moment, rows)) for moment in moments]
    durations = [GIF_MILLISECONDS] * len(others) + [GIF_LAST_MILLISECONDS]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0)


def _grid(batch: Batch, rows: Sequence[Tensor]) -> UInt8[np.ndarray, "height width channels"]:
    return tile([to_pixels(batch.x[row.to(batch.x.device)]) for row in rows])


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
