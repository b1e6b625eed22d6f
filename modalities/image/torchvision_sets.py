"""Any labelled image set of torchvision by its name, such as CIFAR10 or FashionMNIST."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from core.cache import building, cache_dir
from core.cli import say
from core.errors import UserError, reason_of
from core.pulse import Pulse
from core.splits import stratified_split
from modalities.image.data import ImageData, write_about, write_splits
from modalities.image.pictures import check_shape, to_array

CACHE_VERSION = 1  # a new one whenever the decoding, the split or the layout changes
# Where pictures lie is not for a config to say, which may come with a checkpoint from elsewhere: some are unpickled.
FORBIDDEN = ("root", "download", "transform", "target_transform", "transforms", "loader", "is_valid_file")
OWN_TEST_SHARE = 0.1  # held out by us from a set that has no official test split


class TorchvisionImages(ImageData):
    """The torchvision set `name`, downloaded once; its official test split, and `val` of the rest for validation.

    size, channels: resize (centre square) and 1 or 3 channels; None keeps what the first picture has.
    labels:  False for sets whose targets are no class labels.
    options: further arguments of the set's constructor, such as `split: balanced` of EMNIST; plain values, and none
             of `FORBIDDEN`.

    Raises UserError if torchvision is missing, knows no such set, cannot download it, or gives no pictures or labels.
    """

    def __init__(
        self,
        name: str,
        size: int | None = None,
        channels: int | None = None,
        flip: bool = False,
        labels: bool = True,
        val: float = 0.05,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_shape(size, channels)
        if not 0 < val < 1:
            raise UserError(f"data.val={val}: a share between 0 and 1")
        options = dict(options or {})
        for key, value in options.items():
            if key in FORBIDDEN or not isinstance(value, str | int | float | bool | None):
                raise UserError(
                    f"data.options.{key}={value!r}: must be a plain value, and of none of {', '.join(FORBIDDEN)}"
                )
        home = cache_dir("torchvision")
        digest = hashlib.sha256(json.dumps([CACHE_VERSION, size, channels, labels, val, options]).encode()).hexdigest()
        cache = home / f"{name}-{digest[:12]}"
        if not cache.exists():
            parts = _open(_find(name), home / "downloads", options)
            with building(cache) as folder:
                classes = _build(folder, parts, size, channels, labels, val)
                write_about(folder, classes)
        super().__init__(name, cache, flip)


def _find(name: str) -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise UserError("data=torchvision needs torchvision: pip install torchvision") from error
    known = {key: value for key, value in vars(datasets).items() if inspect.isclass(value) and key in datasets.__all__}
    if name not in known:
        lower = {key.lower(): key for key in known}
        near = [lower[key] for key in difflib.get_close_matches(name.lower(), lower, n=5, cutoff=0.5)]
        hint = f"did you mean {', '.join(near)}?" if near else f"one of {', '.join(sorted(known))}"
        raise UserError(f"data.name={name} is no data set of torchvision: {hint}")
    return known[name]


def _open(dataset: Any, root: Path, options: Mapping[str, Any]) -> list[Any]:
    """[train, test] as torchvision divides the set, or [everything]."""
    parameters = _parameters(dataset)
    arguments = {"root": str(root), "download": True} | dict(options)
    arguments = {key: value for key, value in arguments.items() if key in parameters or key in options}
    if "train" in parameters:
        divided: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    elif "split" in parameters and "split" not in options:
        divided = [{"split": "train"}, {"split": "test"}]
    else:
        divided = [{}]
    root.mkdir(parents=True, exist_ok=True)
    say(f"loading torchvision's {dataset.__name__} into {root} (downloads it the first time)")
    try:
        return [dataset(**arguments, **part) for part in divided]
    except Exception as error:  # no network, a moved address, a bad archive, a missing package, a wrong option, ...
        reason = reason_of(error)
        raise UserError(f"torchvision's {dataset.__name__} could not be loaded into {root}: {reason}") from error


def _parameters(dataset: Any) -> set[str]:
    """The names that the constructor takes, those that it passes on to its base class as **kwargs included."""
    names: set[str] = set()
    for base in dataset.__mro__:
        found = inspect.signature(base.__init__).parameters
        names |= found.keys()
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in found.values()):
            break
    return names


def _build(
    folder: Path, parts: list[Any], size: int | None, channels: int | None, labels: bool, val: float
) -> list[str]:
    """Writes the three splits and returns the class names."""
    if size is None or channels is None:
        like = to_array(_picture(parts[0], 0)[0], size, channels)
        size, channels = size or min(like.shape[1:]), channels or like.shape[0]
    scratch = [folder / f"scratch{part}.npy" for part in range(len(parts))]
    (x, y), *official = [_decode(part, size, channels, labels, out) for part, out in zip(parts, scratch, strict=True)]
    shares = {"val": val} if official else {"val": val, "test": OWN_TEST_SHARE}
    write_splits(folder, x, y, stratified_split(y, shares))
    for test_x, test_y in official:
        write_splits(folder, test_x, test_y, {"test": stratified_split(test_y, {})["train"]})  # all, interleaved
    for file in scratch:
        file.unlink()
    names = getattr(parts[0], "classes", None) or range(y.max() + 1)
    return [name if isinstance(name, str) else str(name) for name in names] if labels else []


def _decode(
    dataset: Any, size: int, channels: int, labels: bool, out: Path
) -> tuple[UInt8[np.ndarray, "n channels size size"], Int64[np.ndarray, " n"]]:
    shape = (len(dataset), channels, size, size)
    x = np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=shape)
    y = np.zeros(len(dataset), dtype=np.int64)
    pulse = Pulse("decoded", len(dataset), "pictures")
    for row in range(len(dataset)):
        pulse(row)
        picture, target = _picture(dataset, row)
        x[row] = to_array(picture, size, channels)
        if labels:
            y[row] = _label(dataset, target)
    return x, y


def _picture(dataset: Any, row: int) -> tuple[Image.Image, Any]:
    item = dataset[row]
    if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Image.Image)):
        raise UserError(f"torchvision's {type(dataset).__name__} does not hold pairs of a picture and a target")
    return item


def _label(dataset: Any, target: Any) -> int:
    try:
        return int(target)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"a target of torchvision's {type(dataset).__name__} is no class label ({target!r}): set data.labels=false"
        ) from error
