"""The draws of training are a function of (seed, step, position): batches can be cut in any way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import assert_same_weights, train
from torch import nn

from core.batch import Batch
from core.data import global_positions
from core.denoiser import Denoiser
from core.levels import Uniform
from core.objective import Objective
from core.prediction import Velocity
from core.schedules import Cosine

TOTAL = 16


class Recording(nn.Module):
    """A network that keeps what it was given."""

    def forward(self, x, c_noise, mask, cond):
        self.seen = (x, c_noise, cond.get("drop"))
        return x


def draws(objective: Objective, step: int, positions: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    """The network's inputs, the log-SNR and the dropped conditions of these samples of the global batch."""
    network = Recording()
    denoiser = Denoiser(network, Cosine(), Velocity())
    batch = Batch.full(x[positions], {"label": torch.zeros(len(positions), dtype=torch.int64)})
    losses = objective.training(denoiser, batch, step, positions, TOTAL)
    return [*network.seen, losses.loss, losses.log_snr]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(TOTAL, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "cut",
    [
        [global_positions(8, rank, 2) for rank in (0, 1)],
        [torch.arange(8), torch.arange(8, 16)],
        [micro * 8 + global_positions(4, rank, 2) for micro in (0, 1) for rank in (0, 1)],
    ],
    ids=["two ranks", "accumulated", "both"],
)
def test_a_cut_batch_has_the_draws_of_the_whole(cut: list[torch.Tensor], x: torch.Tensor):
    objective = Objective(Uniform(), 0.3, seed=5)
    whole = draws(objective, 7, torch.arange(TOTAL), x)
    assert torch.equal(torch.cat(cut).sort().values, torch.arange(TOTAL))
    for positions in cut:
        for part, everything in zip(draws(objective, 7, positions, x), whole, strict=True):
            torch.testing.assert_close(part, everything[positions], atol=1e-6, rtol=1e-6)


def test_steps_and_seeds_differ(x: torch.Tensor):
    one, *others = (
        draws(Objective(Uniform(), 0.3, seed), step, torch.arange(TOTAL), x)[0]
        for seed, step in ((0, 0), (0, 1), (1, 0))
    )
    assert all(not torch.equal(one, other) for other in others)


def test_times_are_stratified_over_the_global_batch(x: torch.Tensor):
    schedule = Cosine()
    for step in range(5):
        log_snr = draws(Objective(Uniform()), step, torch.arange(TOTAL), x)[-1]
        lowest, highest = schedule.inverse(torch.tensor(schedule.ends[::-1], dtype=torch.float64)).tolist()
        u = (schedule.inverse(log_snr.double()) - lowest) / (highest - lowest)
        assert torch.equal((u * TOTAL).floor().long(), torch.arange(TOTAL))


def test_the_asked_share_of_conditions_is_dropped():
    objective = Objective(Uniform(), 0.25)
    dropped = torch.cat([draws(objective, step, torch.arange(TOTAL), torch.zeros(TOTAL, 1))[2] for step in range(200)])
    assert dropped.float().mean() == pytest.approx(0.25, abs=0.03)
    network = Recording()
    batch = Batch.full(torch.zeros(TOTAL, 1), {"label": torch.zeros(TOTAL, dtype=torch.int64)})
    Objective(Uniform(), 0.0).training(Denoiser(network, Cosine(), Velocity()), batch, 0, torch.arange(TOTAL), TOTAL)
    assert network.seen[2] is None


def test_validation_is_the_same_every_time(x: torch.Tensor):
    objective, denoiser = Objective(Uniform()), Denoiser(Recording(), Cosine(), Velocity())
    one, other = (objective.validation(denoiser, Batch.full(x), torch.arange(TOTAL), TOTAL) for _ in range(2))
    assert torch.equal(one.loss, other.loss)
    part = objective.validation(denoiser, Batch.full(x[4:8]), torch.arange(4, 8), TOTAL)
    torch.testing.assert_close(part.loss, one.loss[4:8])


LAW = ("training.steps=3", "optimisation.warmup=1", "training.validate_every=3")


def test_accumulated_batches_equal_one_of_twice_the_size(tmp_path: Path, cache: Path, no_plots: None):
    once = train(tmp_path / "once", *LAW, "training.batch_size=8")
    twice = train(tmp_path / "twice", *LAW, "training.batch_size=4", "training.accumulate=2")
    assert_same_weights(once, twice, atol=1e-5, rtol=1e-5)
