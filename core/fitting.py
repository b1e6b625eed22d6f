"""Densities of log-SNR measured from a model: where to spend sampling steps, and where training steps."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from core import random
from core.batch import Batch
from core.denoiser import BaseDenoiser
from core.objective import Losses
from core.random import Stream


class Density(NamedTuple):
    """edges: (K + 1,) increasing log-SNR; density: (K,), of mean 1. What `times.Fitted` and `levels.Fitted` take."""

    edges: list[float]
    density: list[float]


@torch.no_grad()
def fit_times(denoiser: BaseDenoiser, batch: Batch, bins: int = 24, seed: int = 0) -> Density:
    """How fast the denoised data changes with log-SNR, along the noising of real data: a density for `times.Fitted`.

    batch: some dozens of encoded samples. A step of DDIM takes x_0 for constant; its error is what x_0 changes by
    meanwhile, so equal shares of that change make equal errors. The noise of each sample is the same at all levels.
    """
    schedule = denoiser.schedule
    edges = torch.linspace(*schedule.ends, bins + 1, dtype=torch.float64)
    key = random.keys(seed, Stream.LIKELIHOOD, torch.arange(len(batch)), device=batch.x.device)
    noise = random.normal(key, batch.x.shape[1:], batch.x.dtype)
    eps = denoiser.space.randn_like(batch.x, batch.mask, noise)
    dim = denoiser.space.dim(batch.x, batch.mask)

    def denoised(t: Tensor) -> Tensor:
        times = t.to(batch.x).expand(len(batch))
        return denoiser(denoiser.q_sample(batch, times, eps), times, batch.mask, batch.cond).x0

    states = [denoised(t) for t in schedule.inverse(edges)]
    changes = [float((((b - a) ** 2).flatten(1).sum(1) / dim).mean().sqrt()) for a, b in pairwise(states)]
    return _density(edges, torch.tensor(changes, dtype=torch.float64) / edges.diff())


def fit_levels(losses: Losses, ends: tuple[float, float], bins: int = 24) -> Density:
    """The root mean square of the loss by log-SNR: Nichol & Dhariwal 2021, eq. 18, as a density for `levels.Fitted`.

    losses: from a validation with uniform levels. ends: of the density, in log-SNR. Bins without a loss count as the
    mean of the others.
    """
    edges = torch.linspace(*ends, bins + 1, dtype=torch.float64)
    where = torch.bucketize(losses.log_snr.double().cpu(), edges[1:-1])
    count = torch.zeros(bins, dtype=torch.float64).index_add_(0, where, torch.ones(len(where), dtype=torch.float64))
    total = torch.zeros(bins, dtype=torch.float64).index_add_(0, where, losses.loss.double().cpu() ** 2)
    if not bool(count.any()):
        raise ValueError("no losses to fit a density to")
    root = (total / count.clamp(min=1)).sqrt()
    return _density(edges, torch.where(count > 0, root, root[count > 0].mean()))


def _density(edges: Tensor, values: Tensor) -> Density:
    return Density(edges.tolist(), (values / values.mean()).tolist())
