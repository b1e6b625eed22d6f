"""Laws of the edit verb: what is kept is exact, and with exact denoisers the rest is what mathematics says it is."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import SCHEDULES, SPACES, each, gaussian, known, random_mask
from torch import Tensor, nn

from benchmarks.exact import Mixture
from core.batch import Batch, expand
from core.denoiser import BaseDenoiser, Denoiser
from core.editing import (
    DPS,
    Kept,
    Measurement,
    Method,
    PiGDM,
    Replace,
    Search,
    Told,
    Windows,
    edit,
    from_level,
    interpolate,
)
from core.editing.gradient import conjugate_gradients
from core.editing.latents import slerp
from core.prediction import Velocity
from core.reverse import Denoised
from core.samplers import DDIM, DDPM, DPMSolverPP, Heun, PredictorCorrector, Sampler, UniPC, invert, sample
from core.schedules import Cosine, LinearPath, VarianceExploding
from core.space import Euclidean, Space, ZeroCentreOfMass
from core.times import LogSNR, Uniform

SAMPLERS: dict[str, Sampler] = {
    "ddpm": DDPM(),
    "ddim": DDIM(),
    "heun": Heun(),
    "dpmpp_sde": DPMSolverPP(2, sde=1),
    "unipc": UniPC(3),
    "predictor_corrector": PredictorCorrector(),
}
METHODS: dict[str, Method] = {
    "replace": Replace(1),
    "resample": Replace(3),
    "pigdm": PiGDM(0.8),
    "dps": DPS(0.3),
    "search": Search(2, steps=2),
    "told": Told(),
}
each_sampler, each_method = each(SAMPLERS, "sampler"), each(METHODS, "method")
WIDE = Cosine(-14.0, 14.0)


class Mixing(nn.Module):
    """A network in which every element of a sample depends on all of it, but on no other sample."""

    kept = True

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        x = x + cond["keep"] if "keep" in cond else x
        total = (x * mask).flatten(1).sum(1)[:, None, None]
        return torch.sin(x + total / 3 + c_noise[:, None, None] / 7)


def points(space: Space, n: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Denoiser, Batch, Tensor]:
    """Samples of 6 or 4 points of 5 columns, of which the first 2 are kept."""
    generator = torch.Generator().manual_seed(0)
    mask = random_mask([6 - 2 * (i % 2) for i in range(n)], 6, dtype)
    x = space.project(torch.randn(n, 6, 5, generator=generator, dtype=torch.float64).to(dtype), mask)
    keep = (torch.arange(6) < 2).to(dtype)[None, :, None].expand(n, 6, 1)
    return Denoiser(Mixing(), Cosine(), Velocity(), space), Batch(x, mask), keep


@each_method
@each_sampler
@each(SPACES, "space")
def test_what_is_kept_is_exact_in_every_space(space, sampler, method):
    denoiser, batch, keep = points(space)
    grid = LogSNR(6)(denoiser.schedule)
    x = edit(denoiser, sampler, batch, keep, grid, method=method)
    kept = Kept(space, batch, keep)
    torch.testing.assert_close(kept.operator(x), kept.operator(batch.x), atol=1e-9, rtol=0)
    torch.testing.assert_close(space.project(x, batch.mask), x, atol=1e-9, rtol=0)
    assert float((x - batch.x)[:, 2:4].abs().max()) > 0.1, "the rest is drawn"


def test_kept_points_lie_where_the_rest_lets_them():
    """Of molecules, distances among the kept points are exact; where their centre is, the sample decides."""
    denoiser, batch, keep = points(ZeroCentreOfMass(3))
    x = edit(denoiser, DDPM(), batch, keep, LogSNR(6)(denoiser.schedule))
    moved = x[:, :2, :3] - batch.x[:, :2, :3]
    torch.testing.assert_close(moved[:, 0], moved[:, 1], atol=1e-9, rtol=0)
    torch.testing.assert_close(x[:, :2, 3:], batch.x[:, :2, 3:], atol=1e-9, rtol=0)
    assert float(moved.abs().max()) > 0.1


@each_method
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_a_batch_size_changes_no_edit(method, dtype, tolerance):
    denoiser, batch, keep = points(ZeroCentreOfMass(3), 6, dtype)
    grid = LogSNR(8)(denoiser.schedule)
    together = edit(denoiser, DDPM(), batch, keep, grid, method=method, seed=2)
    rows = torch.tensor([4, 1])
    apart = edit(denoiser, DDPM(), batch[rows], keep[rows], grid, method=method, seed=2, indices=rows)
    torch.testing.assert_close(apart, together[rows], atol=tolerance, rtol=tolerance)


def test_without_anything_known_it_is_sampling():
    denoiser, batch, _ = points(ZeroCentreOfMass(3))
    grid = LogSNR(6)(denoiser.schedule)
    for sampler in SAMPLERS.values():
        plain = sample(denoiser, sampler, batch, grid, seed=1)
        assert torch.equal(edit(denoiser, sampler, batch, None, grid, seed=1), plain)


# --- replace ---


def test_replacing_keeps_independent_data_exact():
    """Where the rest does not depend on what is known, replacing does not disturb it."""
    batch = Batch.full(torch.full((4000, 4), 1.5, dtype=torch.float64))
    keep = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(4000, 4)
    denoiser = known(WIDE, gaussian(0.3, 0.7))
    for many in (1, 3):
        x = edit(denoiser, Heun(), batch, keep, LogSNR(40)(WIDE), method=Replace(many))
        assert bool((x[:, [0, 3]] == 1.5).all())
        assert float(x[:, 1:3].mean()) == pytest.approx(0.3, abs=4 * 0.7 / 8000**0.5)
        assert float(x[:, 1:3].std()) == pytest.approx(0.7, rel=0.06)


@each(SCHEDULES, "schedule")
def test_before_the_end_the_kept_part_has_the_noise_of_its_time(schedule):
    seen = {}
    batch = Batch.full(torch.full((4000, 2), 2.0, dtype=torch.float64))
    keep = torch.ones_like(batch.x)
    grid = LogSNR(8)(schedule)
    denoiser = known(schedule, gaussian(0, 1))
    edit(
        denoiser,
        DDPM(),
        batch,
        keep,
        grid,
        method=Replace(2),
        callback=lambda i, s, x: seen.update({i: (s, x.clone())}),
    )
    for s, x in list(seen.values())[1:]:
        alpha, sigma = (float(c) for c in schedule(s))
        assert float(x.mean()) == pytest.approx(2 * alpha, abs=5 * sigma / 8000**0.5 + 1e-9)
        assert float(x.std()) == pytest.approx(sigma, rel=0.05, abs=1e-9)


def test_resampling_costs_its_times_and_costs_them_only_before_the_end():
    calls = []
    denoiser = known(Cosine(), lambda x, alpha, sigma: calls.append(1) or x)
    batch = Batch.full(torch.zeros(1, 2, dtype=torch.float64))
    edit(denoiser, DDIM(), batch, torch.ones(1, 2), Uniform(10)(Cosine()), method=Replace(4))
    assert len(calls) == 9 * 4 + 1


def test_search_finds_what_replacing_misses():
    """Two modes, known apart only at low noise: x_1 says which, x_2 lies far from its other place."""
    centres = torch.tensor([[-0.3, -3.0], [0.3, 3.0]], dtype=torch.float64)
    denoiser = Mixture(centres, torch.tensor([0.5, 0.5]).double(), 0.1, None, WIDE)
    batch = Batch.full(torch.tensor([[0.3, 0.0]], dtype=torch.float64).expand(200, 2))
    keep = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(200, 2)
    shares = []
    for method in (Replace(1), Search(20, highest=6.0)):
        x = edit(denoiser, DDPM(), batch, keep, LogSNR(40)(WIDE), method=method)
        shares.append(float((x[:, 1] > 0).double().mean()))
    assert shares[0] < 0.8
    assert shares[1] > 0.97


# --- a network that is told ---


class Correlated(BaseDenoiser):
    """x = (a, b) of unit variances and a correlation; exact where a is kept: E[b | a, b_t]."""

    kept = True

    def __init__(self, correlation: float) -> None:
        super().__init__()
        self.schedule, self.space, self.correlation = WIDE, Euclidean(), correlation

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: dict) -> Denoised:
        assert cond["keep"][:, 0].all()
        assert not cond["keep"][:, 1].any()
        alpha, sigma = (expand(c, x_t[:, 0]) for c in self.schedule(t))
        a, var = x_t[:, 0] / alpha, 1 - self.correlation**2
        mean = self.correlation * a
        b = mean + alpha * var / (alpha**2 * var + sigma**2) * (x_t[:, 1] - alpha * mean)
        return Denoised(torch.stack([torch.full_like(b, 9.0), b], 1))


@pytest.mark.parametrize("sampler", [DDPM(), DPMSolverPP(2, sde=1), UniPC(3)], ids=["ddpm", "dpmpp_sde", "unipc"])
def test_what_is_told_is_followed_exactly(sampler):
    """The samples have the conditional distribution, in which replacing once is wrong."""
    n = 4000
    batch = Batch.full(torch.tensor([[1.5, 0.0]], dtype=torch.float64).expand(n, 2))
    keep = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(n, 2)
    x = edit(Correlated(0.8), sampler, batch, keep, LogSNR(400)(WIDE), method=Told())
    assert bool((x[:, 0] == 1.5).all())
    assert float(x[:, 1].mean()) == pytest.approx(0.8 * 1.5, abs=4 * 0.6 / n**0.5 + 2e-3)
    assert float(x[:, 1].std()) == pytest.approx(0.6, rel=0.05)


def test_a_network_that_has_not_learned_to_be_told_is_refused():
    denoiser, batch, keep = points(Euclidean())
    denoiser.network.kept = False
    with pytest.raises(ValueError, match="trained with kept parts"):
        edit(denoiser, DDPM(), batch, keep, LogSNR(4)(denoiser.schedule), method=Told())


# --- PiGDM ---


def conditional(space: Space, mean: Tensor, var: float, x_t: Tensor, alpha: float, sigma: float, measured: Measurement):
    """E[x_0 | x_t, y] of N(mean, var P), through the full covariance of the flattened sample."""
    shape, size = mean.shape, mean.numel()
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    whole = torch.ones(size, *[1] * len(shape), dtype=torch.float64)
    projector = space.project(unit, whole).reshape(size, size)
    prior = var * projector
    of_x = alpha * torch.eye(size, dtype=torch.float64)
    of_y = measured.operator(unit).reshape(size, -1).T
    both = torch.cat([of_x, of_y])
    noise = torch.block_diag(sigma**2 * projector, measured.std**2 * torch.eye(len(of_y), dtype=torch.float64))
    gain = prior @ both.T @ torch.linalg.pinv(both @ prior @ both.T + noise)
    flat = mean.flatten()
    data = torch.cat([x_t.flatten(1), measured.observed.flatten(1)], 1)
    return (flat + (data - flat @ both.T) @ gain.T).reshape(-1, *shape)


def blur(x: Tensor) -> Tensor:
    """Sums of neighbours: a measurement whose parts overlap."""
    return x[:, :-1] + 0.5 * x[:, 1:]


@pytest.mark.parametrize("std", [0.0, 0.3])
@pytest.mark.parametrize("what", ["keep", "blur"])
@pytest.mark.parametrize("schedule", [Cosine(), LinearPath(), VarianceExploding()], ids=["cosine", "linear", "ve"])
@each(SPACES, "space")
def test_pigdm_is_exact_on_a_gaussian(space, schedule, what, std):
    """At every noise level its answer is E[x_0 | x_t, y]: closed form, for any linear measurement, in every space."""
    generator = torch.Generator().manual_seed(1)
    mean = space.project(torch.randn(1, 4, 5, generator=generator, dtype=torch.float64), torch.ones(1, 1, 1))[0]
    var, template = 0.6, Batch.full(torch.zeros(3, 4, 5, dtype=torch.float64))
    truth = space.project(mean + torch.randn(3, 4, 5, generator=generator, dtype=torch.float64), template.mask)
    if what == "keep":
        projector, one = space.restrict((torch.arange(4) < 3).double()[None, :, None]), torch.ones(1, 1, 1).double()
        measured = Measurement(lambda x: projector.project(x, one), projector.project(truth, one), std)
    else:
        measured = Measurement(blur, blur(truth), std)
    denoiser = Mixture(mean[None], torch.ones(1, dtype=torch.float64), math.sqrt(var), space, schedule)
    guided, _ = PiGDM(math.sqrt(var))(denoiser, DDIM(), measured)
    for level in (-6.0, -1.0, 2.0, 6.0):
        t = schedule.inverse(torch.tensor(level, dtype=torch.float64))
        alpha, sigma = (float(c) for c in schedule(t))
        noise = space.project(torch.randn(3, 4, 5, generator=generator, dtype=torch.float64), template.mask)
        x_t = alpha * truth + sigma * noise
        wanted = conditional(space, mean, var, x_t, alpha, sigma, measured)
        got = guided(x_t, t.expand(3), template.mask, {}).x0
        torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)


@each(SPACES, "space")
def test_pigdm_samples_the_posterior_of_a_gaussian(space):
    """Mean and standard deviation of the samples, where one linear combination of 6 numbers is known without error."""
    n, sd = 4000, 0.8
    shape = (2, 3)
    denoiser = Mixture(torch.zeros(1, *shape, dtype=torch.float64), torch.ones(1).double(), sd, space, WIDE)
    weights = torch.tensor([[1.0, 0.5, -0.3], [-1.0, 0.2, 0.7]], dtype=torch.float64)

    def operator(x: Tensor) -> Tensor:
        return (x * weights).flatten(1).sum(1, keepdim=True)

    measured = Measurement(operator, torch.full((n, 1), 1.2, dtype=torch.float64))
    template = Batch.full(torch.zeros(n, *shape, dtype=torch.float64))
    x = edit(denoiser, UniPC(3), template, None, LogSNR(60)(WIDE), measurement=measured, method=PiGDM(sd))
    torch.testing.assert_close(operator(x), measured.observed, atol=1e-3, rtol=0)
    within = space.project(weights[None], torch.ones(1, 1, 1))[0]
    mean = within / (within**2).sum() * 1.2
    torch.testing.assert_close(x.mean(0), mean, atol=4.5 * sd / n**0.5, rtol=0)
    unit = within / within.norm()
    free = x - mean
    total = float((free**2).flatten(1).sum(1).mean()) / sd**2
    dim = float(space.dim(template.x[:1], template.mask[:1])) - 1
    assert total == pytest.approx(dim, abs=4.5 * math.sqrt(2 * dim / n) + 0.02)
    assert float((free * unit).flatten(1).sum(1).abs().max()) < 1e-3


def test_gradient_methods_follow_what_is_no_part_of_the_sample():
    denoiser = known(WIDE, gaussian(0.0, 1.0))
    template = Batch.full(torch.zeros(50, 8, dtype=torch.float64))
    measured = Measurement(blur, torch.full((50, 7), 0.9, dtype=torch.float64))
    free = sample(denoiser, DDPM(), template, LogSNR(100)(WIDE))
    for method, factor in ((PiGDM(1.0), 1e-3), (DPS(0.5), 0.3)):
        x = edit(denoiser, DDPM(), template, None, LogSNR(100)(WIDE), measurement=measured, method=method)
        assert float(measured.residual(x).norm()) < factor * float(measured.residual(free).norm())


def test_conjugate_gradients_solve_each_sample_alone():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64)
    matrix, b = root @ root.mT + 0.1 * torch.eye(6), torch.randn(3, 6, generator=generator, dtype=torch.float64)
    b[1] = 0  # solved from the start: no 0 / 0
    u = conjugate_gradients(lambda y: (matrix @ y[..., None])[..., 0], b)
    torch.testing.assert_close(u, torch.linalg.solve(matrix, b), atol=1e-3, rtol=1e-3)
    assert not u[1].any()


# --- DPS ---


def test_dps_is_its_algorithm():
    """One step in plain formulas: DDPM's, then downhill along the gradient of the residual's norm."""
    denoiser = known(Cosine(), lambda x, alpha, sigma: torch.tanh(x))
    x_t = torch.tensor([[0.3, -0.8, 0.5]], dtype=torch.float64)
    measured = Measurement(blur, torch.tensor([[1.0, -0.2]], dtype=torch.float64))
    grid = torch.tensor([0.6, 0.4], dtype=torch.float64)
    template = Batch.full(x_t)
    plain = sample(denoiser, DDPM(), template, grid, start=x_t)
    _, sampler = DPS(0.7)(denoiser, DDPM(), measured)
    leaf = x_t.clone().requires_grad_()
    (measured.observed - blur(torch.tanh(leaf))).norm().backward()
    wanted = plain - 0.7 * leaf.grad
    torch.testing.assert_close(sample(denoiser, sampler, template, grid, start=x_t), wanted, atol=1e-12, rtol=1e-12)


# --- strength ---


def test_strength_is_the_time_from_which_noise_is_taken_away():
    grid = Uniform(10)(Cosine())
    assert from_level(grid, 0.55).tolist() == pytest.approx([0.55, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert torch.equal(from_level(grid, 1.0), grid)
    for wrong in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match="strength"):
            from_level(grid, wrong)


def test_sdedit_begins_at_the_noised_sample():
    """With an exact denoiser of a Gaussian and DDIM the result is affine in the start: its mean moves from the sample's
    to the data's as strength grows."""
    n, mean, sd = 4000, -0.5, 0.6
    denoiser, batch = known(WIDE, gaussian(mean, sd)), Batch.full(torch.full((4000, 1), 2.0, dtype=torch.float64))
    for strength in (0.2, 0.5, 0.8):
        x = edit(denoiser, DDIM(), batch, None, Uniform(200)(WIDE), strength=strength)
        alpha, sigma = (float(c) for c in WIDE(torch.tensor(strength, dtype=torch.float64)))
        gain = sd / math.sqrt(alpha**2 * sd**2 + sigma**2)  # the flow's map of a Gaussian
        wanted = mean + gain * alpha * (2.0 - mean)
        assert float(x.mean()) == pytest.approx(wanted, abs=4.5 * gain * sigma / n**0.5 + 0.01)
        assert float(x.std()) == pytest.approx(gain * sigma, rel=0.06)


