"""Replace, then search: what does not fit what is kept is drawn again, and the better of two drafts stays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import expand
from core.denoiser import BaseDenoiser
from core.editing.measurement import Columns, Kept, Measurement, Method, check_columns, noised, of_columns
from core.samplers.loop import Denoise, Noise, Sampler, State, Time, X

PROBES = (0.15, 0.4)  # sigma / alpha at which a draft is judged


@dataclass(frozen=True)
class Search(Method):
    """`Replace()`, interrupted at sigma / alpha = `settled` by `rounds` of noising the draft and drawing it again.

    What replacing has settled at high noise, at which the kept part could not be seen, resampling cannot choose again.
    Here a round noises the draft back to a level that falls from `highest` to `lowest` over the rounds, comes down
    in `steps` steps of the sampler, and keeps the new draft in those samples in which the network finds it likelier:
    where its mean error in denoising it, |D(x_0 + sigma z) - x_0| / (scale sigma), is lower. All in sigma / alpha.

    scale: of each column of the last axis, or of all. Evaluations: about rounds * (steps + 3) beside the sampler's.
    """

    rounds: int = 40
    highest: float = 2.0
    lowest: float = 0.4
    settled: float = 0.15
    steps: int = 6
    scale: Columns = 1.0
    of_kept = True

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.steps < 1:
            raise ValueError(f"rounds={self.rounds}, steps={self.steps}: both must be at least 1")
        if not 0 < self.settled < self.lowest <= self.highest:
            raise ValueError(
                f"settled={self.settled}, lowest={self.lowest}, highest={self.highest}: must be positive and rise"
            )
        check_columns("scale", self.scale)

    def __call__(
        self, denoiser: BaseDenoiser, sampler: Sampler, measurement: Measurement
    ) -> tuple[BaseDenoiser, Sampler]:
        assert isinstance(measurement, Kept)
        return denoiser, _Searching(sampler, measurement, self)


@dataclass(frozen=True)
class _Searching:
    sampler: Sampler
    kept: Kept
    plan: Search

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        x_s = self.kept.step(self.sampler, denoise, x_t, t, s, noise)
        if s <= self._time(denoise, self.plan.settled) < t:
            x_s = noised(denoise, self._searched(denoise, x_s, s, noise), s, noise)
        return x_s, None

    def _searched(self, denoise: Denoise, x_s: X, s: Time, noise: Noise) -> X:
        """The best draft of x_0."""
        probes = [noise() for _ in PROBES]
        best = self._draft(denoise, x_s, s)
        error = self._error(denoise, best, probes)
        for number in range(self.plan.rounds):
            share = number / self.plan.rounds
            grid = self._down_from(denoise, (1 - share) * self.plan.highest + share * self.plan.lowest)
            x = noised(denoise, best, grid[0], noise)
            for t, r in pairwise(grid):
                x = self.kept.step(self.sampler, denoise, x, t, r, noise)
            draft = self._draft(denoise, x, grid[-1])
            found = self._error(denoise, draft, probes)
            better = found < error
            best = torch.where(expand(better, best) > 0, draft, best)
            error = torch.where(better, found, error)
        return best

    def _draft(self, denoise: Denoise, x_t: X, t: Time) -> X:
        return self.kept.put(denoise(x_t, t).x0 if t > 0 else x_t, self.kept.known.x)

    def _error(self, denoise: Denoise, draft: X, probes: list[X]) -> Float[Tensor, " b"]:
        """Of denoising the draft, over its real elements."""
        mask, scale = denoise.batch.mask.expand_as(draft), of_columns("scale", self.plan.scale, draft)
        total = torch.zeros(len(draft), dtype=draft.dtype, device=draft.device)
        for sigma, z in zip(PROBES, probes, strict=True):
            t = self._time(denoise, sigma)
            alpha_t, sigma_t = denoise.schedule(t)
            off = denoise(alpha_t * draft + sigma_t * z, t).x0 - draft
            total = total + ((off / (scale * sigma)) ** 2 * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
        return total

    def _down_from(self, denoise: Denoise, sigma: float) -> list[Time]:
        """Times at equal steps of log sigma, from `sigma` to `settled`."""
        way = torch.linspace(math.log(sigma), math.log(self.plan.settled), self.plan.steps + 1, dtype=torch.float64)
        return list(denoise.schedule.inverse(-2 * way))

    @staticmethod
    def _time(denoise: Denoise, sigma: float) -> Time:
        """At which sigma / alpha is `sigma`."""
        return denoise.schedule.inverse(torch.tensor(-2 * math.log(sigma), dtype=torch.float64))
