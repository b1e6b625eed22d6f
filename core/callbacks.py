"""What happens beside the training steps: averaging, checkpoints, previews and curves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from core import checkpoint
from core.denoiser import Denoiser
from core.module import DiffusionModule, Optimisation
from core.plots import level_curve, loss_curve
from core.sharding import Sharded, denoiser_of, gathered, is_sharded, local, shared_out


class Averaging(WeightAveraging):
    """The exponential moving average of the weights, with the optimisation's ramped decay."""

    def __init__(self, optimisation: Optimisation) -> None:
        def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
            share = 1 - optimisation.decay(int(updates))
            torch._foreach_lerp_([local(a) for a in averaged], [local(c) for c in current], share)

        super().__init__(multi_avg_fn=torch.no_grad()(average))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shares out the average as the weights are by now."""
        if isinstance(trainer.strategy, Sharded):
            trainer.strategy.shard(self._averaged().network)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["state_dict"] = gathered(checkpoint["state_dict"])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if is_sharded(trainer):
            own = pl_module.state_dict()
            parts = {name: shared_out(checkpoint[name], own) for name in ("state_dict", "current_model_state")}
            checkpoint = {**checkpoint, **parts}
        super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _averaged(self) -> Denoiser:
        assert self._average_model is not None
        module = self._average_model.module
        assert isinstance(module, DiffusionModule)
        return module.denoiser


class Checkpoints(Callback):
    """Writes a step folder at each validation and at the end, keeps `keep` of them, the last and the best.

    It must stand before `Averaging`, which replaces the weights by their averages when training ends.
    """

    def __init__(self, run: Path, keep: int = 2) -> None:
        self.run, self.keep, self.best = run, keep, float("inf")
        self.saved = -1  # the step; a folder of that name may also be left from before a resumption
        self.whole = -1  # the last step of which all is done: weights, their average, the learning rate

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.whole = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        loss = float(trainer.callback_metrics.get("val/loss", torch.tensor(float("nan"))))
        if is_best := loss < self.best:  # not so for nan
            self.best = loss
        self._save(trainer)
        if is_best and trainer.is_global_zero:
            checkpoint.point(self.run, "best", checkpoint.step_name(trainer.global_step))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Saves the last step of an interrupted run where that is safe; else its last checkpoint is the one to resume.

        During validation the averaged weights stand in the model; several processes may stand at different steps, but
        for SIGTERM, at which all of them stop between two batches, see `core.termination`.
        """
        told = isinstance(exception, SIGTERMException)
        if not told and (not isinstance(exception, KeyboardInterrupt) or trainer.world_size > 1):
            return
        if not trainer.validating and trainer.global_step > 0 and (told or trainer.global_step == self.whole):
            _rewind(trainer)
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        folder = self.run / checkpoint.FOLDER / checkpoint.step_name(trainer.global_step)
        if self.saved != trainer.global_step:
            trainer.save_checkpoint(folder)
            self.saved = trainer.global_step
        if trainer.is_global_zero:
            checkpoint.prune(self.run, self.keep)


def _rewind(trainer: pl.Trainer) -> None:
    """Sets the count of batches back to the end of the last step: a resumed run begins the next one from its start."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    begun = progress.current.completed % trainer.accumulate_grad_batches
    counts: Any  # Lightning's annotation names only two of the four
    for counts in (progress.current, progress.total):
        counts.ready = counts.started = counts.processed = counts.completed = counts.completed - begun


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
        edges = torch.linspace(*pl_module.denoiser.schedule.ends, self.bins + 1)
        bins = torch.bucketize(log_snr, edges[1:-1])
        means = [float(loss[bins == b].mean()) for b in range(self.bins)]  # nan where no sample fell
        pl_module.log_dict(
            {f"val/loss_at_log_snr_{float(edges[b : b + 2].mean()):+.1f}": m for b, m in enumerate(means) if m == m},
            sync_dist=True,  # the same on all ranks already: this tells Lightning so
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

    draw: step, denoiser -> path of the picture. It must stand before `Averaging`, which swaps the weights back after
    validation.
    """

    def __init__(self, draw: Callable[[int, Denoiser], Path]) -> None:
        self.draw = draw

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        denoiser = denoiser_of(trainer)  # all processes ask for it, should it be shared out
        if not trainer.is_global_zero:
            return
        path = self.draw(trainer.global_step, denoiser)
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                logger.experiment.add_image("samples", _as_array(path), trainer.global_step, dataformats="HWC")


def _as_array(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))
