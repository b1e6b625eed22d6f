"""Samples on their way to disk: made in micro-batches, kept as they come, continued where they were interrupted."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.batch import Batch, concatenate, padded
from core.build import plain
from core.data import Source, whole
from core.errors import UserError
from core.model import Model
from core.progress import counting
from core.runs import write_json

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

ARRAYS, MANIFEST, PARTS = "samples.npz", "manifest.json", ".parts"
SAMPLING = ("sampler", "times", "guidance", "clip", "steps")  # the parts of a config that only sampling reads
POLL_SECONDS = 0.2
# seconds without anything new after which another process is given up; at least so many of the longest micro-batches
# of this one, because others may be slower, and after which of them a line says for what it waits
PATIENCE, TIMES_LONGEST, SPEAKS = 600.0, 20, 60.0


@dataclass(frozen=True)
class Share:
    """Which of `world` processes this one is: of the micro-batches, it draws number rank, rank + world, ..."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_launcher(cls) -> Share:
        """As torchrun or SLURM's srun has started this process; all of it without them."""
        for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if rank in os.environ and world in os.environ:
                return cls(int(os.environ[rank]), int(os.environ[world]))
        return cls()


ALL = Share()


def request(checkpoint: str, config: DictConfig, averaged: bool = True) -> dict[str, object]:
    """What samples follow from: the checkpoint, and what `config` says of sampling."""
    chosen = plain(config)
    keys = (*SAMPLING, "n", "seed", "cond", "micro_batch")
    return {"checkpoint": checkpoint, "averaged": averaged, **{key: chosen.get(key) for key in keys}}


