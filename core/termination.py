"""SIGTERM to several processes: all of them stop before the same batch, whichever of them was told."""

from __future__ import annotations

import signal
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException


class Termination(Callback):
    """Agrees at each batch whether one of the processes was told to stop.

    Lightning's own handler speaks to the others from wherever the signal finds it, in the middle of other talk perhaps,
    and may wait for ever. This one only takes a note. A single process is left to Lightning.
    """

    def __init__(self) -> None:
        self.told = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:  # Lightning puts back what was there before, when training is over
            signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self.told, all=False):
            raise SIGTERMException

    def _note(self, *_: object) -> None:
        self.told = True
