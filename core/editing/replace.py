"""Replace and resample: at each step the kept part is set to its noised truth (RePaint, Lugmayr et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from core.denoiser import BaseDenoiser
from core.editing.measurement import Kept, Measurement, Method
from core.process import q_x_t_given_x_s
from core.samplers.loop import Denoise, Noise, Sampler, State, Time, X


@dataclass(frozen=True)
class Replace(Method):
    """Lugmayr et al. 2022, algorithm 1, with any sampler: `resamplings` is U, the jump length is one step.

    Replacing the kept part once after each step is not enough to make the rest fit it: noise is added back up to t and
    the step taken again. Evaluations: `resamplings` times the sampler's, but for the last step. A multistep sampler
    forgets its history at every step, since x has moved.
    """

    resamplings: int = 5
    of_kept = True

    def __post_init__(self) -> None:
        if self.resamplings < 1:
            raise ValueError(f"resamplings={self.resamplings}: must be at least 1")

    def __call__(
        self, denoiser: BaseDenoiser, sampler: Sampler, measurement: Measurement
    ) -> tuple[BaseDenoiser, Sampler]:
        assert isinstance(measurement, Kept)
        return denoiser, _Replacing(sampler, measurement, self.resamplings)


@dataclass(frozen=True)
class _Replacing:
    sampler: Sampler
    kept: Kept
    resamplings: int

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        for left in reversed(range(self.resamplings if s > 0 else 1)):
            x_s = self.kept.step(self.sampler, denoise, x_t, t, s, noise)
            if left:
                q = q_x_t_given_x_s(denoise.schedule, x_s, s, t)
                x_t = q.mean + q.var.clamp(min=0).sqrt() * noise()
        return x_s, None
