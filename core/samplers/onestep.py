"""Samplers of one evaluation a step that remember nothing: DDPM and DDIM."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.process import eps_from_x_0, posterior_variance
from core.reverse import ReverseVariance, Small, p_x_s_given_x_t
from core.samplers.loop import Denoise, Noise, State, Time, X


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling, x_s ~ p_theta(x_s | x_t): Ho et al. 2020, algorithm 2.

    variance: `Small()`, `Large()` or, for a denoiser that learned it, `LogInterpolated()`.
    """

    variance: ReverseVariance = field(default_factory=Small)

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        p = p_x_s_given_x_t(denoise.schedule, self.variance, x_t, denoise(x_t, t), s, t)
        return (p.mean + p.var.sqrt() * noise() if s > 0 else p.mean), None


@dataclass(frozen=True)
class DDIM:
    """Song, Meng & Ermon 2021, eq. 12: eta = 0 is deterministic (Euler's method on the flow), eta = 1 is `DDPM()`."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta}: must lie in [0, 1]")

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        schedule, x0 = denoise.schedule, denoise(x_t, t).x0
        eps, (alpha_s, sigma_s) = eps_from_x_0(schedule, x_t, x0, t), schedule(s)
        if self.eta == 0 or s == 0:
            return alpha_s * x0 + sigma_s * eps, None
        var = self.eta**2 * posterior_variance(schedule, s, t)  # eq. 16
        return alpha_s * x0 + (sigma_s**2 - var).clamp(min=0).sqrt() * eps + var.sqrt() * noise(), None


Euler = DDIM  # with eta = 0: Euler's method for d(x / alpha) = eps d(sigma / alpha)
