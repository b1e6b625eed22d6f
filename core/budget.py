"""A budget in minutes as a number of steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from core.module import DiffusionModule

RESERVE = 0.05  # the share of the minutes that is kept for validation, previews and checkpoints until one was timed
PLANS = 10  # of a budget, beside those at validations


def interval(validate_every: int, steps: int) -> int:
    """Steps between validations: about `validate_every`, such that the last one falls at the end (or just before)."""
    return max(1, steps // max(1, round(steps / validate_every)))


class Budget(Callback):
    """Turns minutes into a number of steps, and keeps it right while the machine is slower or faster for a time.

    The first plan is made when `skip` + `measure` steps are over, or a tenth of the minutes; another at each further
    tenth and at each validation, of the steps' time since the plan before. The minutes begin with training, and what
    validations will take, by the last one's time, is not spent on steps. The number is written into the module (the
    learning rate's schedule reads it there) and with it into checkpoints: a resumed run keeps the one that it finds.
    Validations come about every `validate_every` steps, the last one at the end. announce: told how many steps the
    minutes are, whenever that has changed by a tenth, and the seconds of each. The first process decides for all. It
    must stand after whatever else validates or saves, whose time is not that of steps.
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
        self.announced = 0
        self.validating: float | None = None  # seconds of the last validation, with its preview and checkpoint

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        self.begun = time.monotonic()
        self.first = self.seen = self.validated = trainer.global_step
        self.next = 0  # the step of the next plan; the first one goes by the clock
        self.plans = pl_module.total_steps is None  # else resumed: settled already
        self._mark(trainer)
        if not self.plans:
            self._settle(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if not self.plans or trainer.global_step == self.seen:
            return
        self.seen = trainer.global_step
        if self.next not in (0, self.seen) or trainer.val_check_batch == self.seen * trainer.accumulate_grad_batches:
            return
        outputs["loss"].item()  # an accelerator runs behind: wait for it
        if self.next == 0 and self.seen - self.first == self.skip:
            self._mark(trainer)
        else:
            self._plan(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the checkpoint of this validation, which the new number belongs in."""
        assert isinstance(pl_module, DiffusionModule)
        self.validated, self.paused = trainer.global_step, time.monotonic()
        goes_on = pl_module.total_steps is not None and self.validated < pl_module.total_steps
        if goes_on and self.plans and self.marked < self.validated:
            self._plan(trainer, pl_module)
        elif goes_on:
            self._settle(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark(trainer)
        self.validating = self.since - self.paused

    def _mark(self, trainer: pl.Trainer) -> None:
        self.marked, self.since = trainer.global_step, time.monotonic()

    def _plan(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        done = trainer.global_step
        left, each = trainer.strategy.broadcast(self._decide(done))
        if left is None:
            return
        module.total_steps = total = done + max(left, 1)
        self.next = done + max(1, int(self.seconds / PLANS / each))
        self._settle(trainer, module)
        self._mark(trainer)
        if abs(total - self.first - self.announced) > self.announced / 10:
            self.announced = total - self.first
            self.announce(self.announced, each)

    def _decide(self, done: int) -> tuple[int | None, float]:
        """The steps that the rest of the budget pays for, None where it is too early to tell; the seconds of each."""
        now = time.monotonic()
        if self.next == 0 and done - self.first < self.skip + self.measure and now - self.begun < self.seconds / PLANS:
            return None, 0.0
        each, left = (now - self.since) / (done - self.marked), self.seconds - (now - self.begun)
        if self.validating is None:
            return int(max(0.0, left - RESERVE * self.seconds) / each), each
        return int(max(0.0, left - self.validating) / (each + self.validating / self.validate_every)), each

    def _settle(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        """The steps' number and the next validation become the trainer's."""
        total = module.total_steps
        assert total is not None
        trainer.fit_loop.epoch_loop.max_steps = total
        at = self.validated + interval(self.validate_every, total - self.validated)
        # Lightning validates at multiples of this: the first one is the next validation
        trainer.val_check_batch = max(at, trainer.global_step + 1) * trainer.accumulate_grad_batches
