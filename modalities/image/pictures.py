"""Reading pictures of any kind as uint8 arrays of one shape; whatever cannot be read is named, with the reason."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from core.errors import UserError, reason_of
from core.folders import files_in
from core.pulse import Pulse

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
MAX_PIXELS = 64_000_000  # a larger picture is refused before it is decoded: a small file can claim any size
READ_AHEAD = 256  # pictures handed to the decoding threads at a time


def pictures_in(root: Path) -> list[Path]:
    """All picture files under a folder, by their suffix, sorted, without hidden ones. UserError if there are none."""
    return files_in(root, SUFFIXES, "pictures")


def decode_all(
    files: Sequence[Path], size: int, channels: int, out: Path
) -> tuple[UInt8[np.ndarray, "n channels size size"], dict[Path, str]]:
    """All pictures, as a memory-mapped array in the file `out`, and why some could not be read (their rows are 0)."""
    x = np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=(len(files), channels, size, size))
    errors: dict[Path, str] = {}

    def decode(row: int) -> None:
        try:
            x[row] = read_picture(files[row], size, channels)
        except Exception as error:  # on damaged bytes a decoder may raise anything
            errors[files[row]] = reason_of(error)

    pulse = Pulse("decoded", len(files), "pictures")
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
        for start in range(0, len(files), READ_AHEAD):
            pulse(start)
            list(pool.map(decode, range(start, min(start + READ_AHEAD, len(files)))))
    return x, dict(sorted(errors.items()))


def read_picture(path: Path, size: int | None, channels: int | None) -> UInt8[np.ndarray, "channels height width"]:
    """One file as an array, see `to_array`. Raises the decoder's error, or ValueError if it claims too many pixels."""
    with Image.open(path) as image:  # reads the header alone
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than the {MAX_PIXELS:,} allowed")
        return to_array(image, size, channels)


def to_array(image: Image.Image, size: int | None, channels: int | None) -> UInt8[np.ndarray, "channels h w"]:
    """The centre square, resized to `size`, in 1 (grey) or 3 (RGB) channels; None keeps what the picture has.

    Transparent parts become white; the picture is turned as its EXIF says; 16 bits are reduced to 8.
    """
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels, whose range is not known")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if channels is None:
        channels = 1 if image.mode in ("1", "L", "LA") else 3
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))  # first, or the filter blends in what is cut away
        image = square.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def check_shape(size: int | None, channels: int | None) -> None:
    """UserError unless size is positive and channels is 1 or 3 (None: as the pictures are)."""
    if size is not None and size < 1:
        raise UserError(f"data.size={size}: must be at least 1 pixel")
    if channels not in (None, 1, 3):
        raise UserError(f"data.channels={channels}: must be 1 (grey) or 3 (RGB)")
