"""How the squared error is weighted over noise levels, apart from what the network outputs.

All weights are stated on the squared error of x_0 in terms of SNR = alpha^2 / sigma^2; since x_0's error is c_out times
the network's, the loss is computed as  w(SNR) c_out^2 |F - F*|^2, which is well conditioned at every level. In these
terms the textbook's |eps - eps_theta|^2 is w = SNR (Ho et al. 2020, eq. 14).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.prediction import Level
from core.schedules import Schedule


class Weighting:
    """Called with per-sample numbers that broadcast against x; returns the factor on the network's squared error."""

    def __call__(self, schedule: Schedule, t: Level, c_out: Level) -> Tensor:
        return self.weight(schedule, t) * c_out**2

    def weight(self, schedule: Schedule, t: Level) -> Tensor:
        """w on the squared error of x_0."""
        raise NotImplementedError


class EpsilonLoss(Weighting):
    """w = SNR: the squared error of the noise, L_simple of Ho et al. 2020, eq. 14."""

    def weight(self, schedule: Schedule, t: Level) -> Tensor:
        return schedule.log_snr(t).exp()


class SampleLoss(Weighting):
    """w = 1: the squared error of the data."""

    def weight(self, schedule: Schedule, t: Level) -> Tensor:
        return torch.ones_like(t)


class NetworkLoss(Weighting):
    """The squared error of the network's own output, whatever it is: w = 1 / c_out^2 (Karras et al. 2022, eq. 8)."""

    def __call__(self, schedule: Schedule, t: Level, c_out: Level) -> Tensor:
        return torch.ones_like(c_out)


class MinSNR(Weighting):
    """w = min(SNR, gamma): Hang et al. 2023, eq. 11."""

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = gamma

    def weight(self, schedule: Schedule, t: Level) -> Tensor:
        return schedule.log_snr(t).exp().clamp(max=self.gamma)


class TruncatedSNR(Weighting):
    """w = max(SNR, floor): Salimans & Ho 2022, section 4."""

    def __init__(self, floor: float = 1.0) -> None:
        self.floor = floor

    def weight(self, schedule: Schedule, t: Level) -> Tensor:
        return schedule.log_snr(t).exp().clamp(min=self.floor)


class P2(Weighting):
    """w = SNR / (k + SNR)^gamma: Choi et al. 2022, eq. 8."""

    def __init__(self, gamma: float = 1.0, k: float = 1.0) -> None:
        self.gamma, self.k = gamma, k

    def weight(self, schedule: Schedule, t: Level) -> Tensor:
        snr = schedule.log_snr(t).exp()
        return snr / (self.k + snr) ** self.gamma


class VariationalBound(Weighting):
    """w = T/2 (SNR(s) - SNR(t)), s = t - 1/T: the diffusion loss of Kingma et al. 2021, eq. 13-14.

    With uniform t its mean is the bound's sum over T steps, in nats per degree of freedom; the first step, whose s is
    the data itself, counts up to the schedule's highest training level.
    """

    def __init__(self, num_steps: int = 1000) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps}: need at least one")
        self.num_steps = num_steps

    def weight(self, schedule: Schedule, t: Level) -> Tensor:
        highest = schedule.ends[1]
        log_snr_s = schedule.log_snr((t - 1 / self.num_steps).clamp(min=0)).clamp(max=highest)
        return self.num_steps / 2 * (log_snr_s.exp() - schedule.log_snr(t).exp()).clamp(min=0)


class Columns(Weighting):
    """Another weighting, times one factor per column (the last axis of x): say, 3 on coordinates and 1 on features."""

    def __init__(self, weighting: Weighting, factors: Sequence[float]) -> None:
        self.weighting = weighting
        self.factors = torch.as_tensor(factors, dtype=torch.float32)

    def __call__(self, schedule: Schedule, t: Level, c_out: Level) -> Tensor:
        return self.weighting(schedule, t, c_out) * self.factors.to(c_out.device)
