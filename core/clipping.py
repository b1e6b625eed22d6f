"""Gradients clipped to what has been usual lately: the rule of E(3) diffusion's training (Hoogeboom et al. 2022)."""

from __future__ import annotations

import math
import statistics
from typing import Any

import lightning.pytorch as pl
import torch

from core.sharding import whole


class RecentClipping(pl.Callback):
    """The gradient's norm is held to 1.5 times the mean plus twice the standard deviation of the last `recent` norms.

    A norm that was held counts as what it was held to. Nothing is clipped until there are `recent` norms. They are part
    of every checkpoint, so a resumed run clips as the one that was not interrupted. A step that is passed over, its
    gradients taken away or its norm not finite, does not count.
    """

    def __init__(self, recent: int) -> None:
        if recent < 2:
            raise ValueError(f"clip_recent={recent}: must be at least 2, or null")
        self.recent = recent
        self.norms: list[float] = []

    @property
    def bound(self) -> float:
        if len(self.norms) < self.recent:
            return math.inf
        return 1.5 * statistics.fmean(self.norms) + 2 * statistics.pstdev(self.norms)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters, bound = list(pl_module.parameters()), self.bound
        if not (gradients := [p.grad for p in parameters if p.grad is not None]):
            return
        norm = torch.nn.utils.get_total_norm(gradients)
        size = float(whole(norm))
        if not math.isfinite(size):
            return
        torch.nn.utils.clip_grads_with_norm_(parameters, bound, norm)
        self.norms = [*self.norms, min(size, bound)][-self.recent :]

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.norms = list(state_dict["norms"])
