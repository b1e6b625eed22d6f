"""Laws of the random numbers: functions of their keys alone, with the distributions that they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from core.random import Stream, keys, normal, permutation, uniform

B, N = 200, 1000  # keys, numbers of each
SEED = 12345


def draws(function, dtype=torch.float64, seed: int = SEED, stream: Stream = Stream.STEP, step: int = 0) -> np.ndarray:
    return function(keys(seed, stream, torch.arange(B), step), (N,), dtype).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("function", "cdf"), [(uniform, stats.uniform.cdf), (normal, stats.norm.cdf)])
def test_distribution(function, cdf, dtype):
    """Within a key, across keys, and altogether: Kolmogorov and Smirnov find nothing."""
    x = draws(function, dtype).astype(np.float64)
    assert stats.kstest(x.ravel(), cdf).pvalue > 1e-3
    assert stats.kstest(x[0], cdf).pvalue > 1e-3
    assert stats.kstest(x[:, 0], cdf).pvalue > 1e-3
    # the p-values of many small samples are themselves uniform
    assert stats.kstest([stats.kstest(row, cdf).pvalue for row in x], stats.uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_of_the_normal(dtype):
    x, count = draws(normal, dtype).astype(np.float64).ravel(), B * N
    moments = [x.mean(), (x**2).mean(), (x**3).mean(), (x**4).mean()]
    errors = np.sqrt(np.array([1, 2, 15, 96]) / count)  # standard deviations of x^k
    assert bool((np.abs(moments - np.array([0, 1, 0, 3])) < 4 * errors).all())
    assert 4 < np.abs(x).max() < 6.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_is_in_the_open_interval(dtype):
    x = uniform(keys(0, torch.arange(100)), (20000,), dtype)
    assert 0 < float(x.min()) < 1e-4
    assert 1 - 1e-4 < float(x.max()) < 1


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) * np.sqrt(x.size)  # in standard errors


@pytest.mark.parametrize(
    "other",
    [{"seed": SEED + 1}, {"seed": -1}, {"stream": Stream.PRIOR}, {"step": 1}],
    ids=["seed", "negative_seed", "stream", "step"],
)
@pytest.mark.parametrize("function", [uniform, normal])
def test_other_words_give_unrelated_numbers(function, other):
    x, y = draws(function), draws(function, **other)
    assert correlation(x, y) < 4
    assert correlation(x**2, y**2) < 4
    assert not bool((x == y).any())
    # nor are they the same numbers elsewhere: seed + 1 is not the next sample, step + 1 not the next element
    assert len(np.intersect1d(x, y)) == 0


@pytest.mark.parametrize("function", [uniform, normal])
def test_samples_and_elements_are_unrelated(function):
    x = draws(function)
    for a, b in ((x[1:], x[:-1]), (x[:, 1:], x[:, :-1]), (x[:, N // 2 :], x[:, : N // 2])):
        assert correlation(a, b) < 4
        assert correlation(a**2, b**2) < 4
    assert len(np.unique(x)) > 0.9999 * x.size


def test_each_word_and_its_place_matters():
    words = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1), (2, 0, 0)]
    assert len({int(keys(*w)) for w in words}) == len(words)
    assert int(keys(1, 2)) != int(keys(2, 1))


def test_words_broadcast():
    table = keys(7, torch.arange(3)[:, None], torch.arange(4))
    assert table.shape == (3, 4)
    assert int(table[2, 1]) == int(keys(7, 2, 1))


@pytest.mark.parametrize("function", [uniform, normal])
def test_dtypes_agree(function):
    np.testing.assert_allclose(draws(function, torch.float32), draws(function, torch.float64), atol=2e-5, rtol=0)


@pytest.mark.parametrize("function", [uniform, normal])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_the_rounded_numbers(function, dtype):
    key = keys(SEED, torch.arange(3))
    assert torch.equal(function(key, (1000,), dtype), function(key, (1000,)).to(dtype))


@pytest.mark.parametrize("function", [uniform, normal])
def test_a_key_gives_the_same_numbers_in_any_company(function):
    key = keys(SEED, torch.arange(10))
    together = function(key, (3, 5), torch.float64)
    for i in range(10):
        assert torch.equal(function(key[i : i + 1], (3, 5), torch.float64)[0], together[i])


def test_shapes():
    key = keys(0, torch.arange(4))
    assert uniform(key).shape == (4,)
    assert normal(key, (3,)).shape == (4, 3)
    assert normal(key, (2, 3, 5)).shape == (4, 2, 3, 5)


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_permutation_is_one(size):
    assert sorted(permutation(0, 0, size).tolist()) == list(range(size))


def test_permutations_differ_by_epoch_and_seed():
    orders = [permutation(seed, epoch, 1000).numpy() for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for i, a in enumerate(orders):
        assert correlation(a, np.arange(1000)) < 4
        assert all(correlation(a, b) < 4 for b in orders[:i])
    assert np.array_equal(orders[1], permutation(0, 1, 1000).numpy())


def test_permutation_places_every_item_everywhere():
    """Chi-square of the place of item 0 over many epochs."""
    places = [int((permutation(0, epoch, 10) == 0).nonzero()) for epoch in range(2000)]
    assert stats.chisquare(np.bincount(places, minlength=10)).pvalue > 1e-3


def test_an_element_does_not_depend_on_how_many_there_are():
    key = keys(0, torch.arange(5))
    for draw in (normal, uniform):
        assert torch.equal(draw(key, (6,)), draw(key, (9,))[:, :6])
        assert torch.equal(draw(key, (3, 7)), draw(key, (8, 7))[:, :3])  # padding along the first axis
