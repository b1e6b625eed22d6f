"""The way back from noise to data: samplers, each one step from t to an earlier s, and the one loop around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core import random
from core.batch import Batch
from core.denoiser import BaseDenoiser
from core.process import eps_from_x_0, posterior_variance
from core.reverse import Denoised, ReverseVariance, Small, p_x_s_given_x_t

X = Float[Tensor, "b *s"]
Time = Float[Tensor, ""]  # one number, float64 on the CPU: coefficients are computed in it
State = Any  # what a multistep sampler remembers between its steps; None for the others


class Denoise:
    """A denoiser bound to its mask and conditions: (x_t, t) -> Denoised. It counts its calls in `nfe`."""

    def __init__(self, denoiser: BaseDenoiser, batch: Batch) -> None:
        self.denoiser, self.batch = denoiser, batch
        self.schedule = denoiser.schedule
        self.nfe = 0

    def __call__(self, x_t: X, t: Time) -> Denoised:
        self.nfe += 1
        times = t.to(x_t.dtype).to(x_t.device).expand(len(x_t))
        return self.denoiser(x_t, times, self.batch.mask, self.batch.cond)


class Sampler(Protocol):
    """One step back in time.

    x_t: (B, *S) at time t; returns x_s at s < t, and the state for the next step. noise: standard normal in the
    sampler's space, independent at each step; zero at the last one, s = 0.
    stochastic: whether `step` reads its noise; for a sampler that does not, none is drawn.
    """

    @property
    def stochastic(self) -> bool: ...

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: X) -> tuple[X, State]: ...


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling, x_s ~ p_theta(x_s | x_t): Ho et al. 2020, algorithm 2.

    variance: `Small()`, `Large()` or, for a denoiser that learned it, `LogInterpolated()`.
    """

    variance: ReverseVariance = field(default_factory=Small)

    @property
    def stochastic(self) -> bool:
        return True

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: X) -> tuple[X, State]:
        p = p_x_s_given_x_t(denoise.schedule, self.variance, x_t, denoise(x_t, t), s, t)
        return p.mean + p.var.sqrt() * noise, None


@dataclass(frozen=True)
class DDIM:
    """Song, Meng & Ermon 2021, eq. 12: eta = 0 is deterministic (Euler's method on the flow), eta = 1 is `DDPM()`."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta}: must lie in [0, 1]")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: X) -> tuple[X, State]:
        schedule, x0 = denoise.schedule, denoise(x_t, t).x0
        eps, (alpha_s, sigma_s) = eps_from_x_0(schedule, x_t, x0, t), schedule(s)
        if not self.stochastic:
            return alpha_s * x0 + sigma_s * eps, None
        var = self.eta**2 * posterior_variance(schedule, s, t)  # eq. 16
        return alpha_s * x0 + (sigma_s**2 - var).clamp(min=0).sqrt() * eps + var.sqrt() * noise, None


Constrain = Callable[[X, Time], X]  # (x_s, s) -> x_s, for instance with its known part replaced
Callback = Callable[[int, Time, X], None]  # (number of steps done, s, x_s); first (0, times[0], the noise)


@torch.no_grad()
def sample(
    denoiser: BaseDenoiser,
    sampler: Sampler,
    template: Batch,
    times: Float[Tensor, " steps_plus_1"],
    *,
    seed: int = 0,
    indices: Int[Tensor, " b"] | None = None,
    constrain: Constrain | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "b *s"]:
    """The one sampling loop: from noise at times[0] to data at times[-1] = 0.

    denoiser: a `Denoiser` or a guidance wrapper around one. template: shape, mask and conditions of what to sample
    (its values are not read). times: decreasing, in [0, 1]; see `core.times`. Sample i depends on (seed, indices[i])
    alone, whatever else is in the batch; indices are 0, 1, ... unless given. callback: told the noise, and the state
    after each step. Returns x_0 in diffusion coordinates.
    """
    if len(times) < 2 or bool((times.diff() >= 0).any()) or times[0] > 1 or times[-1] < 0:
        raise ValueError(f"times must decrease within [0, 1], got {times.tolist()}")
    x, mask = template.x, template.mask
    numbers = torch.arange(len(x)) if indices is None else indices
    noise = _NoiseSource(denoiser, template, numbers.to(x.device), seed)
    denoise = Denoise(denoiser, template)
    prior_std = torch.hypot(*denoiser.schedule(times[0]))  # the marginal's at unit data variance
    x_t, state = prior_std * noise(random.Stream.PRIOR, 0), None
    still = torch.zeros_like(x_t)
    if callback is not None:
        callback(0, times[0], x_t)
    for i, (t, s) in enumerate(pairwise(times)):
        eps = noise(random.Stream.STEP, i) if sampler.stochastic and s > 0 else still
        x_t, state = sampler.step(denoise, x_t, t, s, state, eps)
        if constrain is not None:
            x_t = denoiser.space.project(constrain(x_t, s), mask)
        if callback is not None:
            callback(i + 1, s, x_t)
    return x_t


@dataclass(frozen=True)
class _NoiseSource:
    """Standard normal noise of the denoiser's space, a function of (seed, sample, step, element)."""

    denoiser: BaseDenoiser
    template: Batch
    numbers: Tensor
    seed: int

    def __call__(self, stream: random.Stream, step: int) -> Tensor:
        x, mask = self.template.x, self.template.mask
        key = random.keys(self.seed, stream, self.numbers, step, device=x.device)
        return self.denoiser.space.randn_like(x, mask, random.normal(key, x.shape[1:], x.dtype))
