"""Which noise levels training visits, as inverse distribution functions: stratified u give stratified t."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from core.schedules import Schedule

PerSample = Float[Tensor, " b"]


class NoiseLevels:
    """Maps u in (0, 1), uniform or stratified over the batch, to times t of the schedule."""

    def __call__(self, u: PerSample, schedule: Schedule) -> PerSample:
        raise NotImplementedError


def _times_between_ends(log_snr: Tensor, schedule: Schedule) -> Tensor:
    return schedule.inverse(log_snr.clamp(*schedule.ends))


class Uniform(NoiseLevels):
    """t uniform between the times of the schedule's training ends."""

    def __call__(self, u: PerSample, schedule: Schedule) -> PerSample:
        lowest, highest = schedule.inverse(torch.tensor(schedule.ends[::-1], dtype=torch.float64)).tolist()
        return lowest + (highest - lowest) * u


class Discrete(NoiseLevels):
    """t uniform over the grid 1/T, 2/T, ..., 1: the integer times of Ho et al. 2020."""

    def __init__(self, num_steps: int = 1000) -> None:
        self.num_steps = num_steps

    def __call__(self, u: PerSample, schedule: Schedule) -> PerSample:
        return ((u * self.num_steps).floor() + 1).clamp(max=self.num_steps) / self.num_steps


class LogNormal(NoiseLevels):
    """ln(sigma/alpha) ~ N(mean, std^2): Karras et al. 2022, table 1; cut at the schedule's training ends."""

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        if std <= 0:
            raise ValueError(f"std={std}: must be positive")
        self.mean, self.std = mean, std

    def __call__(self, u: PerSample, schedule: Schedule) -> PerSample:
        log_sigma = self.mean + self.std * torch.special.ndtri(u)
        return _times_between_ends(-2 * log_sigma, schedule)


class Fitted(NoiseLevels):
    """Log-SNR with a given piecewise-constant density, for example one measured from a run's loss by noise level.

    edges: (K + 1,) increasing log-SNR.  density: (K,) non-negative, up to a constant factor.
    """

    def __init__(self, edges: Sequence[float], density: Sequence[float]) -> None:
        self.quantile = PiecewiseDensity(edges, density).quantile

    def __call__(self, u: PerSample, schedule: Schedule) -> PerSample:
        return _times_between_ends(self.quantile(1 - u), schedule)  # u = 0 is the data's end, as in the other classes


class PiecewiseDensity:
    """A distribution of log-SNR with constant density between `edges`; see `Fitted` here and in `core.times`."""

    def __init__(self, edges: Sequence[float], density: Sequence[float]) -> None:
        self.edges = torch.as_tensor(edges, dtype=torch.float64)
        mass = torch.as_tensor(density, dtype=torch.float64) * self.edges.diff() if len(edges) > 1 else self.edges
        if len(edges) != len(density) + 1 or bool((self.edges.diff() <= 0).any()) or bool((mass < 0).any()):
            raise ValueError(
                f"{len(edges)} edges and {len(density)} densities: need one edge more than densities, "
                "increasing edges and non-negative densities"
            )
        if not float(mass.sum()) > 0:
            raise ValueError("the density is zero everywhere")
        self.cumulative = torch.cat([mass.new_zeros(1), mass.cumsum(0) / mass.sum()])

    def quantile(self, u: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The log-SNR below which lies the share u of the distribution."""
        edges, cumulative = self.edges.to(u.device, u.dtype), self.cumulative.to(u.device, u.dtype)
        i = (torch.searchsorted(cumulative, u, right=True) - 1).clamp(0, len(edges) - 2)
        mass = (cumulative[i + 1] - cumulative[i]).clamp(min=torch.finfo(u.dtype).tiny)
        return torch.lerp(edges[i], edges[i + 1], ((u - cumulative[i]) / mass).clamp(0, 1))

    def share_below(self, log_snr: float) -> float:
        """The inverse of `quantile`."""
        inside = ((log_snr - self.edges[:-1]) / self.edges.diff()).clamp(0, 1)
        return float((inside * self.cumulative.diff()).sum())
