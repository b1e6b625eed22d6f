"""The one sampling loop, and what a sampler is to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core import random
from core.batch import Batch, check_real
from core.denoiser import BaseDenoiser
from core.reverse import Denoised

X = Float[Tensor, "b *s"]
Time = Float[Tensor, ""]  # one number, float64 on the CPU: coefficients are computed in it
State = Any  # what a multistep sampler remembers between its steps; None for the others
Noise = Callable[[], X]  # standard normal in the sampler's space, new and independent at each call
Constrain = Callable[[X, Time], X]  # (x_s, s) -> x_s, for instance with its known part replaced
Callback = Callable[[int, Time, X], None]  # (number of steps done, s, x_s); first (0, times[0], the noise)


class Denoise:
    """A denoiser bound to its mask and conditions: (x_t, t) -> Denoised. It counts its calls in `nfe`."""

    def __init__(self, denoiser: BaseDenoiser, batch: Batch) -> None:
        self.denoiser, self.batch = denoiser, batch
        self.schedule = denoiser.schedule
        self.nfe = 0

    def __call__(self, x_t: X, t: Time) -> Denoised:
        self.nfe += 1
        times = t.to(torch.promote_types(x_t.dtype, torch.float32)).to(x_t.device).expand(len(x_t))
        return self.denoiser(x_t, times, self.batch.mask, self.batch.cond)

    def project(self, x: X) -> X:
        """P x, for a sampler whose arithmetic leaves the space."""
        return self.denoiser.space.project(x, self.batch.mask)


class Sampler(Protocol):
    """One step back in time.

    x_t: (B, *S) at time t; returns x_s at s < t, and the state for the next step; the first one's state is None, and
    so is that of a step after something else has moved x. noise: called for as many draws as the step needs.
    """

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]: ...


@torch.no_grad()
def sample(
    denoiser: BaseDenoiser,
    sampler: Sampler,
    template: Batch,
    times: Float[Tensor, " steps_plus_1"],
    *,
    seed: int = 0,
    indices: Int[Tensor, " b"] | None = None,
    start: Float[Tensor, "b *s"] | None = None,
    constrain: Constrain | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "b *s"]:
    """The one sampling loop: from noise at times[0] to data at times[-1] = 0.

    denoiser: a `Denoiser` or a guidance wrapper around one. template: shape, mask and conditions of what to sample
    (its values are not read). times: decreasing, in [0, 1]; see `core.times`. Sample i depends on (seed, indices[i])
    alone, whatever else is in the batch; indices are 0, 1, ... unless given. start: x at times[0]; noise unless given.
    constrain: moves x after each step; what a multistep sampler remembers is then forgotten. callback: told the start,
    and the state after each step. Returns x at times[-1] in diffusion coordinates.
    """
    if times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all() and times[-1] >= 0 and times[0] <= 1):
        raise ValueError(f"times must decrease within [0, 1], got {times.tolist()}")
    x, mask = template.x, template.mask
    check_real(mask)
    numbers = torch.arange(len(x)) if indices is None else indices
    if numbers.shape != (len(x),):
        raise ValueError(f"indices has the shape {tuple(numbers.shape)}; it must number the {len(x)} samples")
    source = NoiseSource(denoiser, template, numbers.to(x.device), seed)
    denoise = Denoise(denoiser, template)
    x_t, state = prior(source, times[0]) if start is None else start, None
    if callback is not None:
        callback(0, times[0], x_t)
    for i, (t, s) in enumerate(pairwise(times)):
        x_t, state = sampler.step(denoise, x_t, t, s, state, source.of_step(i))
        if constrain is not None:
            x_t, state = denoiser.space.project(constrain(x_t, s), mask), None
        if callback is not None:
            callback(i + 1, s, x_t)
    return x_t


@dataclass(frozen=True)
class NoiseSource:
    """Standard normal noise of the denoiser's space, a function of (seed, sample, step, draw, element)."""

    denoiser: BaseDenoiser
    template: Batch
    numbers: Tensor
    seed: int

    def __call__(self, stream: random.Stream, step: int) -> Tensor:
        x, mask = self.template.x, self.template.mask
        key = random.keys(self.seed, stream, self.numbers, step, device=x.device)
        return self.denoiser.space.randn_like(x, mask, random.normal(key, x.shape[1:], x.dtype))

    def of_step(self, step: int) -> Noise:
        """The draws of one step, each new."""
        draws = 0

        def noise() -> Tensor:
            nonlocal draws
            draws += 1
            return self(random.Stream.STEP, step + ((draws - 1) << 32))

        return noise


def prior(source: NoiseSource, t: Time) -> X:
    """The noise that sampling starts from: of the marginal's standard deviation at unit data variance."""
    return torch.hypot(*source.denoiser.schedule(t)) * source(random.Stream.PRIOR, 0)
