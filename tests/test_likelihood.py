"""The variational bound: its closed form and limit on Gaussian data, masks that count nowhere, codecs that refuse."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import SCHEDULES, SPACES, each, gaussian, known, random_mask
from torch import Tensor, nn

from core import times
from core.batch import Batch
from core.codec import Affine, Codec, Identity, LossyCodecError
from core.denoiser import Denoiser
from core.likelihood import variational_bound
from core.prediction import Sample, Velocity
from core.random import keys, normal
from core.reverse import Denoised, Large, LogInterpolated, ReverseVariance, Small
from core.schedules import Cosine, LinearBeta, Schedule
from core.weighting import VariationalBound

SD = 0.8
VARIANCES = {"small": Small(), "large": Large()}
each_variance = each(VARIANCES, "variance")


def entropy(sd: float) -> float:
    """-E log p(x) of N(m, sd^2), in nats."""
    return 0.5 * math.log(2 * math.pi * math.e * sd**2)


def expected_bound(schedule: Schedule, grid: Tensor, sd: float, variance: ReverseVariance) -> dict[str, float]:
    """The bound's parts for N(0, sd^2) and its exact denoiser, whose error has variance sd^2 sigma^2 / total."""

    def level(t: float) -> tuple[float, float]:
        return tuple(float(c) for c in schedule(torch.tensor(t, dtype=torch.float64)))

    def kl(ratio: float) -> float:
        return 0.5 * (ratio - 1 - math.log(ratio))

    alpha, sigma = level(float(grid[0]))
    marginal = alpha**2 + sigma**2
    parts = {"prior": 0.5 * alpha**2 * sd**2 / marginal + kl(sigma**2 / marginal), "diffusion": 0.0}
    for t, s in pairwise(grid):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = level(float(t)), level(float(s))
        error = sd**2 * sigma_t**2 / (alpha_t**2 * sd**2 + sigma_t**2)
        var = float(variance(schedule, Denoised(torch.zeros(())), s, t))
        if s == 0:
            parts["decoder"] = 0.5 * (math.log(2 * math.pi * var) + error / var)
            break
        var_ts = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
        if var_ts < 1e-9 * sigma_t**2:
            continue  # the schedule is clamped here: nothing changes
        posterior = var_ts * sigma_s**2 / sigma_t**2
        parts["diffusion"] += 0.5 * (alpha_s * var_ts / sigma_t**2) ** 2 * error / var + kl(posterior / var)
    return parts


def gaussian_data(count: int, dim: int, sd: float) -> Batch:
    return Batch.full(sd * normal(keys(99, torch.arange(count)), (dim,), torch.float64))


@each_variance
@each(SCHEDULES, "schedule")
def test_every_part_is_its_expectation(schedule, variance):
    grid = times.Uniform(40)(schedule)
    batch = gaussian_data(2000, 8, SD)
    bound = variational_bound(known(schedule, gaussian(0, SD)), Identity(), batch, grid, variance=variance)
    for name, wanted in expected_bound(schedule, grid, SD, variance).items():
        per_dim = getattr(bound, name) / 8
        standard_error = float(per_dim.std()) / 2000**0.5
        assert abs(float(per_dim.mean()) - wanted) < 4.5 * standard_error + 1e-9, name
    torch.testing.assert_close(bound.bits_per_dim, bound.nats / 8 / math.log(2))


def gap(schedule: Schedule, grid: times.Times, sd: float, variance: ReverseVariance) -> float:
    """How far above the data's entropy the bound is, in nats per dimension, exactly."""
    return sum(expected_bound(schedule, grid(schedule), sd, variance).values()) - entropy(sd)


@pytest.mark.parametrize("sd", [0.5, 1.0, 2.0])
@each_variance
def test_the_bound_is_above_the_truth_and_nears_it(variance, sd):
    """On Ho et al.'s table with steps equal in log-SNR."""
    gaps = [gap(LinearBeta(), times.LogSNR(n), sd, variance) for n in (10, 40, 200)]
    assert gaps[-1] > 0
    assert all(coarse >= fine - 1e-9 for coarse, fine in pairwise(gaps))
    assert gaps[-1] < 0.4


