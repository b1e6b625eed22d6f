"""Laws of the one sampling loop, with every sampler."""

from __future__ import annotations

import pytest
import torch
from conftest import SCHEDULES, SPACES, each, gaussian, known, random_mask
from test_samplers import SAMPLERS
from torch import Tensor, nn

from core import times
from core.batch import Batch
from core.denoiser import Denoiser
from core.prediction import Epsilon
from core.samplers import DDIM, DPMSolverPP, Heun, sample
from core.schedules import Cosine

each_sampler, each_schedule = each(SAMPLERS, "sampler"), each(SCHEDULES, "schedule")


class Mixing(nn.Module):
    """A network in which every element of a sample depends on all of it, but on no other sample."""

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        total = (x * mask).flatten(1).sum(1)[:, None, None]
        return torch.sin(x + total + c_noise[:, None, None] / 7 + cond["label"][:, None, None])


def request(size: int, dtype: torch.dtype) -> Batch:
    mask = random_mask([2 + i % 4 for i in range(size)], 5, dtype)
    return Batch(torch.zeros(size, 5, 4, dtype=dtype), mask, {"label": torch.arange(size)})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@each(SPACES, "space")
@each_sampler
def test_a_batch_size_changes_no_sample(sampler, space, dtype, tolerance):
    """64 samples at once, four times 16 of them, one alone, and three in another order."""
    denoiser, whole = Denoiser(Mixing(), Cosine(), Epsilon(), space), request(64, dtype)
    grid = times.LogSNR(10)(Cosine())
    together = sample(denoiser, sampler, whole, grid, seed=3, indices=torch.arange(100, 164))
    parts = [*torch.arange(64).split(16), torch.tensor([2]), torch.tensor([5, 0, 63])]
    for rows in parts:
        apart = sample(denoiser, sampler, whole[rows], grid, seed=3, indices=100 + rows)
        torch.testing.assert_close(apart, together[rows], atol=tolerance, rtol=tolerance)


@each(SPACES, "space")
@each_sampler
def test_every_state_lies_in_the_space(sampler, space):
    """Though the network pulls out of it at each step."""
    denoiser, template, seen = Denoiser(Mixing(), Cosine(), Epsilon(), space), request(5, torch.float64), []
    sample(denoiser, sampler, template, times.Uniform(8)(Cosine()), callback=lambda i, s, x: seen.append(x))
    for x in seen:
        torch.testing.assert_close(space.project(x, template.mask), x, rtol=1e-12, atol=1e-12 * float(x.abs().max()))


@each_sampler
def test_other_seeds_and_other_indices_give_other_samples(sampler):
    denoiser, one = Denoiser(Mixing(), Cosine(), Epsilon()), request(1, torch.float64)
    grid = times.LogSNR(5)(Cosine())
    draws = [
        sample(denoiser, sampler, one, grid, seed=seed, indices=torch.tensor([i])) for seed in (0, 1) for i in (0, 1)
    ]
    for i, x in enumerate(draws):
        assert all(float((x - y).abs().max()) > 1e-3 for y in draws[:i])


@each_sampler
def test_the_values_of_the_template_are_not_read(sampler):
    denoiser, empty = Denoiser(Mixing(), Cosine(), Epsilon()), request(3, torch.float64)
    filled = empty.with_x(torch.full_like(empty.x, float("nan")))
    grid = times.Uniform(4)(Cosine())
    assert torch.equal(sample(denoiser, sampler, empty, grid), sample(denoiser, sampler, filled, grid))


@each_schedule
def test_sampling_starts_at_the_marginal_of_unit_data(schedule):
    """One step of a denoiser that hands back x_t shows the start."""
    denoiser = known(schedule, lambda x, alpha, sigma: x)
    template = Batch.full(torch.zeros(200, 50, dtype=torch.float64))
    start = sample(denoiser, DDIM(), template, times.LogSNR(1)(schedule))
    alpha, sigma = schedule(times.LogSNR(1)(schedule)[0])
    assert float(start.std()) == pytest.approx(float((alpha**2 + sigma**2).sqrt()), rel=4 / (2 * 10000) ** 0.5)


def test_callback_and_constraint_see_every_step():
    denoiser, template = known(Cosine(), gaussian(0, 1)), Batch.full(torch.zeros(2, 3, dtype=torch.float64))
    grid, seen = times.Uniform(5)(Cosine()), []
    x = sample(
        denoiser,
        DDIM(),
        template,
        grid,
        constrain=lambda x, s: x.clone().index_fill_(1, torch.tensor([0]), float(s) + 1),
        callback=lambda i, s, x: seen.append((i, float(s), float(x[0, 0]))),
    )
    assert [i for i, _, _ in seen] == [0, 1, 2, 3, 4, 5]  # 0 is the noise
    assert [s for _, s, _ in seen] == pytest.approx(grid.tolist())
    assert all(value == s + 1 for _, s, value in seen[1:])
    assert x[:, 0].tolist() == [1, 1]


@each_sampler
def test_sampling_goes_on_from_a_given_start(sampler):
    """The first half of the times, and from there the second, are the whole, where nothing is remembered or drawn."""
    denoiser, template = Denoiser(Mixing(), Cosine(), Epsilon()), request(3, torch.float64)
    grid, seen = times.Uniform(8)(Cosine()), []
    sample(denoiser, sampler, template, grid, callback=lambda i, s, x: seen.append(x))
    assert torch.equal(sample(denoiser, sampler, template, grid, start=seen[0]), seen[-1])
    again = sample(denoiser, sampler, template, grid[4:], start=seen[4])
    if sampler in (DDIM(), Heun(), DPMSolverPP(1)):
        assert torch.equal(again, seen[-1])


@each_sampler
def test_what_was_remembered_is_forgotten_where_x_is_moved(sampler):
    """Then every step is that of a new start."""
    denoiser, template, states = Denoiser(Mixing(), Cosine(), Epsilon()), request(3, torch.float64), []

    class Watched:
        def step(self, denoise, x_t, t, s, state, noise):
            states.append(state)
            return sampler.step(denoise, x_t, t, s, state, noise)

    sample(denoiser, Watched(), template, times.Uniform(4)(Cosine()), constrain=lambda x, s: x)
    assert states == [None] * 4


@each(SPACES, "space")
def test_a_constraint_cannot_leave_the_space(space):
    denoiser, template = Denoiser(Mixing(), Cosine(), Epsilon(), space), request(3, torch.float64)
    x = sample(denoiser, DDIM(), template, times.LogSNR(5)(Cosine()), constrain=lambda x, s: x + 1)
    torch.testing.assert_close(space.project(x, template.mask), x)


@pytest.mark.parametrize("wrong", [[1.0], [0.0, 1.0], [1.0, 1.0, 0.0], [1.5, 0.0], [0.5, -0.1]])
def test_times_that_are_no_grid_are_refused(wrong):
    denoiser = known(Cosine(), gaussian(0, 1))
    with pytest.raises(ValueError, match="times must decrease"):
        sample(denoiser, DDIM(), Batch.full(torch.zeros(1, 2)), torch.tensor(wrong))
