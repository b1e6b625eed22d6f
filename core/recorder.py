"""The flight recorder: a step whose loss or gradient is no number is not applied, but written down to be taken again.

    run/flight/step-00001234/
        record.json                  where it was, the losses, and the module in which it began
        batches.safetensors          what the step was taken on, in diffusion coordinates
        model.safetensors            the weights that it would have changed
        config.yaml                  the resolved config of the run

Times, noise and dropped conditions follow from the seed, the step and the places in the batch, so nothing more is
needed: `python -m core.train replay=run/flight/step-00001234` takes the step again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from core import checkpoint, tensor_files
from core.batch import Batch
from core.denoiser import Denoiser
from core.diagnosis import Diagnosis, diagnose
from core.errors import UserError
from core.module import DiffusionModule
from core.objective import Taken
from core.runs import Reporter, write_json
from core.sharding import denoiser_of, local

FOLDER, RECORD, BATCHES = "flight", "record.json", "batches.safetensors"
MOST = 5  # records of a run: the first ones tell how it began


@dataclass
class Spikes:
    """Losses far above the recent ones, judged by the mean and the variance of their logarithm over some 100 steps."""

    far: float = 6.0  # standard deviations
    quiet: int = 50  # steps after the start, or after a report, in which nothing is reported
    decay: float = 0.99
    mean: float = 0.0
    var: float = 0.0
    seen: int = 0
    last: int = 0

    def __call__(self, loss: float) -> float | None:
        """What is usual, if this loss is a spike."""
        value = math.log(max(loss, 1e-30))
        usual, spread = self.mean, max(math.sqrt(self.var), 0.05)
        self.seen += 1
        keep = min(self.decay, self.seen / (self.seen + 1)) if self.seen > 1 else 0.0
        is_spike = self.seen > self.quiet and self.seen - self.last > self.quiet and value - usual > self.far * spread
        off = min(value, usual + self.far * spread) - usual if self.seen > self.quiet else value - usual
        self.mean += (1 - keep) * off
        self.var = keep * (self.var + (1 - keep) * off**2)
        if is_spike:
            self.last = self.seen
        return math.exp(usual) if is_spike else None


class Recorder(Callback):
    """Takes the gradients of a step away where they, or its loss, are no numbers; after `patience` in a row it stops.

    All processes decide alike. Each writes what it has seen; the one that has seen nothing wrong writes nothing.
    """

    def __init__(self, run: Path, config_text: str, report: Reporter, patience: int = 10) -> None:
        self.run, self.config_text, self.report, self.patience = run, config_text, report, patience
        self.spikes, self.in_a_row, self.records, self.losses = Spikes(), 0, 0, 0.0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        losses = torch.stack(pl_module.losses)
        norms = torch.stack(torch._foreach_norm(list(map(local, gradients)))) if gradients else losses.new_zeros(1)
        own = bool(torch.isfinite(losses.sum() + norms.sum()))
        if trainer.strategy.reduce_boolean_decision(own):
            self.in_a_row = 0
            loss = float(losses.mean())
            if (usual := self.spikes(loss)) is not None:
                self.report(f"step {trainer.global_step}: the loss is {loss:.3g}, lately {usual:.3g}")
            return
        denoiser = denoiser_of(trainer)
        where = "" if own else self._record(trainer, pl_module, denoiser)
        if not where:
            self.report(f"step {trainer.global_step} is not applied: its loss or gradient is no number")
        for parameter in pl_module.parameters():
            parameter.grad = None  # an optimiser passes over it: no moment, no decay, no step
        self.in_a_row += 1
        if self.in_a_row >= self.patience:
            raise UserError(
                f"{self.in_a_row} steps in a row, up to {trainer.global_step}, have a loss or a gradient that is no "
                f"number: lower optimisation.lr or choose trainer.precision=32-true{where}"
            )

    def _record(self, trainer: pl.Trainer, module: DiffusionModule, denoiser: Denoiser) -> str:
        """Writes the step down; where, as the end of a sentence."""
        step = trainer.global_step
        name = checkpoint.step_name(step) + (f"-rank-{trainer.global_rank}" if trainer.world_size > 1 else "")
        folder = self.run / FOLDER / name
        self.records += 1
        if self.records > MOST:
            return ""
        with trainer.precision_plugin.forward_context():
            found = diagnose(denoiser, module.objective, module.taken)
        write(folder, denoiser, module.taken, self.config_text, found, str(trainer.precision))
        self.report(f"step {step} is not applied: {found}; replay={folder} takes it again")
        return f"; replay={folder} takes the last one written down again"


def write(
    folder: Path, denoiser: Denoiser, steps: Sequence[Taken], config_text: str, found: Diagnosis, precision: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    about: list[dict[str, int]] = []
    for number, taken in enumerate(steps):
        parts = {"x": taken.batch.x, "mask": taken.batch.mask, "positions": taken.positions}
        parts |= {f"cond.{name}": value for name, value in taken.batch.cond.items()}
        tensors |= {f"{number}.{name}": value.detach().cpu().contiguous() for name, value in parts.items()}
        about.append({"step": taken.step, "total": taken.total, "key": taken.key})
    tensor_files.save(tensors, folder / BATCHES)
    weights = {name: value.detach().cpu().contiguous() for name, value in denoiser.state_dict().items()}
    tensor_files.save(weights, folder / checkpoint.MODEL)
    (folder / checkpoint.CONFIG).write_text(config_text, encoding="utf-8")
    write_json(folder / RECORD, {"micro_batches": about, "precision": precision, "found": found.as_dict()})


def read(folder: Path) -> tuple[list[Taken], Mapping[str, Any]]:
    """The micro-batches of a record, and what record.json says. UserError if it is none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        about: Sequence[Mapping[str, int]] = record["micro_batches"]
        tensors = tensor_files.read(folder / BATCHES)
        return [_taken(tensors, number, one) for number, one in enumerate(about)], record
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder} cannot be read as a record of a step: {type(error).__name__} {error}") from error


def _taken(tensors: Mapping[str, Tensor], number: int, about: Mapping[str, int]) -> Taken:
    start = f"{number}.cond."
    cond = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    batch = Batch(tensors[f"{number}.x"], tensors[f"{number}.mask"], cond)
    positions = tensors[f"{number}.positions"]
    return Taken(batch, int(about["step"]), positions, int(about["total"]), int(about["key"]))
