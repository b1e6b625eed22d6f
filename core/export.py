"""python -m core.export checkpoint=runs/... out=folder: a model to pass on, its averaged weights in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def export(config: DictConfig) -> None:
    """Writes model.safetensors (float16) and config.yaml, which `core.load` and every command take for a checkpoint."""
    from omegaconf import OmegaConf

    from core import checkpoint
    from core.config import load_yaml

    for key in ("checkpoint", "out"):
        if config[key] is None:
            raise UserError(f"{key}= is not set: checkpoint=runs/... out=folder")
    folder = checkpoint.find(config.checkpoint, config.which)
    described = load_yaml(checkpoint.load_config_text(folder))
    for key in config.forget:
        if OmegaConf.select(described, key) is not None:
            OmegaConf.update(described, key, None)
    size = checkpoint.export(Path(config.out), checkpoint.load_weights(folder), OmegaConf.to_yaml(described))
    cli.say(f"{folder.name} in {config.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.run("export", export)
