"""Laws of the codecs: data comes back, and the decoder's term is a distribution over the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import random_mask
from scipy import stats
from torch import Tensor

from core.batch import Batch
from core.codec import Affine, Codec, Identity, LossyCodecError

PIXELS = Affine(127.5, 127.5, 0.0, 255.0, 256)
GRIDS = {"pixels": PIXELS, "signs": Affine(0.0, 1.0, -1.0, 1.0, 2), "five": Affine(1.0, 3.0, 0.0, 8.0, 5)}


def levels(codec: Affine) -> Tensor:
    """All values of the data."""
    low, high = (z * codec.scale + codec.shift for z in codec.range)
    return torch.linspace(low, high, codec.levels, dtype=torch.float64)


def log_prob(codec: Affine, x: Tensor, mean: float, std: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """log p(x | z) of each single value."""
    encoded = codec.encode(Batch.full(x.to(dtype)[:, None]))
    columns = [torch.full((len(x), 1), value, dtype=dtype) for value in (mean, std**2)]
    return codec.log_prob(encoded, *columns, torch.ones(len(x), dtype=dtype))


def test_pixels_come_back_from_unit_range():
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    encoded = PIXELS.encode(Batch.full(x))
    assert encoded.x.dtype == torch.float32
    assert (float(encoded.x.min()), float(encoded.x.max())) == PIXELS.range == (-1, 1)
    assert torch.equal(PIXELS.decode(encoded).x.round().to(torch.uint8), x)


@pytest.mark.parametrize("codec", [Affine(2.0, 3.0), Affine(-1.0, 0.5, -4.0, 4.0), Identity(), *GRIDS.values()])
def test_round_trip_is_the_identity_on_data(codec):
    x = levels(codec) if codec.levels else torch.linspace(-4, 4, 9, dtype=torch.float64)
    batch = Batch.full(x[None], {"label": torch.tensor([3])})
    back = codec.decode(codec.encode(batch))
    torch.testing.assert_close(back.x, batch.x)
    assert back.cond == batch.cond


def test_decoding_stays_in_the_data_range():
    wild = Batch.full(torch.tensor([[-7.0, 0.0, 7.0]]))
    assert PIXELS.decode(wild).x.tolist() == [[0, 127.5, 255]]
    assert Identity().decode(wild).x.tolist() == wild.x.tolist()


def test_padding_is_zero_on_both_sides():
    mask = random_mask([2], 5)
    encoded = PIXELS.encode(Batch(torch.full((1, 5, 3), 200.0, dtype=torch.float64), mask))
    assert torch.equal(encoded.x, encoded.x * mask)
    assert float(encoded.x[0, 0, 0]) == pytest.approx(72.5 / 127.5)
    assert torch.equal(PIXELS.decode(encoded).x, 200.0 * mask.expand(1, 5, 3))


@pytest.mark.parametrize("std", [1e-3, 0.02, 0.5, 5.0])
@pytest.mark.parametrize("mean", [-1.3, -1.0, 0.0123, 0.7, 1.5])
@pytest.mark.parametrize("codec", GRIDS.values(), ids=GRIDS.keys())
def test_masses_of_all_levels_sum_to_one(codec, mean, std):
    assert float(log_prob(codec, levels(codec), mean, std).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_masses_are_differences_of_the_distribution_function():
    """Ho et al. 2020, eq. 13, where they are computed well enough to compare."""
    mean, std, half = 0.1, 0.05, 1 / 255
    near = slice(112, 170)  # within 5 standard deviations
    z = np.linspace(-1, 1, 256)[near]
    wanted = np.log(stats.norm.cdf(z + half, mean, std) - stats.norm.cdf(z - half, mean, std))
    np.testing.assert_allclose(log_prob(PIXELS, levels(PIXELS)[near], mean, std).numpy(), wanted, rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masses_far_in_the_tails_are_finite_and_symmetric(dtype):
    x = levels(PIXELS)
    left, right = log_prob(PIXELS, x, -1.0, 0.005, dtype), log_prob(PIXELS, x.flip(0), 1.0, 0.005, dtype)
    assert bool(torch.isfinite(left).all())
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)
    assert float(left[-1]) < -50000  # 400 standard deviations away: no clamp at the reference's 1e-12


@pytest.mark.parametrize("codec", [Identity(), Affine(2.0, 3.0)])
def test_the_density_integrates_to_one_in_data_units(codec):
    x = torch.linspace(-60, 60, 20001, dtype=torch.float64)
    density = log_prob(codec, x, 0.3, 0.7).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("codec", [Affine(2.0, 3.0), PIXELS], ids=["density", "levels"])
def test_padding_has_no_probability(codec):
    """Of real elements alone, each counted once."""
    x = torch.tensor([10.0, 100.0, 200.0], dtype=torch.float64)
    mean, var = 0.2, 0.3**2
    alone = log_prob(codec, x, mean, 0.3).sum()
    padded = torch.zeros(1, 8, 1, dtype=torch.float64)
    padded[0, :3, 0] = x
    encoded = codec.encode(Batch(padded, random_mask([3], 8)))
    means = mean * encoded.mask
    got = codec.log_prob(encoded, means, torch.full_like(means, var), torch.tensor([3.0], dtype=torch.float64))
    torch.testing.assert_close(got[0], alone)


def test_lossy_codecs_refuse():
    class Lossy(Codec):
        pass

    one = torch.zeros(1, 1)
    with pytest.raises(LossyCodecError, match="Lossy loses information"):
        Lossy().log_prob(Batch.full(one), one, one + 1, torch.ones(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.0}, "scale=0"),
        ({"scale": -1.0}, "scale=-1"),
        ({"levels": 256}, "levels=256"),
        ({"levels": 1, "low": 0.0, "high": 1.0}, "levels=1"),
    ],
)
def test_impossible_codecs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Affine(**arguments)


def test_probabilities_are_those_of_a_normal_density_at_its_mean():
    assert float(log_prob(Identity(), torch.zeros(1), 0.0, 1.0)) == pytest.approx(-0.5 * math.log(2 * math.pi))
