"""Optimisation outside Lightning's loop: of judges and regressors, and in benchmarks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from core.module import Optimisation


class Descent:
    """AdamW with clipped gradients, called with a loss.

    total: steps of the learning rate's schedule; None holds it at its peak after the warm-up.
    """

    def __init__(self, model: nn.Module, optimisation: Optimisation, total: int | None = None) -> None:
        self.optimisation, self.total, self.steps = optimisation, total, 0
        self._parameters: list[Tensor] = [*model.parameters()]
        self._optimizer = optimisation.optimizer(model)

    def __call__(self, loss: Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.optimisation.lr * self.optimisation.factor(self.steps, self.total)
        self._optimizer.zero_grad()
        loss.backward()
        if self.optimisation.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.optimisation.clip_norm)
        self._optimizer.step()
        self.steps += 1


class Update(Descent):
    """The same, and the ramped average of the weights: `average` is a copy of the model that holds it."""

    def __init__(self, model: nn.Module, optimisation: Optimisation, total: int | None = None) -> None:
        super().__init__(model, optimisation, total)
        self.average = copy.deepcopy(model).requires_grad_(False)
        self._averaged: list[Tensor] = [*self.average.parameters()]

    def __call__(self, loss: Tensor) -> None:
        decay = self.optimisation.decay(self.steps)
        super().__call__(loss)
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._parameters, 1 - decay)
