"""Gradient methods: sampling led to any linear measurement through the denoiser's derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import expand
from core.denoiser import BaseDenoiser, Cond
from core.editing.measurement import Columns, Measurement, Method, Y, check_columns, of_columns
from core.guidance import Wrapper, tilted, with_slope
from core.reverse import Denoised
from core.samplers.loop import Denoise, Noise, Sampler, State, Time, X

SOLVER_STEPS = 30
SOLVED = 1e-5  # of the residual's norm


@dataclass(frozen=True)
class PiGDM(Method):
    """Pseudoinverse guidance (Song et al. 2023, eq. 7-8): the score of p(y | x_t) = N(A x_0hat, A r^2 A^T + std^2 I).

    x_0 given x_t is taken to be N(x_0hat, r^2) with r^2 = v kappa^2 / (v + kappa^2), kappa = sigma / alpha and
    v = data_std^2: exact if data is one Gaussian of that standard deviation. The paper has v = 1.

    data_std: a number, or one for each column of the last axis, in diffusion coordinates.
    """

    data_std: Columns = 1.0

    def __post_init__(self) -> None:
        check_columns("data_std", self.data_std)

    def __call__(
        self, denoiser: BaseDenoiser, sampler: Sampler, measurement: Measurement
    ) -> tuple[BaseDenoiser, Sampler]:
        return _PseudoinverseGuided(denoiser, measurement, self.data_std), sampler


class _PseudoinverseGuided(Wrapper):
    def __init__(self, denoiser: BaseDenoiser, measurement: Measurement, data_std: Columns) -> None:
        super().__init__(denoiser)
        self.measurement, self.data_std = measurement, data_std

    def forward(self, x_t: X, t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond) -> Denoised:
        noise_var = torch.exp(-expand(self.schedule.log_snr(t), x_t))  # kappa^2
        data_var = of_columns("data_std", self.data_std, x_t) ** 2
        r2 = data_var * noise_var / (data_var + noise_var)
        transposed = self.measurement.adjoint(x_t)

        def covariance(y: Y) -> Y:
            """(A r^2 A^T + std^2 I) y, within the space."""
            spread = self.space.project(r2 * transposed(y), mask)
            return self.measurement.operator(spread) + self.measurement.std**2 * y

        def log_prob(x0: X) -> Float[Tensor, " b"]:
            """Its gradient in x_t is J^T A^T covariance^-1 (y - A x_0): the covariance does not move with x_t."""
            with torch.no_grad():
                pull = transposed(conjugate_gradients(covariance, self.measurement.residual(x0.detach())))
            return (pull * x0).flatten(1).sum(1)

        denoised, slope = with_slope(self.denoiser, x_t, t, mask, cond, log_prob)
        return tilted(self, denoised, slope, t, mask)


def conjugate_gradients(matrix: Callable[[Y], Y], b: Y) -> Y:
    """u with matrix(u) = b for a positive semidefinite matrix, each sample its own system; b in its image.

    Hestenes & Stiefel 1952. It stops after `SOLVER_STEPS`, which of nearly singular matrices, such as of a wide blur
    without noise, leaves out the directions that b hardly shows.
    """
    u, r = torch.zeros_like(b), b
    p, rr = r, _dot(r, r)
    enough = SOLVED**2 * rr
    for _ in range(SOLVER_STEPS):
        if bool((rr <= enough).all()):
            break
        mp = matrix(p)
        step = torch.where(rr > enough, rr / _dot(p, mp).clamp(min=1e-30), 0)  # those that are solved stay
        u, r = u + step * p, r - step * mp
        rr, before = _dot(r, r), rr
        p = r + torch.where(before > enough, rr / before.clamp(min=1e-30), 0) * p
    return u


def _dot(a: Y, b: Y) -> Tensor:
    """Of each sample; broadcastable against it."""
    return expand((a * b).flatten(1).sum(1), a)


@dataclass(frozen=True)
class DPS(Method):
    """Diffusion posterior sampling, Chung et al. 2023, algorithm 1: each step of the sampler, then a step downhill.

    x_s - step_size * gradient in x_t of |y - A x_0hat(x_t)|. The total pull grows with the number of steps: the paper's
    step sizes of .3 to 1 are for 1000 of them.
    """

    step_size: float = 1.0

    def __post_init__(self) -> None:
        if self.step_size <= 0:
            raise ValueError(f"step_size={self.step_size}: must be positive")

    def __call__(
        self, denoiser: BaseDenoiser, sampler: Sampler, measurement: Measurement
    ) -> tuple[BaseDenoiser, Sampler]:
        return denoiser, _Descending(sampler, measurement, self.step_size)


@dataclass(frozen=True)
class _Descending:
    sampler: Sampler
    measurement: Measurement
    step_size: float

    def step(self, denoise: Denoise, x_t: X, t: Time, s: Time, state: State, noise: Noise) -> tuple[X, State]:
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            watched = _Watched(denoise)
            x_s, _ = self.sampler.step(watched, x, t, s, None, noise)
            assert watched.first is not None
            residual = self.measurement.residual(watched.first.x0).flatten(1).norm(dim=1)
            (slope,) = torch.autograd.grad(residual.sum(), x)
        return denoise.project(x_s.detach() - self.step_size * slope), None


class _Watched(Denoise):
    """It remembers its first answer."""

    def __init__(self, inner: Denoise) -> None:
        super().__init__(inner.denoiser, inner.batch)
        self.inner = inner
        self.first: Denoised | None = None

    def __call__(self, x_t: X, t: Time) -> Denoised:
        answer = self.inner(x_t, t)
        self.first = self.first or answer
        return answer
