"""Pictures side by side with a title over each, and what is hidden of one in a colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from core.batch import Batch
from modalities.image.artefacts import to_image, to_pixels

HIDDEN = (0.95, 0.45, 0.2)  # orange: no grey, and rare in photographs
TILE = 112  # pixels that the shorter side of a picture is enlarged to, by a whole factor
MARGIN, TITLE, WIDTH = 6, 16, 1430
SHOWN = 16
PAPER, INK = (255, 255, 255), (60, 60, 60)


def hidden(picture: Float[Tensor, "channels h w"], keep: Float[Tensor, "1 h w"]) -> Float[Tensor, "3 h w"]:
    """The picture in colour, where it is not kept in orange."""
    colour = torch.tensor(HIDDEN).view(3, 1, 1)
    return torch.where(keep > 0, picture.float().expand(3, *picture.shape[1:]), colour)


def show_edit(known: Batch, edited: Batch, path: Path) -> None:
    """Before, what is kept, and the first edits."""
    before = known.x[0]
    panels = [("before", before)]
    if "keep" in known.cond:
        panels.append(("kept", hidden(before, known.cond["keep"][0])))
    save_panels([*panels, *_numbered(edited)], path)


def show_measured(measured: Float[Tensor, "n channels h w"], edited: Batch, path: Path) -> None:
    """The measurement, and the first samples that agree with it."""
    save_panels([("measured", measured[0]), *_numbered(edited)], path)


def _numbered(edited: Batch) -> list[tuple[str, Tensor]]:
    return [(f"after {number}", picture) for number, picture in enumerate(edited.x[:SHOWN])]


def save_panels(panels: Sequence[tuple[str, Tensor]], path: Path) -> None:
    """Titled pictures (C, H, W) in [0, 1] in rows, as a PNG. All are enlarged to about the size of the largest."""
    size = [max(picture.shape[axis] for _, picture in panels) for axis in (1, 2)]
    factor = max(1, TILE // min(size))
    height, width = (length * factor for length in size)
    step_y, step_x = height + TITLE + MARGIN, width + MARGIN
    columns = min(len(panels), max(2, WIDTH // step_x))
    sheet = Image.new("RGB", (columns * step_x + MARGIN, math.ceil(len(panels) / columns) * step_y + MARGIN), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (title, picture) in enumerate(panels):
        left, top = MARGIN + place % columns * step_x, MARGIN + place // columns * step_y
        draw.text((left, top), title, fill=INK, font=font)
        whole = min(height // picture.shape[1], width // picture.shape[2])
        pixels = to_pixels(picture[None])[0].repeat(whole, 0).repeat(whole, 1)
        sheet.paste(to_image(pixels).convert("RGB"), (left, top + TITLE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
