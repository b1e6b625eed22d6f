"""The training loop's side of Lightning: it takes batches to the objective and losses to the logs, no mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from core import random
from core.batch import Batch
from core.codec import Codec
from core.data import Data, global_positions
from core.denoiser import Denoiser
from core.objective import Losses, Objective, Taken
from core.random import Stream


@dataclass(frozen=True)
class Optimisation:
    """AdamW and its learning rate: a linear warm-up, flat until the share `flat` of all steps, cosine down to `final`.

    lr: the peak. warmup: in steps. clip_norm: of the gradient, None for none. clip_recent: also, by how many of its
    last norms it is clipped, see `core.clipping`. ema_decay: the limit of the ramped average's decay, see `decay`.
    """

    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    amsgrad: bool = False
    warmup: int = 100
    flat: float = 0.4
    final: float = 0.02
    clip_norm: float | None = 1.0
    clip_recent: int | None = None
    ema_decay: float = 0.998

    def factor(self, step: int, total: int | None) -> float:
        """The learning rate's factor at a step (0-based) of `total`; None while the total is still unknown."""
        warm = min(1.0, (step + 1) / max(self.warmup, 1))
        if total is None or step <= (start := self.flat * total) or total <= start:
            return warm
        progress = min(1.0, (step - start) / (total - start))
        return warm * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress)))

    def decay(self, k: int) -> float:
        """The decay of the averaged weights at update k (0-based); the first one takes the weights as they are."""
        return min(self.ema_decay, (k + 1) / (k + 10)) if k else 0.0

    def optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """AdamW, fused where it exists; norms' and biases' one-dimensional parameters are not decayed."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        fused = parameters[0].device.type in ("cpu", "cuda", "mps", "xpu")
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            amsgrad=self.amsgrad,
            fused=fused,
        )


@dataclass(frozen=True)
class Shared:
    """What the copies of a module have in common, such as a method of its data, which may fill the memory."""

    value: Callable[..., Any]

    def __deepcopy__(self, memo: object) -> Shared:
        return self


class DiffusionModule(pl.LightningModule):
    """A denoiser, its objective and its optimisation, as Lightning's `Trainer` wants them.

    total_steps: of optimisation; None until a budget in minutes has become a number of steps (see `core.budget`).
    keeps_total: whether a checkpoint's number of steps holds for the resumed run; false for a new budget in minutes.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Codec,
        data: Data,
        objective: Objective,
        optimisation: Optimisation,
        total_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.total_steps = total_steps
        self.optimisation, self.objective = optimisation, objective
        self._codec, self._augment = codec, Shared(data.augment)
        self.validation_losses: list[Losses] = []
        self.keeps_total = True
        self.taken: list[Taken] = []  # the micro-batches of the step that is being taken, and their losses
        self.losses: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        accumulate, step = self.trainer.accumulate_grad_batches, self.trainer.global_step
        micro = batch_idx % accumulate
        if micro == 0:
            self.taken, self.losses = [], []
        size = len(batch) * self.trainer.world_size
        positions = micro * size + global_positions(len(batch), self.global_rank, self.trainer.world_size)
        batch = self._augment.value(batch, self.objective.augmentation(batch, step, positions))
        # what draws from torch's own generator, such as dropout, is a function of (seed, step, rank) too
        key = random.keys(self.objective.seed, Stream.DROPOUT, step, micro, self.global_rank)
        taken = Taken(self._codec.encode(batch), step, positions, size * accumulate, int(key))
        loss = self.objective.again(self.denoiser, taken).loss.mean()
        self.taken.append(taken)
        self.losses.append(loss.detach())
        self.log("train/loss", loss, on_step=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loader: Any = self.trainer.val_dataloaders
        places = torch.tensor(loader.batch_sampler[batch_idx], device=batch.x.device)
        losses = self.objective.validation(self.denoiser, self._codec.encode(batch), places, len(loader.dataset))
        self.validation_losses.append(losses)
        self.log("val/loss", losses.loss.mean(), batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimisation.optimizer(self.denoiser)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: self.optimisation.factor(k, self.total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Gives a resumed optimiser what the command line says anew, and its moments the layout of their weights.

        Those of a checkpoint may be of another layout (trainer.channels_last), and a fused optimiser does not look.
        """
        for schedule in self.trainer.lr_scheduler_configs:
            self._retuned(schedule.scheduler)
        for optimizer in self.trainer.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if value.shape == parameter.shape and value.stride() != parameter.stride():
                        state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)

    def _retuned(self, schedule: Any) -> None:
        """A checkpoint brings its own learning rate and weight decay; where they are as they were, no bit changes."""
        wanted, lr = self.optimisation.optimizer(self.denoiser).param_groups, self.optimisation.lr
        for place, (group, new) in enumerate(zip(schedule.optimizer.param_groups, wanted, strict=True)):
            if (before := schedule.base_lrs[place]) != lr:
                group["lr"] *= lr / before
            schedule.base_lrs[place] = group["initial_lr"] = lr
            group["weight_decay"] = new["weight_decay"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["total_steps"] = self.total_steps
        checkpoint["processes"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.keeps_total:
            self.total_steps = self.total_steps or checkpoint["total_steps"]
        # batches are counted anew: a step may be of another number of them now, and begins with its first one
        count = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
        for counts in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(counts, dict):
                counts.update(dict.fromkeys(("ready", "started", "processed", "completed"), count))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)
