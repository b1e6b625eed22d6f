"""Layers, and the initial weights that diffusion networks use."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv1d | nn.Conv2d)
Network = TypeVar("Network", bound=nn.Module)
CONVOLUTION: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}


def convolution(
    dims: int, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int | None = None
) -> nn.Conv1d | nn.Conv2d:
    """A convolution over `dims` axes that keeps their length (divided by `stride`)."""
    return CONVOLUTION[dims](inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding)


def zero(layer: Layer) -> Layer:
    """The layer with weights and bias zero: its branch starts as the identity (or the network's output as 0)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def glorot(network: Network) -> Network:
    """The network with Glorot-uniform weights (the fan-average scaling of Ho et al. 2020) and zero biases.

    Weights that are zero on purpose stay zero. The three maps in an attention's one `qkv` layer are scaled each for
    itself.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and layer.weight.any():
            for part in layer.weight.data.chunk(3 if name.endswith("qkv") else 1):
                nn.init.xavier_uniform_(part)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
