"""Laws of the denoiser and its loss: one answer for every parametrisation, and padding that counts nowhere."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import PREDICTIONS, SCHEDULES, SPACES, WEIGHTINGS, each, gaussian, known, random_mask, training_times
from torch import Tensor, nn

from core.batch import Batch, expand
from core.codec import Affine
from core.denoiser import Denoiser, LearnedVariance
from core.prediction import Epsilon, Velocity
from core.random import keys, normal
from core.reverse import LogInterpolated, bound_term
from core.schedules import Cosine, LinearBeta
from core.space import Euclidean, ZeroCentreOfMass
from core.weighting import EpsilonLoss, NetworkLoss

each_schedule, each_prediction = each(SCHEDULES, "schedule"), each(PREDICTIONS, "predicted")


class PerPoint(nn.Module):
    """A network that treats each point alone, so that padding cannot reach the real ones through it."""

    def __init__(self, columns: int, out: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(columns + 1, out or columns).double()

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        level = expand(c_noise, x).expand(*x.shape[:-1], 1)
        return torch.tanh(self.layer(torch.cat([x, level], dim=-1)))


def points(space, sizes: list[int], length: int) -> tuple[Batch, Tensor]:
    """Clean data and noise of the space, the same real numbers whatever the padded length."""
    mask = random_mask(sizes, length)
    canvas = torch.zeros(2, len(sizes), length, 5, dtype=torch.float64)
    for kind in (0, 1):
        for b, n in enumerate(sizes):
            key = keys(kind, b, torch.arange(n))
            canvas[kind, b, :n] = normal(key, (5,), torch.float64)
    x, eps = (space.project(values, mask) for values in canvas)
    return Batch(x, mask), eps


def noise_of(schedule, count: int = 30):
    t = training_times(schedule, count)
    x_0, eps = torch.randn(2, count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Batch.full(x_0), t, eps


@each_schedule
@each_prediction
def test_every_prediction_denoises_as_the_same_function(predicted, schedule):
    batch, t, eps = noise_of(schedule)
    f = gaussian(0.3, 0.7)
    denoiser = known(schedule, f, predicted)
    x_t = denoiser.q_sample(batch, t, eps)
    x0 = denoiser(x_t, t, batch.mask, batch.cond).x0
    alpha, sigma = (expand(c, x_t) for c in schedule(t))
    torch.testing.assert_close(x0, f(x_t, alpha, sigma), atol=1e-8, rtol=1e-8)


@each_schedule
@each_prediction
def test_every_prediction_has_the_same_epsilon_loss(predicted, schedule):
    """L_simple, |eps - eps_theta|^2 per element, whatever the network outputs."""
    batch, t, eps = noise_of(schedule)
    f = gaussian(0.3, 0.7)
    denoiser = known(schedule, f, predicted, weighting=EpsilonLoss())
    x_t = denoiser.q_sample(batch, t, eps)
    alpha, sigma = (expand(c, x_t) for c in schedule(t))
    eps_theta = (x_t - alpha * f(x_t, alpha, sigma)) / sigma
    simple = (eps - eps_theta).square().mean(1)
    torch.testing.assert_close(denoiser.loss(batch, t, eps), simple, rtol=1e-6, atol=1e-10)


@each_prediction
def test_network_loss_is_the_error_of_the_output(predicted):
    schedule = Cosine()
    batch, t, eps = noise_of(schedule)
    network = PerPoint(4)
    denoiser = Denoiser(network, schedule, predicted, weighting=NetworkLoss())
    alpha, sigma = (expand(c, batch.x) for c in schedule(t))
    x_t = denoiser.q_sample(batch, t, eps)
    output = network(predicted.c_in(alpha, sigma) * x_t, schedule.log_snr(t), batch.mask, {})
    wanted = (output - predicted.target(batch.x, eps, alpha, sigma)).square().mean(1)
    torch.testing.assert_close(denoiser.loss(batch, t, eps), wanted)


class PerPointTold(PerPoint):
    """It says 10 more of what it is told to be known: answers that must count for nothing."""

    kept = True

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        return super().forward(x, c_noise, mask, cond) + 10 * cond["keep"]


@each(SPACES, "space")
def test_what_is_kept_has_no_noise_and_counts_in_no_loss(space):
    """The mean square, over the degrees of freedom beside the kept points, of the error outside them."""
    batch, z = points(space, [4, 3], 4)
    keep = torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 0]], dtype=torch.float64)[..., None]
    free, schedule, predicted = space.beside(keep), Cosine(), Velocity()
    eps, t = free.project(z, batch.mask), torch.tensor([0.3, 0.8], dtype=torch.float64)
    told = Batch(batch.x, batch.mask, {"keep": keep})
    denoiser = Denoiser(PerPointTold(5), schedule, predicted, space, NetworkLoss())
    alpha, sigma = (expand(c, batch.x) for c in schedule(t))
    x_t, kept = denoiser.q_sample(told, t, eps), space.restrict(keep)
    torch.testing.assert_close(kept.project(x_t, batch.mask), alpha * kept.project(batch.x, batch.mask))
    error = PerPoint(5)(predicted.c_in(alpha, sigma) * x_t, schedule.log_snr(t), batch.mask, {}) - predicted.target(
        batch.x, eps, alpha, sigma
    )
    # a shift of all kept points moves the free ones against them: only in a space without a centre does it count
    error = free.project(error + 10 * keep, batch.mask)
    wanted = error.square().flatten(1).sum(1) / free.dim(batch.x, batch.mask)
    torch.testing.assert_close(denoiser.loss(told, t, eps), wanted)


def test_a_network_that_is_not_told_what_is_kept_is_refused():
    batch, eps = points(Euclidean(), [4, 3], 4)
    told = Batch(batch.x, batch.mask, {"keep": torch.zeros_like(batch.mask)})
    with pytest.raises(ValueError, match="PerPoint is not told what is kept"):
        Denoiser(PerPoint(5), Cosine(), Velocity()).loss(told, torch.full((2,), 0.5, dtype=torch.float64), eps)


@each(SPACES, "space")
@each(WEIGHTINGS, "weighting")
def test_extra_padding_changes_no_loss(weighting, space):
    if hasattr(weighting, "factors"):
        weighting = type(weighting)(weighting.weighting, [3.0, 3.0, 3.0, 1.0, 1.0])
    schedule, sizes = Cosine(), [2, 4, 3]
    denoiser = Denoiser(PerPoint(5), schedule, Velocity(), space, weighting)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    losses = []
    for length in (4, 9):
        batch, eps = points(space, sizes, length)
        losses.append(denoiser.loss(batch, t, eps))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    assert bool((losses[0] > 0).all())


@each(SPACES, "space")
def test_loss_is_per_true_degree_of_freedom(space):
    """A network that says 0 for the noise loses |eps|^2 / tr P: 1 on average, whatever the padding and the space."""

    class Nothing(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
            return torch.zeros_like(x)

    denoiser = Denoiser(Nothing(), Cosine(), Epsilon(), space)
    count = 4000
    x, mask = torch.zeros(count, 6, 5, dtype=torch.float64), random_mask([2, 3, 4, 6] * (count // 4), 6)
    eps = space.randn_like(x, mask, normal(keys(0, torch.arange(count)), x.shape[1:], torch.float64))
    loss = denoiser.loss(Batch(x, mask), torch.full((count,), 0.5, dtype=torch.float64), eps)
    expected_error = (2 / space.dim(x, mask)).mean().div(count).sqrt()
    assert abs(float(loss.mean()) - 1) < 4 * float(expected_error)


@each(SPACES, "space")
def test_a_mask_of_ones_is_no_mask(space):
    full, eps = points(space, [5, 5], 5)
    plain = Batch(full.x, torch.ones(2, 1, 1, dtype=torch.float64))
    denoiser = Denoiser(PerPoint(5), Cosine(), Velocity(), space)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    torch.testing.assert_close(denoiser.loss(full, t, eps), denoiser.loss(plain, t, eps), rtol=1e-12, atol=0)
    a, b = (denoiser(batch.x, t, batch.mask, {}).x0 for batch in (full, plain))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_padding_of_encoded_data_changes_no_loss():
    """The codec's shift must not show in the padding: 0 in the data's units is not 0 in diffusion coordinates."""
    codec, t = Affine(127.5, 127.5, 0.0, 255.0, 256), torch.tensor([0.6], dtype=torch.float64)
    denoiser = Denoiser(PerPoint(5), Cosine(), Velocity())
    losses = []
    for length in (4, 9):
        x, eps = torch.zeros(2, 1, length, 5, dtype=torch.float64)
        x[:, :4], eps[:, :4] = 200.0, 0.5
        losses.append(denoiser.loss(codec.encode(Batch(x, random_mask([4], length))), t, eps))
    torch.testing.assert_close(*losses)


@each(SPACES, "space")
@each_prediction
def test_the_answer_is_in_the_space(predicted, space):
    batch, eps = points(space, [2, 4, 5], 5)
    denoiser = Denoiser(PerPoint(5), Cosine(), predicted, space)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    x_t = denoiser.q_sample(batch, t, eps)
    x0 = denoiser(x_t, t, batch.mask, {}).x0
    torch.testing.assert_close(space.project(x_t, batch.mask), x_t)
    torch.testing.assert_close(space.project(x0, batch.mask), x0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_schedule
def test_q_sample_at_the_ends(schedule, dtype):
    """The data itself at t = 0, finite and nearly noise at t = 1."""
    batch = Batch.full(torch.linspace(-1, 1, 7, dtype=dtype)[None])
    eps = torch.linspace(2, -2, 7, dtype=dtype)[None]
    denoiser = known(schedule, gaussian(0, 1))
    assert torch.equal(denoiser.q_sample(batch, torch.zeros(1, dtype=dtype), eps), batch.x)
    noised = denoiser.q_sample(batch, torch.ones(1, dtype=dtype), eps)
    alpha, sigma = schedule(torch.ones(1, dtype=dtype))
    assert bool(torch.isfinite(noised).all())
    assert float(alpha / sigma) < 0.1  # the weakest end: 30 steps of up to 0.3
    torch.testing.assert_close(noised / sigma - eps, alpha / sigma * batch.x, atol=1e-5, rtol=0)


@each_schedule
@each_prediction
def test_loss_and_gradient_are_finite_in_float32(predicted, schedule):
    t = torch.cat([training_times(schedule, 30), torch.ones(1, dtype=torch.float64)]).float()
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 31, 4, generator=generator)
    denoiser = Denoiser(PerPoint(4).float(), schedule, predicted)
    loss = denoiser.loss(Batch.full(x_0), t, eps)
    loss.mean().backward()
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(denoiser.network.layer.weight.grad).all())


class TestLearnedVariance:
    T = 20

    def denoiser(self) -> tuple[Denoiser, nn.Module]:
        class TwoOutputs(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mean, self.variance = nn.Parameter(torch.full((4,), 0.3)), nn.Parameter(torch.full((4,), 0.2))

            def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
                return torch.cat([self.mean + 0 * x, self.variance + 0 * x], dim=1)

        network = TwoOutputs()
        codec = Affine(127.5, 127.5, 0.0, 255.0, 256)
        schedule = LinearBeta(self.T, 0.005, 0.5)
        learned = LearnedVariance(self.T, codec, vb_scale=1e-3)
        return Denoiser(network, schedule, Epsilon(num_steps=self.T), learned_variance=learned), network

    def batch(self) -> tuple[Batch, Tensor, Tensor]:
        values = torch.tensor([0.0, 255.0, 100.0, 3.0]).repeat(self.T, 1)  # both edges of the decoder's bins
        codec = Affine(127.5, 127.5, 0.0, 255.0, 256)
        t = (torch.arange(self.T) + 1.0) / self.T
        return codec.encode(Batch.full(values)), t, torch.randn(self.T, 4, generator=torch.Generator().manual_seed(0))

    def test_the_bound_trains_the_variance_alone(self):
        """Every step's gradient is finite, and the mean's is that of the squared error."""
        (denoiser, network), (batch, t, eps) = self.denoiser(), self.batch()
        plain = torch.autograd.grad((network.mean - eps).square().mean(1).sum(), network.mean)[0]
        loss = denoiser.loss(batch, t, eps)
        mean_gradient, variance_gradient = torch.autograd.grad(loss.sum(), (network.mean, network.variance))
        torch.testing.assert_close(mean_gradient, plain)
        assert bool((variance_gradient != 0).all())
        assert bool(torch.isfinite(variance_gradient).all())

    def test_its_size_is_the_bound_in_bits_times_their_number(self):
        (denoiser, _), (batch, t, eps) = self.denoiser(), self.batch()
        loss = denoiser.loss(batch, t, eps)
        simple = (0.3 - eps).square().mean(1)
        x_t = denoiser.q_sample(batch, t, eps)
        denoised = denoiser(x_t, t, batch.mask, {})
        learned = denoiser.learned_variance
        nats = bound_term(
            denoiser.schedule, Euclidean(), learned.codec, LogInterpolated(), batch, x_t, denoised, t - 1 / self.T, t
        )
        torch.testing.assert_close(loss - simple, 1e-3 * self.T * nats / (4 * math.log(2)), rtol=1e-3, atol=1e-4)

    def test_only_in_euclidean_spaces(self):
        learned = LearnedVariance(self.T, Affine())
        with pytest.raises(ValueError, match="Euclidean"):
            Denoiser(nn.Identity(), Cosine(), Epsilon(), ZeroCentreOfMass(3), learned_variance=learned)
