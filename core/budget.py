"""A budget in minutes as a number of steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from core.module import DiffusionModule

RESERVE = 0.05  # the share of the minutes that is kept for validation, previews and checkpoints


def interval(validate_every: int, steps: int) -> int:
    """Steps between validations: about `validate_every`, such that the last one falls at the end (or just before)."""
    return max(1, steps // max(1, round(steps / validate_every)))


class Budget(Callback):
    """Turns minutes into a number of steps, once: after the first `skip` steps of the process it times `measure` more.

    The minutes begin with training; a share `RESERVE` of them is not spent on steps. The number is written into the
    module (the learning rate's schedule reads it there) and with it into checkpoints, so that a resumed run keeps it.
    It settles the interval between validations too, about `validate_every` steps, and is a multiple of it. announce:
    told the number, and the seconds a step takes. The first process decides for all.
    """

    def __init__(
        self,
        minutes: float,
        validate_every: int,
        announce: Callable[[int, float], None],
        skip: int = 5,
        measure: int = 25,
    ) -> None:
        self.seconds, self.validate_every, self.announce = 60 * minutes, validate_every, announce
        self.skip, self.measure = skip, measure

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        self.begun = self.warm = time.monotonic()
        self.first = self.seen = trainer.global_step
        if pl_module.total_steps is not None:  # resumed: settled already
            self._settle(trainer, pl_module.total_steps)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if pl_module.total_steps is not None or trainer.global_step == self.seen:
            return
        self.seen = trainer.global_step
        outputs["loss"].item()  # an accelerator runs behind: wait for it
        steps, each = trainer.strategy.broadcast(self._decide(trainer.global_step - self.first))
        if steps is None:
            return
        total = self.first + steps
        total = max(total // (every := interval(self.validate_every, total)) * every, trainer.global_step + 1)
        pl_module.total_steps = total
        self._settle(trainer, total)
        self.announce(total, each)

    def _decide(self, done: int) -> tuple[int | None, float]:
        """The steps that the budget pays for, of which `done` are over, and the seconds of each; None to go on."""
        now = time.monotonic()
        if done == self.skip:
            self.warm = now
        if done < self.skip + self.measure and now - self.begun < self.seconds / 10:
            return None, 0.0
        # where a tenth of the budget is over already, all steps count
        each = (now - self.warm) / (done - self.skip) if done > self.skip else (now - self.begun) / done
        left = max(0.0, self.seconds * (1 - RESERVE) - (now - self.begun))
        return done + int(left / each), each

    def _settle(self, trainer: pl.Trainer, total: int) -> None:
        trainer.fit_loop.epoch_loop.max_steps = total
        trainer.val_check_batch = interval(self.validate_every, total) * trainer.accumulate_grad_batches
