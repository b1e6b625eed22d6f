"""Layers with the initial weights that diffusion networks use."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv1d | nn.Conv2d)
CONVOLUTION: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}


def linear(inputs: int, outputs: int, gain: float = 1) -> nn.Linear:
    """A linear layer with Glorot-uniform weights (the fan-average scaling of Ho et al. 2020) and zero bias."""
    return _glorot(nn.Linear(inputs, outputs), gain)


def convolution(
    dims: int, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int | None = None
) -> nn.Conv1d | nn.Conv2d:
    """A convolution over `dims` axes that keeps their length (divided by `stride`), initialised like `linear`."""
    return _glorot(CONVOLUTION[dims](inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding))


def zero(layer: Layer) -> Layer:
    """The layer with weights and bias zero: its branch starts as the identity (or the network's output as 0)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _glorot(layer: Layer, gain: float = 1) -> Layer:
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