def test_the_gap_of_unit_data_is_the_decoders_with_the_large_variance():
    """beta is the true variance of unit data; what remains is the decoder, narrower than the data given x_1.

    With beta-tilde the first steps of the table, whose SNR changes by factors, cost .46 more: the table's own gap.
    """
    large = expected_bound(LinearBeta(), times.Uniform(1000)(LinearBeta()), 1.0, Large())
    var, error = float(Small()(LinearBeta(), Denoised(torch.zeros(())), torch.tensor(0.0), torch.tensor(1e-3))), 1e-4
    decoder = 0.5 * (math.log(var / error) + error / var - 1)
    assert sum(large.values()) - entropy(1.0) == pytest.approx(decoder, abs=1e-4)
    assert decoder == pytest.approx(0.114, abs=1e-3)
    assert gap(LinearBeta(), times.Uniform(1000), 1.0, Small()) == pytest.approx(0.579, abs=1e-3)


def test_the_weighting_named_after_it_has_its_mean():
    """VariationalBound's weighted x_0 error over a table's steps is the bound's diffusion sum, on the same noise."""
    T, schedule = 60, LinearBeta(60, 1e-3, 0.3)
    batch, steps = gaussian_data(300, 8, SD), torch.arange(2, T + 1)
    denoiser = known(schedule, gaussian(0.1, 0.6), weighting=VariationalBound(T))
    bound = variational_bound(denoiser, Identity(), batch, times.Uniform(T)(schedule), variance=Small())
    losses = []
    for step in steps:
        t = torch.full((300,), float(step) / T, dtype=torch.float64)
        losses.append(denoiser.loss(batch, t, normal(keys(5, step, torch.arange(300)), (8,), torch.float64)))
    from_loss, from_bound = torch.stack(losses).sum(0) / T, bound.diffusion / 8
    difference = from_loss - from_bound
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / 300**0.5
    assert float(from_bound.mean()) > 20 * float(difference.std()) / 300**0.5


class Fraction(nn.Module):
    """A denoiser of one learned variance fraction."""

    def __init__(self, fraction: float, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.inner = known(schedule or LinearBeta(50, 1e-3, 0.3), gaussian(0, SD))
        self.fraction = fraction
        self.schedule, self.space, self.q_sample = self.inner.schedule, self.inner.space, self.inner.q_sample

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: dict) -> Denoised:
        x0 = self.inner(x_t, t, mask, cond).x0
        return Denoised(x0, torch.full_like(x0, self.fraction))


@pytest.mark.parametrize(("fraction", "fixed"), [(0.0, Small()), (1.0, Large())], ids=["small", "large"])
def test_a_learned_variance_at_its_ends_is_the_fixed_one(fraction, fixed):
    denoiser, batch, grid = Fraction(fraction), gaussian_data(20, 8, SD), times.Uniform(50)(Cosine())
    learned, wanted = (
        variational_bound(denoiser, Identity(), batch, grid, variance=variance)
        for variance in (LogInterpolated(), fixed)
    )
    torch.testing.assert_close(learned.diffusion, wanted.diffusion)
    if fraction == 0:  # the decoder's: the first step's beta-tilde is 0 and is replaced, its beta is not
        torch.testing.assert_close(learned.decoder, wanted.decoder)


