"""A network, a schedule, a prediction and a space make a denoiser: x_t, t -> the expected clean data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from core.batch import Batch, check_real, expand, is_full
from core.codec import Codec
from core.prediction import Prediction
from core.reverse import Denoised, LogInterpolated, bound_term
from core.schedules import Schedule
from core.space import Euclidean, Space
from core.weighting import EpsilonLoss, Weighting

Cond = Mapping[str, Tensor]


class Network(Protocol):
    """Any `nn.Module` of this call; it knows nothing of diffusion.

    x: (B, *S), scaled to unit variance; c_noise: (B,), a log-SNR (or the paper's step number); mask and cond as in
    `Batch`. Returns the shape of x, or twice its channels (axis 1) where the variance is learned. A network that is
    trained to be told which part of x is known, `cond["keep"]`, and so has no noise, has an attribute `kept = True`.
    """

    def __call__(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: Cond) -> Tensor: ...


@dataclass(frozen=True)
class LearnedVariance:
    """Improved DDPM's second output and its loss: `vb_scale` times the bound's term of a random step, in bits.

    num_steps: T, the grid of the bound; noise levels must be `Discrete(T)`.
    vb_scale: times T, the sum's factor. Nichol & Dhariwal 2021, eq. 16 (lambda = 0.001).
    codec: its decoder term log p(x | z) stands for the last step.
    """

    num_steps: int
    codec: Codec
    vb_scale: float = 1e-3


class BaseDenoiser(nn.Module):
    """What samplers and likelihoods need: D(x_t; t), its schedule and its space. Guidance wrappers are ones too."""

    schedule: Schedule
    space: Space

    def forward(
        self, x_t: Float[Tensor, "b *s"], t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond
    ) -> Denoised:
        """The expected clean data given x_t at times t in (0, 1]."""
        raise NotImplementedError

    def q_sample(self, batch: Batch, t: Float[Tensor, " b"], eps: Float[Tensor, "b *s"]) -> Float[Tensor, "b *s"]:
        """x_t = alpha_t x_0 + sigma_t eps, for noise eps of the space: Ho et al. 2020, eq. 4."""
        alpha_t, sigma_t = (expand(c, batch.x) for c in self.schedule(t))
        return alpha_t * batch.x + sigma_t * eps


class Denoiser(BaseDenoiser):
    """D(x_t; t) = c_skip x_t + c_out F(c_in x_t, c_noise), projected onto the space; and its training loss.

    network: see `Network`. weighting: how the loss counts noise levels; `EpsilonLoss` is the textbook's L_simple.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: Prediction,
        space: Space | None = None,
        weighting: Weighting | None = None,
        learned_variance: LearnedVariance | None = None,
    ) -> None:
        super().__init__()
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.space = space or Euclidean()
        self.weighting = weighting or EpsilonLoss()
        self.learned_variance = learned_variance
        if learned_variance and not isinstance(self.space, Euclidean):
            raise ValueError(f"a learned variance needs a Euclidean space, not {type(self.space).__name__}")

    def forward(
        self, x_t: Float[Tensor, "b *s"], t: Float[Tensor, " b"], mask: Float[Tensor, "b *m"], cond: Cond
    ) -> Denoised:
        level = self._level(x_t, t)
        output, var_fraction = self._network_output(x_t, t, level, mask, cond)
        return Denoised(self._x0(x_t, output, level, mask), var_fraction)

    def _level(self, x: Tensor, t: Tensor) -> _Level:
        log_snr = self.schedule.log_snr(t)
        alpha, sigma = (expand(c, x) for c in self.schedule.alpha_sigma(log_snr))
        return _Level(log_snr, alpha, sigma, *self.prediction.c_skip_out(alpha, sigma))

    def _network_output(
        self, x_t: Tensor, t: Tensor, level: _Level, mask: Tensor, cond: Cond
    ) -> tuple[Tensor, Tensor | None]:
        """F in the space and, where it is learned, the variance's fraction. float32 under autocast."""
        c_in = self.prediction.c_in(level.alpha, level.sigma)
        c_noise = self.prediction.c_noise(level.log_snr, t).to(x_t.dtype)
        output = self.network(c_in * x_t, c_noise, mask, cond).to(x_t.dtype)
        channels = x_t.shape[1] * (1 if self.learned_variance is None else 2)
        if output.shape != (expected := (len(x_t), channels, *x_t.shape[2:])):
            raise ValueError(f"the network returns {tuple(output.shape)} for {tuple(x_t.shape)}, not {expected}")
        if self.learned_variance is None:
            return self.space.project(output, mask), None
        output, v = output.chunk(2, dim=1)
        return self.space.project(output, mask), (v + 1) / 2  # Nichol & Dhariwal 2021, eq. 15

    def _x0(self, x_t: Tensor, output: Tensor, level: _Level, mask: Tensor) -> Tensor:
        """c_skip x_t + c_out F: Karras et al. 2022, eq. 7."""
        return self.space.project(level.c_skip * x_t + level.c_out * output, mask)

    def loss(self, batch: Batch, t: Float[Tensor, " b"], eps: Float[Tensor, "b *s"]) -> Float[Tensor, " b"]:
        """The weighted squared error of each sample per true degree of freedom, for noise eps of the space.

        With `cond["keep"]` eps must be of `space.beside(keep)`: the kept part has no noise, and the network is told it.
        With `Epsilon` and `EpsilonLoss` this is L_simple of Ho et al. 2020, eq. 14.
        """
        self._check(batch, t, eps)
        keep = batch.cond.get("keep")
        if keep is not None and not getattr(self.network, "kept", False):
            raise ValueError(
                f"{type(self.network).__name__} is not told what is kept: give it kept=true, or keep nothing"
            )
        space = self.space.beside(keep)  # what is kept is given: nothing to be learned
        x_t, level = self.q_sample(batch, t, eps), self._level(batch.x, t)
        output, var_fraction = self._network_output(x_t, t, level, batch.mask, batch.cond)
        error = space.project(output - self.prediction.target(batch.x, eps, level.alpha, level.sigma), batch.mask)
        weight = self.weighting(self.schedule, expand(t, batch.x), level.c_out)
        dim = space.dim(batch.x, batch.mask)
        loss = (weight * error**2).flatten(1).sum(1) / dim
        if (learned := self.learned_variance) is None:
            return loss
        # the bound's term trains the variance alone: the mean is detached (Nichol & Dhariwal 2021, section 3.1)
        denoised = Denoised(self._x0(x_t, output, level, batch.mask).detach(), var_fraction)
        s = (t - 1 / learned.num_steps).clamp(min=0)
        nats = bound_term(self.schedule, space, learned.codec, LogInterpolated(), batch, x_t, denoised, s, t)
        return loss + learned.vb_scale * learned.num_steps * nats / (dim * math.log(2))

    @staticmethod
    def _check(batch: Batch, t: Tensor, eps: Tensor) -> None:
        """ValueError names what cannot be meant. Values are looked at on the CPU alone: a GPU would have to wait."""
        if t.shape != (len(batch),):
            raise ValueError(f"t has the shape {tuple(t.shape)}; it must be one time for each of {len(batch)} samples")
        if eps.shape != batch.x.shape:
            raise ValueError(f"eps has the shape {tuple(eps.shape)}, and x {tuple(batch.x.shape)}: they must be equal")
        if t.device.type == "cpu" and not bool(((t > 0) & (t <= 1)).all()):
            raise ValueError(f"t={t.tolist()}: times must lie in (0, 1]")
        if batch.mask.device.type == "cpu" and not is_full(batch.mask):
            check_real(batch.mask)


class _Level(NamedTuple):
    """A noise level's numbers: log_snr (B,), the others broadcastable against x."""

    log_snr: Tensor
    alpha: Tensor
    sigma: Tensor
    c_skip: Tensor
    c_out: Tensor
