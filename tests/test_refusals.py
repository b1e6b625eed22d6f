"""The mathematics refuses what cannot be meant: one line names the argument, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from core.batch import Batch
from core.denoiser import Denoiser
from core.layers.embedding import Conditions
from core.prediction import Velocity
from core.samplers import DDIM, sample
from core.schedules import BetaTable, Cosine
from core.times import Uniform


class Same(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        return x


X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
D, GRID, T = Denoiser(Same(), Cosine(), Velocity()), Uniform(3)(Cosine()), torch.tensor([0.1, 0.4, 0.6, 1.0])
FULL, NAN = Batch.full(X), float("nan")
EMPTY = Batch(X, torch.ones(4, 1, 8, 8) * torch.tensor([1.0, 0, 1, 1])[:, None, None, None])
LABELS = Conditions({"label": 10}, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: BetaTable([0.1, 1.2]), r"betas must be .* in \(0, 1\], got .*1.2"),
        (lambda: BetaTable([0.1, NAN]), "betas must be"),
        (lambda: Cosine(5.0, -5.0), "log_snr_min=5.0, log_snr_max=-5.0"),
        (lambda: Batch(X, torch.ones(4, 1, 7, 7)), r"mask has the shape \(4, 1, 7, 7\), which does not broadcast to x"),
        (lambda: Batch(X, torch.ones(4, 8, 8)), "mask has the shape"),
        (lambda: Batch(X, torch.ones(3, 1, 1, 1)), "mask has"),
        (lambda: D.loss(EMPTY, T, torch.randn_like(X)), r"mask has no real element in the samples \[1\]"),
        (lambda: D.loss(FULL, T[:3], torch.randn_like(X)), r"t has the shape \(3,\)"),
        (lambda: D.loss(FULL, T + 0.5, torch.randn_like(X)), r"t=\[.*\]: times must lie in \(0, 1\]"),
        (lambda: D.loss(FULL, T * NAN, torch.randn_like(X)), "times must lie in"),
        (lambda: D.loss(FULL, T, torch.randn(1, 1, 8, 8)), r"eps has the shape \(1, 1, 8, 8\)"),
        (lambda: sample(D, DDIM(), FULL, GRID.flip(0)), "times must decrease"),
        (lambda: sample(D, DDIM(), FULL, torch.tensor([1.0, NAN, 0.0])), "times must decrease"),
        (lambda: sample(D, DDIM(), FULL, torch.tensor([NAN, 0.0])), "times must decrease"),
        (lambda: sample(D, DDIM(), FULL, torch.ones(2, 2)), "times must decrease"),
        (lambda: sample(D, DDIM(), FULL, GRID, indices=torch.arange(3)), "indices has the shape"),
        (lambda: sample(D, DDIM(), EMPTY, GRID), "mask has no real element"),
        (lambda: LABELS({"label": torch.tensor([3, 10])}, 2), "label=10: must be a whole number from 0 to 9"),
        (lambda: LABELS({"label": torch.tensor([3, -1])}, 2), "label=-1"),
        (lambda: LABELS({"label": torch.tensor([3.0, 1.5])}, 2), "label=1.5"),
    ],
)
def test_it_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert "\n" not in str(error.value)
