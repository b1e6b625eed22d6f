"""Predictor and corrector: after a sampler's step, steps of Langevin dynamics at the noise level it has reached."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.batch import expand
from core.process import eps_from_x_0
from core.samplers.loop import Denoise, Noise, Sampler, State, Time, X
from core.samplers.onestep import DDPM


@dataclass(frozen=True)
class PredictorCorrector:
    """Song et al. 2021 (score-based SDEs), algorithms 1, 4 and 5: their corrector after any sampler's step.

    corrections: Langevin steps after each step but the last, to t = 0; each takes an evaluation. snr: r of the paper,
    the size of a Langevin step relative to its noise. A multistep predictor never takes more than its first-order
    step: the corrector has moved x away from the path that its earlier answers belong to.

    Every sample has a step of its own, |z| / |eps| of its own noise and score: the paper takes the batch's mean.
    """

    predictor: Sampler = field(default_factory=DDPM)
    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.corrections < 1:
            raise ValueError(f"corrections={self.corrections}: must be at least 1")
        if self.snr <= 0:
            raise ValueError(f"snr={self.snr}: must be positive")

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        x_s, _ = self.predictor.step(denoise, x_t, t, s, None, noise)
        if s > 0:
            for _ in range(self.corrections):
                x_s = self._langevin(denoise, x_s, s, noise())
        return x_s, None

    def _langevin(self, denoise: Denoise, x_s: X, s: Time, z: X) -> X:
        """x + step score + sqrt(2 step) z, where score = -eps / sigma and step = 2 (snr |z| / |score|)^2.

        (The paper's variance-preserving form has a factor 1 - beta more, which is near 1.)
        """
        _, sigma = denoise.schedule(s)
        eps = eps_from_x_0(denoise.schedule, x_s, denoise(x_s, s).x0, s)
        ratio = z.flatten(1).norm(dim=1) / eps.flatten(1).norm(dim=1).clamp(min=1e-12)
        size = self.snr * expand(ratio, x_s)  # sqrt(step / 2) / sigma
        return x_s - 2 * sigma * size**2 * eps + 2 * sigma * size * z
