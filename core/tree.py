"""Trees of plain Python values and tensors as JSON and a dictionary of tensors: no code in them, and no pickle.

null, true, 1, 0.5, "text" and [...] stand for themselves; everything else is an object with one telling key:
{"dict": {...}} with text keys, {"items": [[key, value], ...]} with others, {"ordered": [...]}, {"tuple": [...]},
{"float": "nan"}, {"tensor": name} with its "stride" where it is not the contiguous one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def encode(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """A tree as a JSON structure, and the tensors that it refers to by name: contiguous copies on the CPU.

    A tensor that occurs several times (same memory, same view) is stored once. Strides are kept: a fused optimiser
    refuses moments laid out otherwise than their parameter (channels_last).
    """
    encoder = _Encoder()
    return encoder.encode(tree, "state"), encoder.tensors


def decode(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `encode`; a tensor that occurs several times is one object again."""
    laid_out: dict[str, Tensor] = {}

    def tensor(name: str, stride: list[int] | None = None) -> Tensor:
        if name not in laid_out:
            value = tensors[name]
            laid_out[name] = value if stride is None else _with_stride(value, stride)
        return laid_out[name]

    def pairs(items: list[list[Any]]) -> list[tuple[Any, Any]]:
        return [(build(key), build(value)) for key, value in items]

    def build(node: Any) -> Any:
        match node:
            case list():
                return [build(value) for value in node]
            case {"dict": values}:
                return {key: build(value) for key, value in values.items()}
            case {"items": items}:
                return dict(pairs(items))
            case {"ordered": items}:
                return OrderedDict(pairs(items))
            case {"tuple": values}:
                return tuple(build(value) for value in values)
            case {"float": text}:
                return float(text)
            case {"tensor": name}:
                return tensor(name, node.get("stride"))
            case dict():
                raise ValueError(f"an object with the keys {sorted(node)} has no meaning")
        return node

    return build(structure)


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._nodes: dict[tuple[Any, ...], dict[str, Any]] = {}

    def encode(self, value: Any, path: str) -> Any:
        # Exact types: a subclass (an enum, a NumPy float, a defaultdict) would come back as something else.
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if kind is list:
            return self._sequence(value, path)
        if kind is tuple:
            return {"tuple": self._sequence(value, path)}
        if kind is OrderedDict:
            return {"ordered": self._items(value, path)}
        if kind is dict and all(type(key) is str for key in value):
            return {"dict": {key: self.encode(item, f"{path}.{key}") for key, item in value.items()}}
        if kind is dict:
            return {"items": self._items(value, path)}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        raise TypeError(
            f"{path} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot hold: it holds dict,"
            " OrderedDict, list, tuple, None, bool, int, float, str and Tensor"
        )

    def _sequence(self, values: list[Any] | tuple[Any, ...], path: str) -> list[Any]:
        return [self.encode(value, f"{path}[{i}]") for i, value in enumerate(values)]

    def _items(self, values: Mapping[Any, Any], path: str) -> list[list[Any]]:
        def pair(key: Any, value: Any) -> list[Any]:
            if isinstance(key, Tensor):
                raise TypeError(f"{path} has a tensor as a key, which a checkpoint cannot hold")
            return [self.encode(key, f"{path} key {key!r}"), self.encode(value, f"{path}[{key!r}]")]

        return [pair(key, value) for key, value in values.items()]

    def _tensor(self, tensor: Tensor, path: str) -> dict[str, Any]:
        copy = storable(tensor, path)
        lazy = (tensor.is_conj(), tensor.is_neg())
        view = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device, lazy)
        if view not in self._nodes:
            node: dict[str, Any] = {"tensor": str(len(self._nodes))}
            # After the copy an expanded tensor (stride 0) has memory of its own, and the strides to match.
            if copy.numel() and copy.stride() != torch.empty(copy.shape, device="meta").stride():
                node["stride"] = list(copy.stride())
            self.tensors[node["tensor"]] = copy.contiguous()
            self._nodes[view] = node
        return self._nodes[view]


def storable(tensor: Tensor, path: str) -> Tensor:
    """A copy on the CPU that shares no memory, which safetensors demands; its strides as they were."""
    plain = type(tensor.detach()) is Tensor and tensor.layout is torch.strided
    if not plain or tensor.is_meta or tensor.is_quantized or tensor.dtype in (torch.complex32, torch.complex128):
        raise TypeError(
            f"{path} is a {type(tensor).__name__} ({tensor.dtype}, {tensor.layout}, {tensor.device}), but a checkpoint"
            " holds only plain dense tensors of the dtypes of safetensors"
        )
    return tensor.detach().to("cpu", copy=True).resolve_conj().resolve_neg()


def _with_stride(value: Tensor, stride: list[int]) -> Tensor:
    # Offsets beyond the number of elements would allocate more than the file holds.
    last = sum((size - 1) * step for size, step in zip(value.shape, stride, strict=True))
    if min(stride) < 0 or last >= value.numel():
        raise ValueError(f"a tensor of shape {tuple(value.shape)} cannot have the strides {stride}")
    return torch.empty_strided(value.shape, stride, dtype=value.dtype).copy_(value)
