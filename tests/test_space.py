"""Laws of the spaces: P is an orthogonal projector of rank tr P, and a restriction is one inside it."""

from __future__ import annotations

import pytest
import torch
from conftest import SPACES, each, random_mask, subclasses
from torch import Tensor

from core.batch import Batch
from core.denoiser import Denoiser
from core.prediction import Velocity
from core.random import keys, normal
from core.samplers import DDPM, AdamsBashforth, DPMSolverPP, Heun, UniPC, sample
from core.schedules import Cosine
from core.space import Beside, Euclidean, Space, ZeroCentreOfMass
from core.times import Uniform

POINTS, COLUMNS = 5, 4
MASKS = {
    "full": torch.ones(1, 1, 1, dtype=torch.float64),
    "all_ones": random_mask([5], POINTS),
    "padded": random_mask([3], POINTS),
    "one_point": random_mask([1], POINTS),
    "with_holes": torch.tensor([1.0, 0, 1, 1, 0], dtype=torch.float64)[None, :, None],
    "per_element": random_mask([4], POINTS).repeat(1, 1, COLUMNS) * torch.tensor([1.0, 1, 1, 0]),
}
# what to keep: the whole, some of the points, or none of them
KEEPS = {"some": [1.0, 0, 1, 0, 0], "one": [1.0, 0, 0, 0, 0], "all": [1.0] * 5, "none": [0.0] * 5}

each_space, each_mask = each(SPACES, "space"), each(MASKS, "mask")


def matrix(project, mask: Tensor) -> Tensor:
    """The projector as a matrix: its values on the unit vectors."""
    size = POINTS * COLUMNS
    unit = torch.eye(size, dtype=torch.float64).reshape(size, POINTS, COLUMNS)
    return project(unit, mask.expand(size, *mask.shape[1:])).reshape(size, size).T


def test_every_space_is_tested():
    """`Beside` is one of another space, and has a law of its own below."""
    assert {type(s) for s in SPACES.values()} | {Beside} == subclasses(Space)


@each_mask
@each_space
def test_p_is_an_orthogonal_projector_of_rank_dim(space, mask):
    P = matrix(space.project, mask)
    torch.testing.assert_close(P @ P, P)
    torch.testing.assert_close(P, P.T)
    dim = space.dim(torch.zeros(1, POINTS, COLUMNS, dtype=torch.float64), mask)
    assert float(dim) == pytest.approx(float(P.trace()), abs=1e-12)


@pytest.mark.parametrize("keep", KEEPS.values(), ids=KEEPS.keys())
@each_mask
@each_space
def test_restrict_is_a_projector_inside_the_space(space, mask, keep):
    keep = torch.tensor(keep, dtype=torch.float64)[None, :, None]
    P, K = matrix(space.project, mask), matrix(space.restrict(keep).project, mask)
    torch.testing.assert_close(K @ P, K)
    torch.testing.assert_close(P @ K, K)
    torch.testing.assert_close(K @ K, K)
    torch.testing.assert_close(K, K.T)


@pytest.mark.parametrize("keep", KEEPS.values(), ids=KEEPS.keys())
@each_mask
@each_space
def test_beside_what_is_kept_is_the_rest_of_the_space(space, mask, keep):
    """P - K: an orthogonal projector of rank dim, in which nothing that is kept moves against itself."""
    keep = torch.tensor(keep, dtype=torch.float64)[None, :, None]
    free = space.beside(keep)
    P, K, Q = (matrix(one.project, mask) for one in (space, space.restrict(keep), free))
    torch.testing.assert_close(Q, P - K)
    torch.testing.assert_close(Q @ Q, Q)
    torch.testing.assert_close(K @ Q, torch.zeros_like(Q))
    dim = free.dim(torch.zeros(1, POINTS, COLUMNS, dtype=torch.float64), mask)
    assert float(dim) == pytest.approx(float(Q.trace()), abs=1e-12)
    assert space.beside(None) is space


@each_mask
@each_space
def test_noise_has_the_covariance_p(space, mask):
    count = 40000
    x = torch.zeros(count, POINTS, COLUMNS, dtype=torch.float64)
    noise = space.randn_like(x, mask.expand(count, *mask.shape[1:]), normal(keys(0, torch.arange(count)), x.shape[1:]))
    flat = noise.flatten(1)
    error = (flat.T @ flat / count - matrix(space.project, mask)).abs().max()
    assert error < 5 * (2 / count) ** 0.5  # a variance of 1 is known to sqrt(2 / count)


@each_space
def test_dim_is_that_of_each_sample(space):
    x, mask = torch.zeros(3, POINTS, COLUMNS), random_mask([1, 3, 5], POINTS, torch.float32)
    alone = [float(space.dim(x[i : i + 1], mask[i : i + 1])) for i in range(3)]
    assert space.dim(x, mask).tolist() == alone
    assert alone[0] < alone[1] < alone[2]


def test_degrees_of_freedom_of_molecules():
    """(n - 1) * 3 + n * F."""
    dim = ZeroCentreOfMass(3).dim(torch.zeros(2, 9, 8), random_mask([4, 9], 9, torch.float32))
    assert dim.tolist() == [3 * 3 + 4 * 5, 8 * 3 + 9 * 5]


def test_pixels_of_padded_images():
    mask = torch.zeros(1, 1, 6, 6)
    mask[..., :4, :5] = 1
    assert Euclidean().dim(torch.zeros(1, 3, 6, 6), mask).tolist() == [60]


@pytest.mark.parametrize("sampler", [DDPM(), Heun(), DPMSolverPP(sde=1), UniPC(), AdamsBashforth()])
def test_centre_of_mass_stays_zero_through_a_thousand_steps(sampler):
    space, mask = ZeroCentreOfMass(3), random_mask([3, 8], 8, torch.float32)

    class Drifting(torch.nn.Module):
        """Pulls away from the centre; only the projection holds it there."""

        def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
            return torch.tanh(x + 1)

    denoiser = Denoiser(Drifting(), Cosine(), Velocity(), space)
    worst = []

    def watch(step: int, s: Tensor, x: Tensor) -> None:
        worst.append(float((x[..., :3].sum(1) / mask.sum(1)).abs().max() / x.abs().amax().clamp(min=1)))
        assert float((x * (1 - mask)).abs().max()) == 0

    sample(denoiser, sampler, Batch(torch.zeros(2, 8, 5), mask), Uniform(1000)(Cosine()), callback=watch)
    assert len(worst) == 1001  # the noise, and the state after each step
    assert max(worst) < 1e-5