@each(SPACES, "space")
@pytest.mark.parametrize("codec", [Identity(), Affine(127.5, 127.5, 0.0, 255.0, 256)], ids=["density", "levels"])
def test_padding_changes_no_bit(codec, space):
    """Bits per true degree of freedom of data in a larger canvas, up to the noise that differs: in expectation.

    A denoiser that answers the truth leaves only what does not depend on the noise, which must be equal exactly.
    """
    values = torch.tensor([[10.0, 200.0], [100.0, 30.0], [250.0, 128.0]], dtype=torch.float64)

    class Truth(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
            return cond["truth"]

    bits = []
    for length, mask in ((3, torch.ones(1, 1, 1, dtype=torch.float64)), (3, None), (8, None)):
        x = torch.zeros(1, length, 2, dtype=torch.float64)
        x[0, :3] = values
        batch = Batch(x, random_mask([3], length) if mask is None else mask)
        z = space.project(codec.encode(batch).x, batch.mask)
        batch = codec.decode(batch.with_x(z)) if codec.levels is None else batch
        denoiser = Denoiser(Truth(), Cosine(), Sample(), space)
        truth = Batch(batch.x, batch.mask, {"truth": space.project(codec.encode(batch).x, batch.mask)})
        bits.append(variational_bound(denoiser, codec, truth, times.Uniform(20)(Cosine())).bits_per_dim)
    torch.testing.assert_close(bits[1], bits[0])
    torch.testing.assert_close(bits[2], bits[0])


def test_pixels_of_a_known_model_cost_their_bits():
    """One of 256 levels, known to the denoiser: almost nothing; a denoiser that knows nothing: more than 8 bits."""
    codec = Affine(127.5, 127.5, 0.0, 255.0, 256)
    batch = Batch.full(torch.full((5, 16), 37, dtype=torch.uint8))
    z = (37 - 127.5) / 127.5
    grid = torch.cat([torch.linspace(1, 0.002, 100, dtype=torch.float64), torch.tensor([0.001, 0]).double()])
    knowing = known(Cosine(), lambda x_t, alpha, sigma: torch.full_like(x_t, z), Velocity())
    ignorant = known(Cosine(), lambda x_t, alpha, sigma: torch.zeros_like(x_t), Velocity())
    few, many = (float(variational_bound(d, codec, batch, grid).bits_per_dim.mean()) for d in (knowing, ignorant))
    assert 0 <= few < 0.02
    assert many > 8


# steps of 1/1000 at both ends, coarse between
FINE_ENDS = torch.tensor([1.0, 0.999, 0.998, 0.995, 0.99, 0.9, 0.7, 0.5, 0.3, 0.1, 0.01, 2e-3, 1e-3, 0]).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_variance
@each(SCHEDULES, "schedule")
def test_finite_on_a_fine_grid(schedule, variance, dtype):
    """Also where a schedule is clamped at its lowest log-SNR and steps change nothing."""
    batch = Batch.full(torch.linspace(-1, 1, 8, dtype=dtype)[:, None])
    bound = variational_bound(known(schedule, gaussian(0, SD)), Identity(), batch, FINE_ENDS, variance=variance)
    assert bool(torch.isfinite(torch.stack([bound.prior, bound.diffusion, bound.decoder])).all())


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_a_learned_variance_is_finite_where_steps_change_nothing(fraction):
    batch = Batch.full(torch.linspace(-1, 1, 8)[:, None])
    bound = variational_bound(Fraction(fraction, Cosine()), Identity(), batch, FINE_ENDS, variance=LogInterpolated())
    assert bool(torch.isfinite(bound.nats).all())


def test_the_bound_of_a_sample_is_its_own():
    """The same alone as in a batch, and another draw for another seed."""
    denoiser, batch, grid = known(Cosine(), gaussian(0, SD)), gaussian_data(5, 3, SD), times.Uniform(10)(Cosine())
    together = variational_bound(denoiser, Identity(), batch, grid).nats
    alone = variational_bound(denoiser, Identity(), batch[3:4], grid, indices=torch.tensor([3])).nats
    torch.testing.assert_close(alone, together[3:4], rtol=1e-9, atol=1e-9)
    other = variational_bound(denoiser, Identity(), batch, grid, seed=1).nats
    assert bool((other != together).all())


def test_a_scaled_codec_adds_its_jacobian():
    """log p of data in other units: N(m, (c sd)^2) has log c more entropy."""
    z, grid, denoiser = gaussian_data(10, 4, SD), times.Uniform(20)(Cosine()), known(Cosine(), gaussian(0, SD))
    unit = variational_bound(denoiser, Identity(), z, grid)
    scaled = variational_bound(denoiser, Affine(5.0, 3.0), z.with_x(5 + 3 * z.x), grid)
    torch.testing.assert_close(scaled.nats, unit.nats + 4 * math.log(3))


def test_a_lossy_codec_refuses_before_the_network_runs():
    class Lossy(Codec):
        def encode(self, batch: Batch) -> Batch:
            return batch

    class Never(nn.Module):
        def forward(self, *_: object) -> Tensor:
            raise AssertionError("the network was called")

    denoiser = Denoiser(Never(), Cosine(), Velocity())
    with pytest.raises(LossyCodecError):
        variational_bound(denoiser, Lossy(), gaussian_data(2, 3, 1.0), times.Uniform(5)(Cosine()))