def test_strength_and_keep_go_together():
    denoiser, batch, keep = points(ZeroCentreOfMass(3))
    x = edit(denoiser, DDPM(), batch, keep, LogSNR(6)(denoiser.schedule), strength=0.4)
    kept = Kept(denoiser.space, batch, keep)
    torch.testing.assert_close(kept.operator(x), kept.operator(batch.x), atol=1e-9, rtol=0)
    assert float((x - batch.x).abs().max()) > 0.01


# --- interpolation ---


def test_between_two_samples_lie_samples():
    denoiser = Mixture(
        torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64), torch.tensor([0.5, 0.5]).double(), 0.3, None, WIDE
    )
    first, second = (Batch.full(torch.tensor([x], dtype=torch.float64)) for x in ([-1.2, 0.3], [0.9, -0.2]))
    way = interpolate(denoiser, first, second, torch.linspace(0, 1, 5), LogSNR(300)(WIDE))
    torch.testing.assert_close(way[:1], first.x, atol=0.02, rtol=0)
    torch.testing.assert_close(way[-1:], second.x, atol=0.02, rtol=0)
    nearest = torch.minimum((way[:, 0] - 1).abs(), (way[:, 0] + 1).abs())
    assert float(nearest.max()) < 1.0, "between the modes, not in the middle of nowhere"