def write_samples(
    model: Model,
    config: DictConfig,
    folder: Path,
    console: Console,
    request: Mapping[str, object],
    share: Share = ALL,
    held_out: Source | None = None,
) -> Batch | None:
    """Draws config.n samples into `folder` and returns them; None on all processes but the first, which waits for them.

    Writes one artefact a sample, what `Modality.present` draws, samples.npz (`x` decoded, and the conditions under
    their names; `mask` where there is padding; the modality's `about`) and manifest.json. request: what the samples
    follow from, see `request`; a folder with the same request is continued, one with another is refused. share: of this
    process, where several draw into one folder: the first one gives up, with a UserError, when nothing has come for ten
    minutes or 20 of its longest micro-batches, and the same command goes on later. held_out: real data to draw beside
    the samples, and to take those conditions from that only data has.
    """
    begun, n, size = time.monotonic(), int(config.n), int(config.micro_batch)
    firsts = range(0, n, size)
    template = model.template(n, plain(config.cond), held_out)  # before the folder is taken by a request that is wrong
    if not _begin(folder, request, share):
        return None

    def wanted(first: int) -> bool:
        return (first // size) % share.world == share.rank and not _part(folder, first).exists()

    todo = [first for first in firsts if wanted(first)]
    stream = model.stream(template, config, seed=config.seed, micro_batch=size, wanted=wanted)
    longest, before = 0.0, time.monotonic()
    with counting(console, "sampling", sum(min(size, n - first) for first in todo)) as count:
        for first, batch in zip(todo, stream, strict=True):
            model.modality.write(batch, folder, first)
            write_arrays(_part(folder, first), batch)
            count(len(batch))
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
    if share.rank:
        return None
    _wait(folder, firsts, size, share, console, max(PATIENCE, TIMES_LONGEST * longest))
    samples = concatenate([read_arrays(_part(folder, first)) for first in firsts])
    write_arrays(folder / ARRAYS, samples, model.modality.about)
    model.modality.present(samples, folder, None if held_out is None else whole(held_out, n))
    made = {"n": n, "nfe": model.nfe, "seconds": round(time.monotonic() - begun, 2), "device": str(model.device)}
    write_json(folder / MANIFEST, {"request": dict(request), "done": True, **made})
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return samples


def begin_edits(folder: Path, request: Mapping[str, object]) -> None:
    """Takes the folder for these edits. UserError if it holds others."""
    _begin(folder, request, ALL)


def write_edits(model: Model, edited: Batch, folder: Path, request: Mapping[str, object]) -> None:
    """Edited samples, decoded, as `write_samples` leaves them: artefacts, pictures, samples.npz, manifest.json."""
    model.modality.write(edited, folder, 0)
    write_arrays(folder / ARRAYS, edited, model.modality.about)
    model.modality.present(edited, folder, None)
    done = {"n": len(edited), "nfe": model.nfe, "device": str(model.device)}
    write_json(folder / MANIFEST, {"request": dict(request), "done": True, **done})
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _part(folder: Path, first: int) -> Path:
    return folder / PARTS / f"{first:08d}.npz"


def _begin(folder: Path, request: Mapping[str, object], share: Share) -> bool:
    """Readies the folder; the first process does it, and the others wait until it has. False if all is done already."""
    manifest, begun = folder / MANIFEST, time.monotonic()
    if share.rank:
        while (done := _is_done(manifest, request)) is not False:
            if time.monotonic() - begun > PATIENCE:
                if done:  # by the first process, before this one came: nothing was left to draw
                    return False
                raise UserError(f"rank 0 has not begun to draw into {folder} within {PATIENCE:.0f} s: has it died?")
            time.sleep(POLL_SECONDS)
        return True
    folder.mkdir(parents=True, exist_ok=True)
    if _is_done(manifest, request):
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    (folder / PARTS).mkdir(exist_ok=True)
    write_json(manifest, {"request": dict(request), "done": False})
    return True


def _wait(folder: Path, firsts: Sequence[int], size: int, share: Share, console: Console, limit: float) -> None:
    """Until the other processes' shares are there too. UserError when nothing has come for `limit` seconds."""
    missing = [first for first in firsts if not _part(folder, first).exists()]
    if not missing:
        return
    came = spoke = time.monotonic()
    with counting(console, "waiting for the other processes", len(missing)) as count:
        while missing:
            time.sleep(POLL_SECONDS)
            left, now = [first for first in missing if not _part(folder, first).exists()], time.monotonic()
            if len(left) < len(missing):
                count(len(missing) - len(left))
                came = spoke = now
            missing = left
            if missing and now - came > limit:
                whose = _whose(missing, size, share)
                raise UserError(f"nothing for {limit:.0f} s from {whose}: the same command goes on with what is there")
            if missing and now - spoke > SPEAKS:
                spoke = now
                console.print(f"nothing for {now - came:.0f} s from {_whose(missing, size, share)}")


def _whose(missing: Sequence[int], size: int, share: Share) -> str:
    """Whose samples are missing, and from which ones on: `rank 1 (samples from 2, 6)`."""
    ranks: dict[int, list[int]] = {}
    for first in missing:
        ranks.setdefault((first // size) % share.world, []).append(first)
    return ", ".join(
        f"rank {rank} (samples from {', '.join(map(str, found[:5]))}{', ...' if len(found) > 5 else ''})"
        for rank, found in sorted(ranks.items())
    )


def _is_done(manifest: Path, request: Mapping[str, object]) -> bool | None:
    """Whether the samples of this request are complete; None where none were begun. UserError for another request."""
    if not manifest.exists():
        return None
    before = json.loads(manifest.read_text())
    if before.get("request") != json.loads(json.dumps(request)):
        raise UserError(f"{manifest.parent} holds samples of another request; choose another out= or remove it")
    return bool(before.get("done"))


def write_arrays(path: Path, batch: Batch, about: Mapping[str, float] | None = None) -> None:
    """A samples.npz, which is there whole or not at all; about: single numbers that are of all of the samples."""
    arrays = {"x": batch.x, **batch.cond} | ({} if batch.mask[0].numel() == 1 else {"mask": batch.mask})
    arrays |= {name: torch.tensor(value) for name, value in (about or {}).items()}
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: value.numpy() for name, value in arrays.items()})
    os.replace(part, path)


def read_arrays(path: Path) -> Batch:
    """The samples of a samples.npz; single numbers, which are about all of them, are left out.

    ValueError for arrays of Python objects, which would have to be unpickled, and for packed ones, which could become
    any size: `write_arrays` packs nothing.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            _check_member(archive, member)
    with np.load(path, allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files if arrays[name].ndim}
    x, mask = tensors.pop("x"), tensors.pop("mask", None)
    return Batch.full(x, tensors) if mask is None else Batch(x, mask, tensors)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """ValueError unless the array has the size that its header says."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is packed")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        reads = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reads(file)
        size = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and file.tell() + size != member.file_size:
            raise ValueError(f"{member.filename} says {size:,} bytes and has {member.file_size - file.tell():,}")


def write_trajectory(model: Model, config: DictConfig, folder: Path, n: int = 8, moments: int = 12) -> None:
    """The way of n of the samples from noise to data, at about `moments` moments, drawn by the modality."""
    states: list[Batch] = []
    whole_request = model.template(int(config.n), plain(config.cond))
    # spread over the request: its order may mean something, such as size
    rows = torch.linspace(0, len(whole_request) - 1, min(n, len(whole_request))).round().long()
    template, every = whole_request[rows], max(1, round(int(config.steps) / moments))

    def keep(done: int, s: torch.Tensor, x_s: torch.Tensor) -> None:
        if done % every == 0 or s == 0:
            state = template.to(x_s.device).with_x(padded(x_s, template.x))
            states.append(model.codec.decode(state).to("cpu"))

    model.draw(template, config, config.seed, rows, callback=keep)
    model.modality.trajectory(states, folder)
