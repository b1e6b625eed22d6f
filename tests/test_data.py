"""The order of the data: a function of (seed, step, position), each epoch each sample once."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from core.cache import cache_dir
from core.data import ArraySource, SizedOrder, StepOrder, train_loader, training_order, val_loader, whole
from core.errors import UserError


def steps(count: int, **options: int) -> list[list[int]]:
    settings = {"size": 20, "batch_size": 3, "seed": 4, **options}
    return list(islice(StepOrder(**settings), count))


def test_each_epoch_visits_each_sample_once():
    flat = [i for step in steps(40) for i in step]
    for epoch in range(6):
        assert sorted(flat[20 * epoch : 20 * epoch + 20]) == list(range(20))
    assert flat[:20] != flat[20:40]


def test_a_batch_may_be_larger_than_the_data():
    (batch,) = steps(1, batch_size=50)
    assert sorted(batch[:20]) == sorted(batch[20:40]) == list(range(20))


@pytest.mark.parametrize("first", [1, 5, 6, 7, 30])
def test_resumes_at_any_step(first: int):
    assert steps(10, first_step=first) == steps(first + 10)[first:]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_partition_the_global_batch(world: int):
    alone = steps(30, batch_size=3 * world)
    ranks = [steps(30, rank=rank, world=world) for rank in range(world)]
    for k, batch in enumerate(alone):
        for rank in range(world):
            assert ranks[rank][k] == batch[rank::world]


def test_accumulation_cuts_the_same_order():
    twice = steps(20)
    assert steps(10, batch_size=6) == [a + b for a, b in zip(twice[::2], twice[1::2], strict=True)]


def test_the_seed_decides():
    assert steps(5) == steps(5)
    assert steps(5) != steps(5, seed=5)


SIZES = np.random.default_rng(0).integers(3, 30, 103)


def sized(count: int, **options: int) -> list[list[int]]:
    settings = {"batch_size": 4, "seed": 4, **options}
    return list(islice(SizedOrder(SIZES, **settings), count))


def test_batches_of_one_size_are_neighbours_in_size_in_a_random_order():
    epoch = sized(25)
    flat = [i for step in epoch for i in step]
    assert len(set(flat)) == 100, "each sample at most once, and only what fills no batch is left out"
    for step in epoch:
        low, high = SIZES[step].min(), SIZES[step].max()
        between = np.count_nonzero((low < SIZES) & (high > SIZES))
        assert between <= 4 + 3, "besides the batch's own, only samples that are left out may lie between"
    firsts = [SIZES[step].min() for step in epoch]
    assert firsts != sorted(firsts)
    assert epoch != sized(50)[25:], "each epoch has its own batches"


def test_what_is_left_out_differs_from_epoch_to_epoch():
    seen = [frozenset(i for step in sized(25 * (e + 1))[25 * e :] for i in step) for e in range(8)]
    assert len(set(seen)) > 1
    assert len(frozenset.union(*seen)) == len(SIZES)


@pytest.mark.parametrize("first", [1, 24, 25, 60])
def test_batches_of_one_size_resume_at_any_step(first: int):
    assert sized(10, first_step=first) == sized(first + 10)[first:]


def test_ranks_share_batches_of_one_size():
    alone = sized(30, batch_size=8)
    ranks = [sized(30, rank=rank, world=2) for rank in range(2)]
    for k, batch in enumerate(alone):
        assert [batch[0::2], batch[1::2]] == [ranks[0][k], ranks[1][k]]


def test_too_few_for_one_batch_of_one_size():
    with pytest.raises(ValueError, match="only 103 samples"):
        SizedOrder(SIZES, 104, 0)


def test_a_source_with_sizes_is_ordered_by_them_where_it_fills_a_batch():
    source = ArraySource(np.zeros((103, 1), dtype=np.float32))
    assert type(training_order(source, 4, 0)) is StepOrder
    source.sizes = SIZES
    assert type(training_order(source, 4, 0)) is SizedOrder
    assert type(training_order(source, 4, 0, world=26)) is StepOrder
    assert list(islice(training_order(source, 4, 4), 9)) == sized(9)


def test_no_data():
    with pytest.raises(UserError, match="empty"):
        StepOrder(0, 1, 0)


@pytest.fixture
def source() -> ArraySource:
    return ArraySource(np.arange(20, dtype=np.float32)[:, None], {"label": np.arange(20) % 3})


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_gives_the_batches_of_the_order(source: ArraySource, workers: int):
    loader = iter(train_loader(source, StepOrder(20, 3, 4), workers, pin_memory=False))
    for indices, batch in zip(steps(3), islice(loader, 3), strict=True):
        assert batch.x[:, 0].tolist() == indices
        assert batch.cond["label"].tolist() == [i % 3 for i in indices]


def test_validation_visits_the_first_samples_once(source: ArraySource):
    for world, count in ((1, 11), (2, 10), (4, 8)):  # the same number on each rank
        ranks = [list(val_loader(source, 2, 11, rank, world)) for rank in range(world)]
        assert sorted(i for batches in ranks for b in batches for i in b.x[:, 0].tolist()) == list(range(count))
        assert all([len(b) for b in batches] == [len(b) for b in ranks[0]] for batches in ranks)
    with pytest.raises(UserError, match="3 held-out samples"):
        val_loader(source, 2, 3, 0, 4)


def test_a_source_of_some_rows_with_a_mask():
    x, mask = np.random.default_rng(0).normal(size=(6, 4, 2)).astype(np.float32), np.ones((6, 4, 1), dtype=np.uint8)
    source = ArraySource(x, {"label": np.arange(6)}, mask, rows=np.array([5, 1, 3]))
    batch = source.batch([2, 0])
    assert len(source) == 3
    assert batch.cond["label"].tolist() == [3, 5]
    assert torch.equal(batch.x, torch.from_numpy(x[[3, 5]]))
    assert batch.mask.dtype == torch.float32
    assert len(whole(source)) == 3
    assert len(whole(source, 2)) == 2


def test_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(tmp_path))
    assert cache_dir("numbers") == tmp_path / "numbers"
    assert (tmp_path / "numbers").is_dir()
