"""A picture as a sample to edit: what of it stays, how much room is added, and how it meets the model's size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.editable import EditRequest
from core.errors import UserError, reason_of
from modalities.image.codec import as_float
from modalities.image.pictures import pictures_in, read_picture

Picture = Float[Tensor, "channels height width"]
Keep = Float[Tensor, "1 height width"]

SIDES = ("left", "right", "top", "bottom")
KEEP = "left, right, top or bottom with a share such as left 0.5, or a box of pixels x0:x1 y0:y1 such as 0:14 0:28"


def read(path: Path, channels: int | None) -> Picture:
    """A file in [0, 1], in so many channels (None: its own). UserError names one that cannot be read."""
    if not path.is_file():
        raise UserError(f"{path} is no file")
    try:
        return as_float(torch.from_numpy(read_picture(path, size=None, channels=channels).copy()))
    except Exception as error:  # on damaged bytes a decoder may raise anything
        raise UserError(f"{path} cannot be read: {reason_of(error)}") from error


def known(request: EditRequest, shape: Sequence[int], cond: Mapping[str, Tensor]) -> Batch:
    """The file n times, grown, with `cond["keep"]` (n, 1, H, W) where some of it stays and some is drawn.

    shape: (C, H, W) of the model's samples. A picture must not be smaller, unless it grows; a measurement may be of any
    size and number of channels.
    """
    channels, *size = shape
    picture = read(request.input, None if request.measured else channels)
    room = _room(request.grow)
    keep = _keep(request, picture)
    if keep is None and any(room):
        keep = torch.ones_like(picture[:1])
    canvas = F.pad(picture, room)
    if not request.measured:
        _check_size(request.input, canvas, size, bool(request.grow))
    if keep is not None:
        keep = F.pad(keep, room)
        if bool(keep.all()):
            raise UserError(f"all of {request.input} stays: there is nothing to draw")
        if not bool(keep.any()):
            raise UserError(f"nothing of {request.input} stays: draw samples with core.sample, or keep some of it")
        cond = {**cond, "keep": keep.expand(request.n, *keep.shape)}
    return Batch.full(canvas.expand(request.n, *canvas.shape), cond)


def _check_size(path: Path, canvas: Picture, size: Sequence[int], grown: bool) -> None:
    height, width = canvas.shape[1:]
    if height < size[0] or width < size[1]:
        with_room = " with its added room" if grown else ""
        raise UserError(
            f"{path} has {width}x{height} pixels{with_room}, the model draws {size[1]}x{size[0]}: "
            "enlarge it first, or add room with grow.right=14, for example"
        )


def _room(grow: Mapping[str, object]) -> list[int]:
    """The pixels to add, as `F.pad` takes them: left, right, top, bottom."""
    for side, pixels in grow.items():
        if side not in SIDES:
            raise UserError(f"grow.{side}={pixels}: a picture grows to the {', '.join(SIDES)}")
        if not isinstance(pixels, int) or isinstance(pixels, bool) or not 0 <= pixels <= 4096:
            raise UserError(f"grow.{side}={pixels}: must be a whole number of pixels from 0 to 4096")
    room = [grow.get(side, 0) for side in SIDES]
    assert all(isinstance(pixels, int) for pixels in room)
    return room  # type: ignore[return-value]


def _keep(request: EditRequest, picture: Picture) -> Keep | None:
    """1 where the picture stays; None where nothing is said of it."""
    if request.mask is not None:
        mask = read(request.mask, 1)
        if mask.shape[1:] != picture.shape[1:]:
            sizes = [f"{one.shape[2]}x{one.shape[1]}" for one in (mask, picture)]
            raise UserError(f"mask={request.mask} has {sizes[0]} pixels, but {request.input} has {sizes[1]}")
        return (mask >= 0.5).to(picture)
    return None if request.keep is None else kept_part(request.keep, picture)


def kept_part(words: str, picture: Picture) -> Keep:
    """1 on the part that the words name: a side and its share (half unless given), or a box `x0:x1 y0:y1` in pixels."""
    height, width = picture.shape[1:]
    keep = torch.zeros_like(picture[:1])
    if side := re.fullmatch(r"(left|right|top|bottom)(?:\s+(\d*\.?\d+))?", words.strip()):
        share = float(side[2] or 0.5)
        if not 0 < share < 1:
            raise UserError(f"keep={words}: the share must lie between 0 and 1")
        rows, columns = round(share * height), round(share * width)
        part = {
            "left": (slice(None), slice(0, columns)),
            "right": (slice(None), slice(width - columns, None)),
            "top": (slice(0, rows), slice(None)),
            "bottom": (slice(height - rows, None), slice(None)),
        }[side[1]]
    elif box := re.fullmatch(r"(\d*):(\d*)(?:\s*,\s*|\s+)(\d*):(\d*)", words.strip()):
        x0, x1, y0, y1 = (
            int(number or default) for number, default in zip(box.groups(), (0, width, 0, height), strict=True)
        )
        if not (x0 < x1 <= width and y0 < y1 <= height):
            raise UserError(f"keep={words}: not a box within {width}x{height} pixels")
        part = slice(y0, y1), slice(x0, x1)
    else:
        raise UserError(f"keep={words}: must be {KEEP}")
    keep[(slice(None), *part)] = 1
    return keep


def small_pictures(folder: Path, n: int, shape: Sequence[int]) -> Float[Tensor, "n channels height width"]:
    """The first n pictures of a folder, repeated to the model's size where they are a whole factor smaller.

    So the means over squares of the result are the picture itself.
    """
    channels, *size = shape
    files = pictures_in(folder)
    if len(files) < n:
        raise UserError(f"n={n}, but cond.input={folder} holds {len(files)} pictures")
    return torch.stack([_repeated(file, read(file, channels), size) for file in files[:n]])


def _repeated(path: Path, picture: Picture, size: Sequence[int]) -> Picture:
    height, width = picture.shape[1:]
    factor = size[0] // height
    if (height * factor, width * factor) != tuple(size):
        wanted = f"{size[1]}x{size[0]} or a whole factor less"
        raise UserError(f"{path} has {width}x{height} pixels, the model wants {wanted}")
    return picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
