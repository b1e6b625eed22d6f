"""The memory of a process that trains, against what it needs on paper."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.common import Run, count, grown
from core.build import build_denoiser
from core.denoiser import Denoiser
from core.errors import UserError

STEPS = 3  # after which no more is allocated
COPIES = 5  # of the weights: they, their gradients, two moments, the average


@dataclass(frozen=True)
class Footprint:
    """Bytes. peak: by which the process grew. kept: what autograd keeps of a step. weights: one copy of them."""

    peak: float
    kept: int
    weights: int

    @property
    def on_paper(self) -> int:
        return COPIES * self.weights + self.kept


def footprint(modality: str, device: str = "cpu", overrides: str = "") -> Footprint:
    """Measured in a new process, whose memory nothing has been in."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (modality, device, overrides))


def _measured(modality: str, device: str, overrides: str) -> Footprint:
    torch.set_num_threads(1)
    run = Run.of(f"modality={modality}", *overrides.split())
    batch = run.codec.encode(run.data.train.batch(range(run.config.training.batch_size))).to(device)
    run.denoiser.to(device)
    run.step(batch[:1])()  # the libraries' own memory, once
    trained: list[tuple[Denoiser, Callable[[], None]]] = []

    def trains() -> None:
        fresh = replace(run, denoiser=build_denoiser(run.config, run.codec).to(device))
        step = fresh.step(batch)
        for _ in range(STEPS):
            step()
        trained.append((fresh.denoiser, step))

    if (peak := grown(trains, device)) is None:
        raise UserError("what=memory: this system does not tell a process's memory")
    ((denoiser, step),) = trained
    return Footprint(peak, _kept(step, denoiser), 4 * count(denoiser))


def _kept(step: Callable[[], None], denoiser: nn.Module) -> int:
    """Bytes of what a step's graph holds on to, each storage once, without the weights."""
    own = {p.untyped_storage().data_ptr() for p in denoiser.parameters()}
    held: dict[int, Tensor] = {}  # alive, so that no storage's place is taken by another's

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())
