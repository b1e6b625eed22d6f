"""The memory of a process that trains, against what it needs on paper."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common import Run, count, peak, reset_peak, training_step
from core.build import build_denoiser, part
from core.denoiser import Denoiser
from core.errors import UserError
from core.module import Optimisation
from core.objective import Objective

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
    config, codec, batch = _inputs(modality, overrides)
    batch = batch.to(device)
    _step(config, build_denoiser(config, codec).to(device), batch[:1])()  # the libraries' own memory, once
    if device == "cpu":
        before = reset_peak()
        if before is None:
            raise UserError("what=memory: this system does not tell a process's memory")
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    denoiser = build_denoiser(config, codec).to(device)
    step = _step(config, denoiser, batch)
    for _ in range(STEPS):
        step()
    after = peak() if device == "cpu" else torch.cuda.max_memory_allocated()
    assert after is not None
    return Footprint(after - before, _kept(step, denoiser), 4 * count(denoiser))


def _inputs(modality: str, overrides: str):
    run = Run.of(f"modality={modality}", *overrides.split())
    return run.config, run.codec, run.codec.encode(run.data.train.batch(range(run.config.training.batch_size)))


def _step(config, denoiser: Denoiser, batch):
    objective = Objective(part(config, "levels"), config.training.drop_rate, config.seed)
    return training_step(denoiser, batch, objective, Optimisation(**config.optimisation))


def _kept(step, denoiser: Denoiser) -> int:
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
