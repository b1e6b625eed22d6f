"""Checkpoints on disk: folders of safetensors, YAML and JSON. Nothing in them is code, and nothing is unpickled.

    run/checkpoints/last                      name of the newest complete step folder
    run/checkpoints/best                      name of the best one
    run/checkpoints/step-00001000/
        model.safetensors                     the raw weights of the denoiser
        ema.safetensors                       the averaged weights; absent if the run does not average
        config.yaml                           the resolved config of the run
        state.json, state.safetensors         what resuming needs: the structure of the tree, and its tensors
        digests.json                          the SHA-256 of the files above: what is broken is named, not loaded

A step folder appears under its name only when all of it is on the disk, and `last` names it only after that; so a write
that is interrupted at any point leaves the checkpoint before it usable.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from core import digests, tensor_files
from core.errors import UserError
from core.shipped import models
from core.tree import decode, encode, storable

FOLDER, MODEL, EMA, CONFIG = "checkpoints", "model.safetensors", "ema.safetensors", "config.yaml"
STATE, STATE_TENSORS, FORMAT = "state.json", "state.safetensors", 1
Pointer = Literal["last", "best"]


def step_name(step: int) -> str:
    """The name of the folder of an optimiser step: `step-00001000`."""
    return f"step-{step:08d}"


def save(
    folder: Path | str,
    model: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None,
    state: Any,
    config_text: str,
) -> None:
    """Writes one step folder, replacing one of the same name, and makes `last` beside it name it.

    `ema` is None where the run keeps no averaged weights. `state` is a tree of dict, OrderedDict, list, tuple, None,
    bool, int, float, str and Tensor; TypeError names the first thing in it that is something else.
    """
    folder = Path(folder)
    if not _is_bare(folder.name):
        raise ValueError(f"the folder is named {folder.name!r}, but may have only letters, digits and _ - . =")
    structure, tensors = encode(state)
    weights = {name: _weights(values, name) for name, values in ((MODEL, model), (EMA, ema)) if values is not None}
    folder.parent.mkdir(parents=True, exist_ok=True)
    _tidy(folder.parent)

    unfinished, replaced = _hidden(folder, "tmp"), _hidden(folder, "old")
    unfinished.mkdir()
    for name, values in {**weights, STATE_TENSORS: tensors}.items():
        tensor_files.save(values, unfinished / name)
    (unfinished / CONFIG).write_text(config_text, encoding="utf-8")
    document = {"format": FORMAT, "state": structure}
    (unfinished / STATE).write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    digests.write(unfinished)
    for file in unfinished.iterdir():
        _flush(file)
    _flush(unfinished)

    # A folder cannot be replaced in one step: until the second rename, `find` reads the one set aside.
    if folder.exists():
        folder.rename(replaced)
    unfinished.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    _replace_text(folder.parent / "last", folder.name)


def export(folder: Path, weights: Mapping[str, Tensor], config_text: str) -> int:
    """Writes a folder with float16 weights and the config alone, which `find` takes for a step folder; its bytes.

    UserError if something of that name is there already.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already: choose another out=, or remove it")
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    unfinished = _hidden(folder, "tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tensor_files.save(_weights(half, MODEL), unfinished / MODEL)
    (unfinished / CONFIG).write_text(config_text, encoding="utf-8")
    digests.write(unfinished)
    unfinished.rename(folder)
    return sum(file.stat().st_size for file in folder.iterdir())


def load_weights(folder: Path | str, averaged: bool = True) -> dict[str, Tensor]:
    """The denoiser's weights on the CPU: the averaged ones, or the raw ones if asked for or if there are no others."""
    ema = Path(folder) / EMA
    return _load_tensors(ema if averaged and (ema.exists() or digests.names(ema)) else ema.with_name(MODEL))


def load_state(folder: Path | str) -> Any:
    """The tree that `save` was given as `state`, its tensors on the CPU."""
    file = Path(folder) / STATE
    digests.check(file)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise UserError(f"{file} has format {document['format']}, but this version reads format {FORMAT}")
        return decode(document["state"], _load_tensors(file.with_name(STATE_TENSORS)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as the state of a checkpoint: {_one_line(error)}") from error


def load_config_text(folder: Path | str) -> str:
    """The resolved config of the run, as YAML."""
    file = Path(folder) / CONFIG
    digests.check(file)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {_one_line(error)}") from error


def find(path: Path | str, which: Pointer = "last") -> Path:
    """The step folder that `path` means: itself, or the last or best one of a run folder or a checkpoints folder.

    If `last` is missing or names a folder that is gone, the newest step folder is the last one. Where there is nothing
    of that path, it may be the name of a model that comes with the project, see `core.shipped`.
    """
    path = Path(path)
    if not path.exists() and (shipped := models().get(str(path))):
        return shipped
    if (path / MODEL).is_file():
        return path
    checkpoints = path / FOLDER if (path / FOLDER).is_dir() else path
    name = _pointed(checkpoints, which)
    candidates = [checkpoints / name, _hidden(checkpoints / name, "old")] if name else []
    if which == "last":
        candidates += reversed(_step_folders(checkpoints))
    for folder in candidates:
        if (folder / MODEL).is_file():
            return folder
    named = "" if path.exists() or len(path.parts) != 1 else f"; by name there are {', '.join(models())}"
    raise UserError(
        f"no {which} checkpoint in {path}: expected a run folder, its {FOLDER}/ folder, or a step folder with {MODEL}"
        + named
    )


def point(run: Path | str, which: Pointer, name: str) -> None:
    """Makes `last` or `best` of a run folder name one of its step folders, atomically."""
    checkpoints = Path(run) / FOLDER
    if not _is_bare(name) or not (checkpoints / name / MODEL).is_file():
        raise ValueError(f"{which} cannot name {name!r}: {checkpoints} has no such complete step folder")
    _replace_text(checkpoints / which, name)


def prune(run: Path | str, keep: int) -> None:
    """Removes the oldest step folders of a run, but for the newest `keep` besides those that `last` and `best` name."""
    if keep < 0:
        raise ValueError(f"keep is {keep}, but must be at least 0")
    checkpoints = Path(run) / FOLDER
    folders = _step_folders(checkpoints)
    named = {find(checkpoints).name, _pointed(checkpoints, "best")} if folders else set()
    others = [folder for folder in folders if folder.name not in named]
    for folder in others[: max(len(others) - keep, 0)]:
        remove(folder)


def remove(folder: Path | str) -> None:
    """Removes a step folder; it loses its name first, so that no half of it is ever taken for a checkpoint."""
    folder = Path(folder)
    if folder.exists():
        _tidy(folder.parent)
        shutil.rmtree(folder.rename(_hidden(folder, "tmp")))


def _weights(values: Mapping[str, Any], file: str) -> dict[str, Tensor]:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} of {file} is a {type(value).__name__}, but weights are tensors")
    return {name: storable(value, name).contiguous() for name, value in values.items()}


def _load_tensors(file: Path) -> dict[str, Tensor]:
    digests.check(file)
    return tensor_files.read(file)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())


def _pointed(checkpoints: Path, which: Pointer) -> str | None:
    """The name in `last` or `best`; None without one. A path (it might lead out of the folder) is no name."""
    try:
        name = (checkpoints / which).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return name if _is_bare(name) else None


def _is_bare(name: str) -> bool:
    return re.fullmatch(r"\w[\w.=-]*", name) is not None


def _step_folders(checkpoints: Path) -> list[Path]:
    """The complete step folders, oldest first."""
    folders = [folder for folder in checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", folder.name)]
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))


def _hidden(folder: Path, role: Literal["tmp", "old"]) -> Path:
    """Where a folder is written or removed (tmp), and where it waits while its successor takes its name (old)."""
    return folder.with_name(f".{folder.name}.{role}")


def _tidy(checkpoints: Path) -> None:
    """Clears what an interrupted write or removal left behind."""
    for leftover in checkpoints.glob(".*.tmp"):
        shutil.rmtree(leftover)
    for replaced in checkpoints.glob(".*.old"):
        folder = replaced.with_name(replaced.name.removeprefix(".").removesuffix(".old"))
        if folder.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(folder)


def _replace_text(file: Path, text: str) -> None:
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(text + "\n", encoding="utf-8")
    _flush(fresh)
    os.replace(fresh, file)
    _flush(file.parent)


def _flush(path: Path) -> None:
    """Waits until a file or the entries of a folder are on the disk (only POSIX lets a folder be flushed)."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
