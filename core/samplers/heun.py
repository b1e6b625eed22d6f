"""Heun's method, of second order by two evaluations a step, with the noise that Karras et al. add on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.process import eps_from_x_0, move_along_eps
from core.samplers.loop import Denoise, Noise, State, Time, X

MOST_CHURN = math.sqrt(2) - 1


@dataclass(frozen=True)
class Heun:
    """Karras et al. 2022, algorithm 2, for any schedule: where the paper says sigma, here stands sigma / alpha.

    churn: by how much of itself each step first raises sigma, S_churn / N of the paper (at most sqrt(2) - 1); 0 is the
           deterministic algorithm 1. churn_min, churn_max: the sigmas between which it does. churn_noise: S_noise, the
           standard deviation of the noise added.

    The last step, to t = 0, takes one evaluation: N steps take 2 N - 1.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= MOST_CHURN:
            raise ValueError(f"churn={self.churn}: must lie in [0, {MOST_CHURN:.4f}]")
        if not 0 <= self.churn_min <= self.churn_max:
            raise ValueError(f"churn_min={self.churn_min}, churn_max={self.churn_max}: need 0 <= min <= max")
        if self.churn_noise < 0:
            raise ValueError(f"churn_noise={self.churn_noise}: must not be negative")

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        schedule = denoise.schedule
        if self.churn:
            x_t, t = self._churned(denoise, x_t, t, noise)
        x0 = denoise(x_t, t).x0
        if s == 0:
            return x0, None
        eps = eps_from_x_0(schedule, x_t, x0, t)
        x_s = move_along_eps(schedule, x_t, eps, t, s)
        eps_s = eps_from_x_0(schedule, x_s, denoise(x_s, s).x0, s)
        return move_along_eps(schedule, x_t, (eps + eps_s) / 2, t, s), None

    def _churned(self, denoise: Denoise, x_t: X, t: Time, noise: Noise) -> tuple[X, Time]:
        """x at the earlier time whose sigma / alpha is larger by `churn`, but not beyond the schedule's end."""
        schedule, (alpha_t, sigma_t) = denoise.schedule, denoise.schedule(t)
        if not self.churn_min <= float(sigma_t / alpha_t) <= self.churn_max:
            return x_t, t
        log_snr = (schedule.log_snr(t) - 2 * math.log1p(self.churn)).clamp(min=schedule.log_snr_min)
        earlier = schedule.inverse(log_snr)
        alpha_ts, var_ts = schedule.transition(t, earlier)
        return alpha_ts * x_t + self.churn_noise * var_ts.clamp(min=0).sqrt() * noise(), earlier
