"""A network's weights in one small file: float16 safetensors with metadata. Nothing is unpickled."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save as to_bytes
from torch import nn

from core import tensor_files
from core.errors import UserError


def save(network: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Float16 weights and the metadata as safetensors, replaced in one step."""
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    scratch.write_bytes(to_bytes(tensors, metadata))
    os.replace(scratch, path)


def load(network: nn.Module, path: Path) -> dict[str, str]:
    """Fills the network from a file, checks every name and shape, and returns the metadata. Nothing is unpickled."""
    tensors, metadata = tensor_files.read(path), tensor_files.read_metadata(path)
    expected = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(f"{path} holds other weights: {name} is {found.get(name)}, expected {expected.get(name)}")
    network.load_state_dict(tensors)
    return metadata