def test_slerp_keeps_the_length_of_noise():
    a, b = torch.randn(2, 3, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    half = slerp(a, b, torch.full((3,), 0.5))
    torch.testing.assert_close(half.norm(dim=1), (a.norm(dim=1) + b.norm(dim=1)) / 2, rtol=0.03, atol=0)
    torch.testing.assert_close(slerp(a, b, torch.zeros(3)), a)
    torch.testing.assert_close(slerp(a, b, torch.ones(3)), b)
    assert bool(slerp(a, a, torch.full((3,), 0.3)).isfinite().all())


def test_interpolation_uses_the_inverted_noise():
    denoiser = known(WIDE, gaussian(0.2, 0.5))
    first, second = (Batch.full(torch.full((1, 3), value, dtype=torch.float64)) for value in (0.1, 0.4))
    grid = LogSNR(200)(WIDE)
    noise = [invert(denoiser, one, grid.flip(0), refinements=4) for one in (first, second)]
    start = slerp(*noise, torch.tensor([0.25]))
    wanted = sample(denoiser, DDIM(), first, grid, start=start)
    torch.testing.assert_close(interpolate(denoiser, first, second, torch.tensor([0.25]), grid), wanted)


# --- windows ---


class Local(nn.Module):
    """A network whose answer at a place depends on that place alone."""

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        label = cond["label"].to(x.dtype)[:, None, None, None] if "label" in cond else 0
        return torch.tanh(x) * mask + label


@pytest.mark.parametrize(("length", "stride"), [(8, None), (11, None), (20, 3), (21, 8)])
def test_windows_of_a_local_denoiser_are_the_denoiser(length, stride):
    denoiser = Denoiser(Local(), Cosine(), Velocity())
    x = torch.randn(2, 1, 6, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = (torch.arange(length) < length - 2).double()[None, None, None].expand(2, 1, 1, length)
    arguments = x, torch.tensor([0.3, 0.7]).double(), mask, {"label": torch.tensor([1, 2])}
    windowed = Windows(denoiser, 8, dim=3, stride=stride)
    torch.testing.assert_close(windowed(*arguments).x0, denoiser(*arguments).x0, atol=1e-9, rtol=1e-9)


def test_windows_tile_two_axes_and_take_only_what_they_were_trained_on():
    sizes = []

    class Watching(Local):
        def forward(self, x, c_noise, mask, cond):
            sizes.append(tuple(x.shape[2:]))
            return super().forward(x, c_noise, mask, cond)

    denoiser = Windows(Windows(Denoiser(Watching(), Cosine(), Velocity()), 6, dim=2), 6, dim=3)
    x = edit(denoiser, DDIM(), Batch.full(torch.zeros(1, 1, 13, 9)), None, Uniform(3)(Cosine()))
    assert x.shape == (1, 1, 13, 9)
    assert set(sizes) == {(6, 6)}


def test_windows_need_a_space_of_independent_places():
    denoiser, _, _ = points(ZeroCentreOfMass(3))
    with pytest.raises(ValueError, match="Euclidean"):
        Windows(denoiser, 4, dim=1)


# --- what is refused ---

WHOLE = Measurement(lambda x: x, torch.zeros(4, 6, 5))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": torch.zeros(4, 6, 1)}, "nothing is kept"),
        ({"keep": torch.full((4, 6, 1), 0.5)}, "keep must be 1"),
        ({"keep": torch.full((4, 6, 1), math.nan)}, "keep must be 1"),
        ({"method": PiGDM()}, "nothing to follow"),
        (
            {"measurement": Measurement(lambda x: x, torch.zeros(4, 6, 5)), "method": Replace()},
            "Replace needs parts that stay",
        ),
        (
            {"measurement": Measurement(lambda x: x, torch.zeros(4, 6, 5)), "method": Search()},
            "Search needs parts that stay",
        ),
        ({"measurement": Measurement(lambda x: x, torch.zeros(4, 6, 5)), "keep": torch.ones(4, 6, 1)}, "exclude"),
        ({"strength": 0}, "strength=0"),
        ({"keep": torch.ones(4, 6, 1), "method": PiGDM([1.0, 2.0])}, "data_std has 2 values, .* 5 columns"),
        ({"keep": torch.ones(4, 6, 1), "method": Search(scale=[1.0])}, "scale has 1 values, .* 5 columns"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    denoiser, batch, _ = points(Euclidean())
    with pytest.raises(ValueError, match=said):
        edit(denoiser, DDPM(), batch, times=LogSNR(4)(denoiser.schedule), **{"keep": None, **options})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Replace(0), "resamplings=0"),
        (lambda: PiGDM(0.0), "data_std=0"),
        (lambda: PiGDM([1.0, -1.0]), "data_std"),
        (lambda: DPS(0.0), "step_size=0"),
        (lambda: Search(0), "rounds=0"),
        (lambda: Search(lowest=3.0), "lowest=3"),
        (lambda: Search(scale=[1.0, 0.0]), "scale"),
        (lambda: Measurement(lambda x: x, torch.zeros(1, 1), -1.0), "std=-1"),
        (lambda: Windows(known(Cosine(), gaussian(0, 1)), 4, 1, 5), "stride=5"),
    ],
)
def test_impossible_parameters_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
