"""Time grids for sampling: decreasing lists from (almost) t = 1 to t = 0, float64 on the CPU.

Each class is called with the schedule and returns n + 1 times, so that n is the number of sampler steps. With a table
of T steps the paper's 0-based step i is t = (i + 1) / T; the grids that the papers state in steps take `num_steps` = T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from core.levels import PiecewiseDensity
from core.schedules import BetaTable, Schedule

Grid = Float[Tensor, " n_plus_1"]


class Times:
    """A time grid of n steps."""

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"n={n}: a time grid needs at least one step")
        self.n = n

    def __call__(self, schedule: Schedule) -> Grid:
        """n + 1 decreasing times, the last one 0."""
        raise NotImplementedError


class Uniform(Times):
    """1, 1 - 1/n, ..., 0, each moved by `log_snr_shift`: the uniform grid of a shifted schedule.

    Positive shifts put more of the steps at low noise. A schedule whose natural curve is finite at an end may have no
    room for a shift: ValueError.
    """

    def __init__(self, n: int, log_snr_shift: float = 0.0) -> None:
        super().__init__(n)
        self.log_snr_shift = log_snr_shift

    def __call__(self, schedule: Schedule) -> Grid:
        times = torch.linspace(1, 0, self.n + 1, dtype=torch.float64)
        if self.log_snr_shift:  # the ends stay where they are: pure noise, and the data
            times[1:-1] = schedule.moved(times[1:-1], self.log_snr_shift)
            if bool((times.diff() >= 0).any()):
                raise ValueError(f"log_snr_shift={self.log_snr_shift}: beyond the ends of this schedule for n={self.n}")
        return times


class _Stepped(Times):
    """A grid stated in the integer steps of a table."""

    def __init__(self, n: int, num_steps: int = 1000) -> None:
        super().__init__(n)
        if n > num_steps:
            raise ValueError(f"n={n}: a table of {num_steps} steps cannot give more")
        self.num_steps = num_steps

    def steps(self) -> Float[Tensor, " n"]:
        """The 0-based steps, increasing."""
        raise NotImplementedError

    def __call__(self, schedule: Schedule) -> Grid:
        times = (self.steps().to(torch.float64) + 1) / self.num_steps
        return torch.cat([times.flip(0), torch.zeros(1, dtype=torch.float64)])


class Trailing(_Stepped):
    """Steps round(T - i T/n) - 1: begins at pure noise, as Lin et al. 2024, table 2, recommend."""

    def steps(self) -> Float[Tensor, " n"]:
        i = torch.arange(self.n, dtype=torch.float64)
        return ((self.num_steps - i * self.num_steps / self.n).round() - 1).flip(0)


class Leading(_Stepped):
    """Steps 0, T//n, 2 T//n, ...: the uniform grid of the DDIM paper. It begins below t = 1."""

    def steps(self) -> Float[Tensor, " n"]:
        return torch.arange(self.n, dtype=torch.float64) * (self.num_steps // self.n)


class Quadratic(_Stepped):
    """Steps int(linspace(0, sqrt(.8 T), n)^2): the DDIM paper's quadratic grid; duplicates at small t are dropped."""

    def steps(self) -> Float[Tensor, " n"]:
        return torch.linspace(0, math.sqrt(0.8 * self.num_steps), self.n, dtype=torch.float64).square().floor().unique()


class Karras(Times):
    """sigma/alpha spaced by its rho-th root between the schedule's sampling ends, then 0: Karras et al. 2022, eq. 5."""

    def __init__(self, n: int, rho: float = 7.0) -> None:
        super().__init__(n)
        self.rho = rho

    def __call__(self, schedule: Schedule) -> Grid:
        sigma_max, sigma_min = (math.exp(-end / 2) ** (1 / self.rho) for end in schedule.ends)
        sigma = torch.linspace(sigma_max, sigma_min, self.n, dtype=torch.float64) ** self.rho
        return _then_data(schedule, -2 * sigma.log())


class LogSNR(Times):
    """Equal steps of log-SNR between the schedule's sampling ends, then 0.

    lowest, highest: other ends for the equal steps, within the schedule's. Sampling begins at pure noise all the same:
    above `lowest` one step leads from there. Where the denoised data hardly depends on the noise yet, or is as good as
    clean, steps are spent in vain.
    """

    def __init__(self, n: int, lowest: float | None = None, highest: float | None = None) -> None:
        super().__init__(n)
        self.lowest, self.highest = lowest, highest

    def __call__(self, schedule: Schedule) -> Grid:
        low, high = schedule.ends
        first, last = (low if self.lowest is None else self.lowest), (high if self.highest is None else self.highest)
        if not low <= first < last <= high:
            raise ValueError(f"lowest={first:g}, highest={last:g}: must rise within the schedule's {low:g} to {high:g}")
        if first == low or self.n == 1:
            return _then_data(schedule, torch.linspace(low, last, self.n, dtype=torch.float64))
        steps = torch.linspace(first, last, self.n - 1, dtype=torch.float64)
        return _then_data(schedule, torch.cat([steps.new_tensor([low]), steps]))


class Fitted(Times):
    """Steps of equal mass under a density of log-SNR, then 0: dense where the denoised data changes fastest.

    edges: (K + 1,) increasing log-SNR; density: (K,), up to a constant factor. `core.fitting.fit_times` measures both.
    """

    def __init__(self, n: int, edges: Sequence[float], density: Sequence[float]) -> None:
        super().__init__(n)
        self.density = PiecewiseDensity(edges, density)

    def __call__(self, schedule: Schedule) -> Grid:
        low, high = (self.density.share_below(end) for end in schedule.ends)
        log_snr = self.density.quantile(torch.linspace(low, high, self.n, dtype=torch.float64))
        log_snr[0] = schedule.ends[0]  # sampling begins at pure noise, wherever the density does
        return _then_data(schedule, log_snr)


class NoiseTable(Times):
    """The noise levels of another, shorter table of betas, then 0: the fast sampling of DiffWave (Kong et al. 2021).

    betas: (n,), as of `core.schedules.BetaTable`. With `DDPM` the steps between the times have these betas.
    """

    def __init__(self, n: int, betas: Sequence[float]) -> None:
        super().__init__(n)
        if n != len(betas):
            raise ValueError(f"n={n}: a table of {len(betas)} betas is a grid of {len(betas)} steps")
        self.table = BetaTable(betas)

    def __call__(self, schedule: Schedule) -> Grid:
        log_snr = self.table.log_snr(torch.linspace(1, 1 / self.n, self.n, dtype=torch.float64))
        if float(log_snr[0]) < schedule.ends[0] - 1e-6:
            raise ValueError(
                f"the table of betas ends at a log-SNR of {float(log_snr[0]):.3g}, noisier than the schedule's end, "
                f"{schedule.ends[0]:.3g}"
            )
        return _then_data(schedule, log_snr)


def _then_data(schedule: Schedule, log_snr: Float[Tensor, " n"]) -> Grid:
    """The times of n increasing log-SNRs, and t = 0 after them."""
    times = schedule.inverse(log_snr)
    return torch.cat([times, times.new_zeros(1)])
