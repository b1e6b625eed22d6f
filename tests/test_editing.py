"""What is known stays while the rest is sampled: exactly at the end, at each step's noise level before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.batch import Batch
from core.denoiser import Denoiser
from core.editing import Known
from core.prediction import Sample
from core.samplers import DDPM, sample
from core.schedules import Cosine
from core.space import Euclidean, Space, ZeroCentreOfMass
from core.times import Uniform


class Data(nn.Module):
    """The exact denoiser of standard normal data of the space: E[x_0 | x_t] = alpha_t x_t."""

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return c_noise.sigmoid().sqrt()[:, None, None] * x


def denoiser(space: Space) -> Denoiser:
    return Denoiser(Data(), Cosine(), Sample(), space)


def test_the_kept_part_is_exact_and_the_rest_is_data():
    known = Batch.full(torch.full((2000, 3, 2), 1.5))
    keep = torch.tensor([1.0, 0.0]).expand(2000, 3, 2)
    model = denoiser(Euclidean())
    constrain = Known(model, known, keep, 0, torch.arange(2000))
    x = sample(model, DDPM(), known, Uniform(100)(model.schedule), constrain=constrain)
    assert (x[..., 0] == 1.5).all()
    assert x[..., 1].std() == pytest.approx(1, abs=0.05)
    assert x[..., 1].mean() == pytest.approx(0, abs=0.05)


def test_before_the_end_it_has_the_noise_of_its_time():
    known = Batch.full(torch.full((4000, 2, 1), 2.0))
    model = denoiser(Euclidean())
    constrain = Known(model, known, torch.ones(4000, 2, 1), 0, torch.arange(4000))
    s = torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = model.schedule(s)
    y = constrain(torch.zeros(4000, 2, 1), s)
    assert y.mean() == pytest.approx(2 * float(alpha), abs=0.03)
    assert y.std() == pytest.approx(float(sigma), rel=0.03)
    assert not torch.equal(y, constrain(torch.zeros(4000, 2, 1), s / 2)), "each step has its own noise"


def test_it_stays_in_a_space_without_a_centre():
    """Of molecules the known part is placed relative to its own centre: the state keeps its zero centre of mass."""
    torch.manual_seed(0)
    space = ZeroCentreOfMass(3)
    mask = (torch.arange(6) < torch.tensor([6, 4])[:, None]).float()[..., None]
    x = space.project(torch.randn(2, 6, 5), mask)
    known = Batch(space.project(torch.randn(2, 6, 5), mask), mask)
    keep = (torch.arange(6) < 3).float()[None, :, None].expand(2, 6, 1)
    y = Known(denoiser(space), known, keep, 0, torch.arange(2))(x, torch.tensor(0.0))
    torch.testing.assert_close(space.project(y, mask), y, atol=1e-6, rtol=0)
    for columns in (slice(0, 3), slice(3, 5)):
        kept, wanted = y[:, :3, columns], known.x[:, :3, columns]
        if columns.start == 0:
            kept, wanted = kept - kept.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True)
        torch.testing.assert_close(kept, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(y[:, 3:], x[:, 3:], atol=1e-6, rtol=0)


def test_a_sample_depends_on_its_number_alone():
    model, known = denoiser(Euclidean()), Batch.full(torch.ones(4, 2, 2))
    keep, x, s = torch.ones(4, 2, 2), torch.zeros(4, 2, 2), torch.tensor(0.5)
    together = Known(model, known, keep, 3, torch.arange(4))(x, s)
    alone = Known(model, known[2:], keep[2:], 3, torch.tensor([2, 3]))(x[2:], s)
    torch.testing.assert_close(together[2:], alone, atol=0, rtol=0)
