"""The learned reversal p_theta(x_s | x_t): the posterior at the denoised data, its variance chosen or learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch, expand
from core.codec import Codec
from core.process import Gaussian, posterior_mean, posterior_variance
from core.schedules import Schedule
from core.space import Space


@dataclass(frozen=True)
class Denoised:
    """What a denoiser returns.

    x0: (B, *S), the expected clean data. var_fraction: (B, *S), where a learned variance lies between the two fixed
    ones in log space, 0 the smaller and 1 the larger (outside [0, 1] is allowed); None where it is not learned.
    """

    x0: Float[Tensor, "b *s"]
    var_fraction: Float[Tensor, "b *s"] | None = None


def _positive(var: Tensor) -> Tensor:
    """Above 0 in float32 even where a step changes nothing, as beyond a schedule's lowest log-SNR: KL 0, not 0/0."""
    return var.clamp(min=torch.finfo(torch.float32).tiny)


class ReverseVariance:
    """The variance of p_theta(x_s | x_t), for 0 < s < t.

    At s = 0, where the posterior's is 0, the likelihood's decoder needs a positive one: as in the reference code of
    Ho et al., it is the posterior's of the step after, from 2t to t. Sampling adds no noise there.
    """

    def __call__(self, schedule: Schedule, denoised: Denoised, s: Tensor, t: Tensor) -> Tensor:
        raise NotImplementedError


class Small(ReverseVariance):
    """The posterior's, beta-tilde: right if the data were one point ("fixedsmall", Ho et al. 2020, section 3.2)."""

    def __call__(self, schedule: Schedule, denoised: Denoised, s: Tensor, t: Tensor) -> Tensor:
        first = s <= 0
        var = posterior_variance(schedule, torch.where(first, t, s), torch.where(first, (2 * t).clamp(max=1), t))
        return _positive(var)


class Large(ReverseVariance):
    """The forward step's, beta: right if the data were standard normal ("fixedlarge", Ho et al. 2020, section 3.2)."""

    def __call__(self, schedule: Schedule, denoised: Denoised, s: Tensor, t: Tensor) -> Tensor:
        _, var_ts = schedule.transition(s, t)
        return torch.where(s <= 0, Small()(schedule, denoised, s, t), _positive(var_ts))


class LogInterpolated(ReverseVariance):
    """Learned: exp(v log beta + (1 - v) log beta-tilde), Nichol & Dhariwal 2021, eq. 15."""

    def __call__(self, schedule: Schedule, denoised: Denoised, s: Tensor, t: Tensor) -> Tensor:
        if denoised.var_fraction is None:
            raise ValueError("the learned variance needs a denoiser that was trained with learned_variance")
        small = Small()(schedule, denoised, s, t).log()
        # the first step's beta itself is finite: no exception needed
        large = _positive(schedule.transition(s, t)[1]).log()
        return torch.lerp(small.to(denoised.x0), large.to(denoised.x0), denoised.var_fraction).exp()


def p_x_s_given_x_t(
    schedule: Schedule, variance: ReverseVariance, x_t: Tensor, denoised: Denoised, s: Tensor, t: Tensor
) -> Gaussian:
    """p_theta(x_s | x_t) = N(posterior mean at the denoised data, variance): Ho et al. 2020, eq. 1 and 7."""
    mean = posterior_mean(schedule, x_t, denoised.x0, s, t)
    return Gaussian(mean, variance(schedule, denoised, s, t))


def bound_term(
    schedule: Schedule,
    space: Space,
    codec: Codec,
    variance: ReverseVariance,
    batch: Batch,
    x_t: Float[Tensor, "b *s"],
    denoised: Denoised,
    s: Float[Tensor, "*b"],
    t: Float[Tensor, "*b"],
) -> Float[Tensor, " b"]:
    """One term of the variational bound, in nats a sample: Ho et al. 2020, eq. 5.

    KL(q(x_s | x_t, x_0) || p_theta(x_s | x_t)) where s > 0; the decoder's -log p(x_0 | x_t) where s = 0.
    batch: the encoded data; x_t: its noised form at t. s, t: one for each sample, or one (float64, on the CPU) for all.
    """
    s, t = expand(s, x_t), expand(t, x_t)
    dim = space.dim(batch.x, batch.mask)
    p = p_x_s_given_x_t(schedule, variance, x_t, denoised, s, t)
    q_mean = posterior_mean(schedule, x_t, batch.x, s, t)
    squares = ((q_mean - p.mean) ** 2 / p.var).flatten(1).sum(1)
    # the part of the variances counts once per degree of freedom: its mean over the real elements, times dim
    log_ratio = torch.log(Small()(schedule, denoised, s, t) / p.var)
    spread = (torch.expm1(log_ratio) - log_ratio).to(x_t).expand(x_t.shape)
    real = batch.mask.expand_as(x_t)
    kl = 0.5 * (squares + dim * (spread * real).flatten(1).sum(1) / real.flatten(1).sum(1))
    return torch.where((s.flatten() <= 0).to(kl.device), -codec.log_prob(batch, p.mean, p.var, dim), kl)
