"""Lightning's checkpoints in the project's format: a dictionary split over the files of a step folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from core import checkpoint as folders

PREFIX = "denoiser."
RAW, WEIGHTS = "current_model_state", "state_dict"


class FolderCheckpointIO(CheckpointIO):
    """Writes `Trainer.save_checkpoint(run/checkpoints/step-...)` as a step folder, and reads it back the same.

    With the callback WeightAveraging, Lightning puts the averaged weights under `state_dict` and the raw ones under
    `current_model_state`; without it, `state_dict` has the raw ones. The weights of the LightningModule's `denoiser`
    go to ema.safetensors and model.safetensors without that prefix; everything else goes to the state.
    """

    def __init__(self, config_text: str) -> None:
        """config_text: the resolved config of the run as YAML, kept in every step folder."""
        self.config_text = config_text

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if storage_options is not None:
            raise TypeError(f"storage_options is {storage_options!r}, but a checkpoint folder takes none")
        state, model, ema = dict(checkpoint), None, None
        model, state[WEIGHTS] = _split(checkpoint[WEIGHTS])
        if RAW in checkpoint:
            ema = model
            model, state[RAW] = _split(checkpoint[RAW])
        folders.save(path, model, ema, state, self.config_text)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The dictionary that was saved, on the CPU. `map_location` and `weights_only` concern pickles alone."""
        folder = folders.find(path)
        checkpoint = folders.load_state(folder)
        checkpoint[WEIGHTS] = _join(folders.load_weights(folder, averaged=True), checkpoint[WEIGHTS])
        if RAW in checkpoint:
            checkpoint[RAW] = _join(folders.load_weights(folder, averaged=False), checkpoint[RAW])
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        folders.remove(path)


def _split(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The denoiser's weights without their prefix, and the others."""
    denoiser = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    return denoiser, {name: value for name, value in weights.items() if not name.startswith(PREFIX)}


def _join(denoiser: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**{PREFIX + name: value for name, value in denoiser.items()}, **others}
