"""What happens beside the training steps: averaging, the budget in minutes, checkpoints, previews and curves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from core import checkpoint
from core.errors import UserError
from core.module import DiffusionModule
from core.plots import level_curve, loss_curve


class Averaging(WeightAveraging):
    """The exponential moving average of the weights with the ramped decay min(decay, (k + 1) / (k + 10))."""

    def __init__(self, decay: float) -> None:
        def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
            k = int(updates)
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (k + 1) / (k + 10)))

        super().__init__(multi_avg_fn=torch.no_grad()(average))


class Finite(Callback):
    """Stops at a loss that is not a number, before a checkpoint of it is written. Looks at every tenth step."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % 10 == 0 and not bool(outputs["loss"].isfinite()):
            raise UserError(
                f"the loss is {float(outputs['loss'])} at step {trainer.global_step}: lower optimisation.lr, or resume "
                "from the last checkpoint with trainer.detect_anomaly=true to see where it begins"
            )


class Budget(Callback):
    """Turns minutes into a number of steps, once: after the first `skip` steps it times `measure` more.

    The number is written into the module (the learning rate's schedule reads it there) and with it into checkpoints, so
    that a resumed run keeps it. every: steps between validations; a larger number is rounded to a multiple of it, so
    that the last validation falls at the end. announce: told the number, and the seconds a step takes.
    """

    def __init__(
        self, minutes: float, every: int, announce: Callable[[int, float], None], skip: int = 5, measure: int = 25
    ) -> None:
        self.seconds, self.every, self.announce = 60 * minutes, every, announce
        self.skip, self.measure = skip, measure
        self.begun = self.warm = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        self.begun = time.monotonic()
        if pl_module.total_steps is not None:  # resumed: settled already
            trainer.fit_loop.epoch_loop.max_steps = pl_module.total_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if pl_module.total_steps is not None:
            return
        if trainer.global_step == self.skip:
            self.warm = time.monotonic()
        if trainer.global_step < self.skip + self.measure and time.monotonic() - self.begun < self.seconds / 10:
            return
        done = trainer.global_step
        if done > self.skip:
            each = (time.monotonic() - self.warm) / (done - self.skip)
        else:  # a tenth of the budget is over already
            each = (time.monotonic() - self.begun) / max(done, 1)
        left = max(0.0, self.seconds - (time.monotonic() - self.begun))
        steps = int(trainer.strategy.broadcast(done + int(left / each)))
        steps = steps // self.every * self.every if steps >= self.every else max(steps, done + 1)
        pl_module.total_steps = trainer.fit_loop.epoch_loop.max_steps = steps
        self.announce(pl_module.total_steps, each)


class Checkpoints(Callback):
    """Writes a step folder at each validation and at the end, keeps `keep` of them, the last and the best.

    It must stand before `Averaging`, which replaces the weights by their averages when training ends.
    """

    def __init__(self, run: Path, keep: int = 2) -> None:
        self.run, self.keep, self.best = run, keep, float("inf")
        self.saved = -1  # the step; a folder of that name may also be left from before a resumption

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        loss = float(trainer.callback_metrics.get("val/loss", torch.tensor(float("nan"))))
        is_best, self.best = loss < self.best, min(loss, self.best)
        self._save(trainer)
        if is_best and trainer.is_global_zero:
            checkpoint.point(self.run, "best", checkpoint.step_name(trainer.global_step))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if trainer.global_step and isinstance(exception, KeyboardInterrupt):
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        folder = self.run / checkpoint.FOLDER / checkpoint.step_name(trainer.global_step)
        if self.saved != trainer.global_step:
            trainer.save_checkpoint(folder)
            self.saved = trainer.global_step
        if trainer.is_global_zero:
            checkpoint.prune(self.run, self.keep)


class Curves(Callback):
    """Validation: the loss by noise level, as numbers in the loggers and as pictures in the run folder."""

    def __init__(self, run: Path, bins: int = 10) -> None:
        self.run, self.bins = run, bins
        self.history: list[tuple[int, list[float]]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        pl_module.validation_losses.clear()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if trainer.sanity_checking or not pl_module.validation_losses:
            return
        both = torch.stack([torch.cat(part).float() for part in zip(*pl_module.validation_losses, strict=True)])
        gathered: Any = pl_module.all_gather(both)  # (2, n), or (ranks, 2, n)
        loss, log_snr = gathered.movedim(-2, 0).flatten(1).cpu()
        edges = torch.linspace(*pl_module.denoiser.schedule.train_ends, self.bins + 1)
        bins = torch.bucketize(log_snr, edges[1:-1])
        means = [float(loss[bins == b].mean()) for b in range(self.bins)]  # nan where no sample fell
        pl_module.log_dict(
            {f"val/loss_at_log_snr_{float(edges[b : b + 2].mean()):+.1f}": m for b, m in enumerate(means) if m == m}
        )
        self.history.append((trainer.global_step, means))
        if trainer.is_global_zero:
            level_curve(self.run / "loss_by_level.png", edges.tolist(), self.history)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            loss_curve(self.run / "loss.png", sorted((self.run / "metrics").glob("from-*/metrics.csv")))


class Previews(Callback):
    """A picture of samples of the averaged weights at each validation, in the run folder and in TensorBoard.

    draw: step -> path of the picture. It must stand before `Averaging`, which swaps the weights back after validation.
    """

    def __init__(self, draw: Callable[[int], Path]) -> None:
        self.draw = draw

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        path = self.draw(trainer.global_step)
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                logger.experiment.add_image("samples", _as_array(path), trainer.global_step, dataformats="HWC")


def _as_array(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))
