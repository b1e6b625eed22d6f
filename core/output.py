"""Samples on their way to disk: made in micro-batches, kept as they come, continued where they were interrupted."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.batch import Batch, concatenate
from core.build import plain
from core.errors import UserError
from core.model import Model
from core.progress import counting
from core.runs import write_json

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

ARRAYS, GRID, MANIFEST = "samples.npz", "grid.png", "manifest.json"
GRID_SAMPLES = 100


def write_samples(
    model: Model, config: DictConfig, folder: Path, console: Console, request: Mapping[str, object]
) -> Batch | None:
    """Draws config.n samples into `folder` and returns them; None while another process still draws its share.

    Writes one artefact a sample, grid.png, samples.npz (`x` decoded, and the conditions under their names; `mask` where
    there is padding) and manifest.json. request: what the samples follow from; a folder with the same request is
    continued, one with another is refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts, manifest = folder / ".parts", folder / MANIFEST
    _check_same(manifest, request)
    parts.mkdir(exist_ok=True)
    begun, n, size = time.monotonic(), int(config.n), int(config.micro_batch)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    firsts = list(range(0, n, size))

    def part(first: int) -> Path:
        return parts / f"{first:08d}.npz"

    def wanted(first: int) -> bool:
        return (first // size) % world == rank and not part(first).exists()

    todo = [first for first in firsts if wanted(first)]
    write_json(manifest, {"request": dict(request), "done": False})
    template = model.modality.template(n, plain(config.cond))
    stream = model.stream(template, config, seed=config.seed, micro_batch=size, wanted=wanted)
    with counting(console, "sampling", sum(min(size, n - first) for first in todo)) as count:
        for first, batch in zip(todo, stream, strict=True):
            model.modality.write(batch, folder, first)
            _save(part(first), batch)
            count(len(batch))
    if not all(part(first).exists() for first in firsts):
        return None
    samples = concatenate([read_arrays(part(first)) for first in firsts])
    _save(folder / ARRAYS, samples)
    model.modality.grid(samples[:GRID_SAMPLES], folder / GRID)
    made = {"n": n, "nfe": model.nfe, "seconds": round(time.monotonic() - begun, 2), "device": str(model.device)}
    write_json(manifest, {"request": dict(request), "done": True, **made})
    shutil.rmtree(parts, ignore_errors=True)
    return samples


def _check_same(manifest: Path, request: Mapping[str, object]) -> None:
    if not manifest.exists():
        return
    before = json.loads(manifest.read_text())
    if before.get("request") != json.loads(json.dumps(request)):
        raise UserError(f"{manifest.parent} holds samples of another request; choose another out= or remove it")
    if before.get("done"):
        shutil.rmtree(manifest.parent / ".parts", ignore_errors=True)


def _save(path: Path, batch: Batch) -> None:
    arrays = {"x": batch.x, **batch.cond} | ({} if batch.mask[0].numel() == 1 else {"mask": batch.mask})
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: value.numpy() for name, value in arrays.items()})
    os.replace(part, path)


def read_arrays(path: Path) -> Batch:
    """The samples of a samples.npz. Arrays of Python objects, which would have to be unpickled, are refused."""
    with np.load(path, allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    x, mask = tensors.pop("x"), tensors.pop("mask", None)
    return Batch.full(x, tensors) if mask is None else Batch(x, mask, tensors)


def write_trajectory(model: Model, config: DictConfig, folder: Path, n: int = 8, moments: int = 12) -> None:
    """The way of the first n samples from noise to data, at about `moments` moments, drawn by the modality."""
    states: list[Batch] = []
    template = model.modality.template(int(config.n), plain(config.cond))[:n]
    every = max(1, round(int(config.steps) / moments))

    def keep(done: int, s: torch.Tensor, x_s: torch.Tensor) -> None:
        if done % every == 0 or s == 0:
            states.append(model.codec.decode(template.to(x_s.device).with_x(x_s)).to("cpu"))

    for _ in model.stream(template, config, seed=config.seed, callback=keep):
        model.modality.trajectory(states, folder)
