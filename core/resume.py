"""What a run takes over from an earlier one: all of it, to go on, or its weights alone, to begin another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from core import checkpoint
from core.config import load_yaml
from core.denoiser import Denoiser
from core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

OF_MOMENTS = ("optimisation.amsgrad",)  # which moments the optimiser has, and so its state


def resumed_config(config: DictConfig, folder: Path) -> tuple[DictConfig, bool]:
    """The checkpoint's own config with the single keys that the command line gives; whole parts stay as they were.

    The second value: whether the command line gives a new budget in minutes, which are counted from now on.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    saved = load_yaml(checkpoint.load_config_text(folder))
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    given = {override.lstrip("+").split("=", 1)[0]: override for override in overrides}
    if given.pop("resume", "").endswith("=auto"):  # the command that began the run: its parts and minutes are in it
        given = {key: override for key, override in given.items() if _is_single(saved, key)}
    for key, override in given.items():
        if OmegaConf.select(saved, key, default=None) is None and "." not in key and key not in saved:
            raise UserError(f"resume={config.resume} has no key {key}; allowed: {', '.join(map(str, saved))}")
        whole = key != "trainer" and OmegaConf.is_config(OmegaConf.select(saved, key))  # other hardware is no other run
        if whole or (key in OF_MOMENTS and OmegaConf.select(config, key) != OmegaConf.select(saved, key)):
            raise UserError(f"{override}: a resumed run keeps its {key}; init_from= begins another from its weights")
        OmegaConf.update(saved, key, OmegaConf.select(config, key))
    saved.resume = config.resume
    if "training.minutes" in given and "training.steps" not in given:
        saved.training.steps = None
    done = step_of(folder)
    if "training.steps" in given and saved.training.steps is not None and saved.training.steps < done:
        raise UserError(f"training.steps={saved.training.steps}: the checkpoint already stands at step {done}")
    return saved, "training.minutes" in given and saved.training.steps is None


def begun(out: str | None) -> str | None:
    """The run folder `out` if it holds a checkpoint, for resume=auto."""
    if out is None:
        raise UserError("resume=auto needs out=, the folder of the run that it begins or continues")
    return out if any((Path(out) / checkpoint.FOLDER).glob("step-*")) else None


def _is_single(saved: DictConfig, key: str) -> bool:
    """Whether a key may be changed in a resumed run, by the command that began it."""
    from omegaconf import OmegaConf

    if key in ("trainer", "training.minutes"):
        return key == "trainer"
    known = key in saved or "." in key
    return known and not OmegaConf.is_config(OmegaConf.select(saved, key, default=None))


def step_of(folder: Path | None) -> int:
    """The optimiser steps that a step folder has behind it; 0 for None. Reads no tensor."""
    return 0 if folder is None else _state(folder, "global_step")


def other_batches(folder: Path, config: DictConfig, processes: int, by_size: bool = False) -> str | None:
    """What a line says of a run that goes on with other batches, or on another number of processes; None for neither.

    Where all processes together have batches as before, their samples and noise are those of the run that goes on.
    by_size: whether batches hold neighbours in size; which those are then depends on how many are in one too.
    """
    saved = load_yaml(checkpoint.load_config_text(folder)).training
    before = _state(folder, "processes", processes)  # checkpoints of earlier versions have none
    was = saved.batch_size * saved.get("accumulate", 1) * before
    now = config.training.batch_size * config.training.accumulate * processes
    where = f"resumed on {_several(processes)} instead of {before}: " if processes != before else "resumed: "
    alike = saved.batch_size * before == config.training.batch_size * processes
    if was == now and (alike or not by_size):
        same = f"{where}batches of {now} as before, so it goes on with the same samples and noise"
        return same if processes != before else None
    batches = f"batches of {now} instead of {was}" if was != now else f"batches of {now} in other parts"
    return f"{where}{batches}, so it continues statistically, not as it would have gone on"


def _several(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _state(folder: Path, key: str, default: int | None = None) -> int:
    """A number in the state of a step folder."""
    file = folder / checkpoint.STATE
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["state"]["dict"]
        return int(entries[key] if default is None else entries.get(key, default))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as the state of a checkpoint: {error}") from error


def initialise(denoiser: Denoiser, path: str | Path) -> str:
    """Loads another run's averaged weights where name and shape agree, to fine-tune; says how many were left as new."""
    weights = checkpoint.load_weights(checkpoint.find(path))
    own = denoiser.state_dict()
    same = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    if not same:
        raise UserError(f"init_from={path}: none of its {len(weights)} tensors fits this network")
    denoiser.load_state_dict(same, strict=False)
    left = sorted(set(own) - set(same))
    return f"begins from {path}" + (f"; new: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}" if left else "")
