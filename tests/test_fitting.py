"""Measured densities: known answers on data whose denoiser is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core import levels, times
from core.batch import Batch
from core.denoiser import Denoiser
from core.fitting import fit_levels, fit_times
from core.objective import Losses
from core.prediction import Sample
from core.samplers import DDIM, sample
from core.schedules import Cosine


class TwoPoints(nn.Module):
    """E[x_0 | x_t] for data that is -1 or 1 with equal chance: tanh(alpha x_t / sigma^2)."""

    def forward(self, x, c_noise, mask, cond):
        log_snr = c_noise[:, None]
        return torch.tanh(torch.exp(log_snr) / log_snr.sigmoid().sqrt() * x)


def test_steps_are_spent_where_the_data_is_decided():
    denoiser = Denoiser(TwoPoints(), Cosine(-9, 9), Sample()).double()
    batch = Batch.full(torch.tensor([[-1.0], [1.0]], dtype=torch.float64).repeat(100, 1))
    edges, density = fit_times(denoiser, batch, bins=18)
    peak = edges[density.index(max(density))]
    assert -3 <= peak <= 3  # between noise, where x_0 is 0, and data, where it is settled
    assert density[0] < 0.1
    assert density[-1] < 0.1

    def distance_to_data(grid: times.Times) -> float:
        template = Batch.full(torch.zeros(500, 1, dtype=torch.float64))
        x0 = sample(denoiser, DDIM(), template, grid(denoiser.schedule))
        return float((x0.abs() - 1).abs().mean())

    assert distance_to_data(times.Fitted(6, edges, density)) <= distance_to_data(times.LogSNR(6))


def test_levels_follow_the_root_mean_square_of_the_loss():
    log_snr = torch.linspace(-4, 4, 4000)
    density = fit_levels(Losses(torch.exp(log_snr / 4), log_snr), (-4, 4), bins=8)
    ratio = torch.tensor(density.density[1:]) / torch.tensor(density.density[:-1])
    torch.testing.assert_close(ratio, torch.full((7,), float(torch.tensor(0.25).exp())), rtol=1e-3, atol=0)
    t = levels.Fitted(*density)(torch.linspace(0.001, 0.999, 999), Cosine(-9, 9))
    drawn = Cosine(-9, 9).log_snr(t)
    wanted = torch.tensor(density.density).cumsum(0) / sum(density.density)
    for edge, share in zip(density.edges[1:], wanted, strict=True):
        assert float((drawn < edge).float().mean()) == pytest.approx(float(share), abs=0.01)


def test_nothing_to_fit_is_an_error():
    with pytest.raises(ValueError, match="no losses"):
        fit_levels(Losses(torch.empty(0), torch.empty(0)), (-9, 9))
