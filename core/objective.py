"""The training step as a pure function: a sample's time, noise and dropped conditions follow from its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core import random
from core.batch import NO_CONDITIONS, Batch
from core.denoiser import Denoiser
from core.levels import NoiseLevels
from core.random import Stream


class Losses(NamedTuple):
    """The loss of each sample and the log-SNR at which it was taken, both (B,)."""

    loss: Float[Tensor, " b"]
    log_snr: Float[Tensor, " b"]


@dataclass(frozen=True)
class Taken:
    """What a loss was taken of, enough to take it again: an encoded batch and its place in training.

    positions: of its samples in a global batch of `total`. key: torch's own seed for what draws from it (dropout).
    """

    batch: Batch
    step: int
    positions: Int[Tensor, " b"]
    total: int
    key: int


@dataclass(frozen=True)
class Objective:
    """The loss of encoded data at random noise levels, for training or, with fixed draws, for validation.

    levels: the distribution of the times. drop_rate: the share of samples whose conditions are dropped, for
    classifier-free guidance. seed: of all draws. Sample `position` of a global batch of `total` gets a time from the
    stratum [position, position + 1) / total, so that each batch covers all noise levels.
    """

    levels: NoiseLevels
    drop_rate: float = 0.1
    seed: int = 0

    def training(self, denoiser: Denoiser, batch: Batch, step: int, positions: Int[Tensor, " b"], total: int) -> Losses:
        """The losses of the samples at `positions` of global batch number `step`."""
        key = self._keys(batch, Stream.TRAIN_DROP, step, positions)
        if batch.cond.keys() - NO_CONDITIONS and self.drop_rate:
            dropped = random.uniform(key, ()) < self.drop_rate
            batch = Batch(batch.x, batch.mask, {**batch.cond, "drop": dropped})
        return self._losses(denoiser, batch, (Stream.TRAIN_TIME, Stream.TRAIN_NOISE), step, positions, total)

    def again(self, denoiser: Denoiser, taken: Taken) -> Losses:
        """The losses of a batch of training, as they were. Seeds torch's own generator."""
        torch.manual_seed(taken.key)
        return self.training(denoiser, taken.batch, taken.step, taken.positions, taken.total)

    def validation(self, denoiser: Denoiser, batch: Batch, positions: Int[Tensor, " b"], total: int) -> Losses:
        """The losses of held-out samples with the same levels and noise every time, nothing dropped."""
        # the levels of neighbouring positions are spread by a fixed permutation: held-out data may be sorted
        spread = random.permutation(0, 0, total).to(positions.device)[positions]
        return self._losses(denoiser, batch, (Stream.VALIDATION_TIME, Stream.VALIDATION_NOISE), 0, spread, total)

    def augmentation(self, batch: Batch, step: int, positions: Int[Tensor, " b"]) -> Float[Tensor, "b 8"]:
        """The uniform numbers from which the data's augmentation of this step follows."""
        return random.uniform(self._keys(batch, Stream.TRAIN_AUGMENT, step, positions), (8,))

    def _losses(
        self, denoiser: Denoiser, batch: Batch, streams: tuple[Stream, Stream], step: int, positions: Tensor, total: int
    ) -> Losses:
        time_key, noise_key = (self._keys(batch, stream, step, positions) for stream in streams)
        u = (positions.to(batch.x.device) + random.uniform(time_key)) / total
        t = self.levels(u.clamp(max=1 - torch.finfo(u.dtype).eps), denoiser.schedule)
        noise = random.normal(noise_key, batch.x.shape[1:], batch.x.dtype)
        eps = denoiser.space.beside(batch.cond.get("keep")).randn_like(batch.x, batch.mask, noise)
        return Losses(denoiser.loss(batch, t, eps), denoiser.schedule.log_snr(t))

    def _keys(self, batch: Batch, stream: Stream, step: int, positions: Tensor) -> Int[Tensor, " b"]:
        device = batch.x.device
        return random.keys(self.seed, stream, step, positions.to(device), device=device)
