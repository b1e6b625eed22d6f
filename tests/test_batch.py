"""Laws of the batch: one first axis, rows and concatenation undo each other, a mask's shape says whether it masks."""

from __future__ import annotations

import pytest
import torch

from core.batch import Batch, concatenate, expand, is_full


def labelled(size: int) -> Batch:
    return Batch.full(torch.arange(6.0 * size).reshape(size, 2, 3), {"label": torch.arange(size)})


def equal(a: Batch, b: Batch) -> bool:
    same = torch.equal(a.x, b.x) and torch.equal(a.mask, b.mask) and a.cond.keys() == b.cond.keys()
    return same and all(torch.equal(a.cond[name], b.cond[name]) for name in a.cond)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_full_masks_nothing(dtype):
    batch = Batch.full(torch.ones(4, 3, 5, 5, dtype=dtype))
    assert batch.mask.shape == (4, 1, 1, 1)
    assert bool((batch.mask == 1).all())
    assert is_full(batch.mask)
    assert batch.mask.dtype == (torch.float32 if dtype == torch.uint8 else dtype)


def test_a_mask_with_one_entry_an_element_may_mask():
    assert not is_full(torch.ones(4, 1, 5, 5))
    assert is_full(torch.ones(4))


def test_rows_then_concatenate_is_the_batch():
    batch = labelled(5)
    assert equal(concatenate([batch[:2], batch[2:]]), batch)
    assert equal(concatenate([batch[torch.tensor([i])] for i in range(5)]), batch)
    assert not equal(concatenate([batch[2:], batch[:2]]), batch)


def test_rows_select_the_conditions_too():
    assert labelled(5)[torch.tensor([3, 1])].cond["label"].tolist() == [3, 1]
    assert len(labelled(5)[1:3]) == 2


@pytest.mark.parametrize("wrong", ["mask", "label"])
def test_another_number_of_samples_is_refused_by_name(wrong):
    mask, label = torch.ones(2 if wrong == "mask" else 3, 1), torch.zeros(2 if wrong == "label" else 3)
    with pytest.raises(ValueError, match=f"{wrong} has .2,. samples, but x has 3"):
        Batch(torch.zeros(3, 4), mask, {"label": label})


def test_with_x_keeps_the_rest():
    batch = labelled(3)
    other = batch.with_x(batch.x + 1)
    assert torch.equal(other.x, batch.x + 1)
    assert other.mask is batch.mask
    assert other.cond is batch.cond


def test_to_moves_everything():
    moved = labelled(3).to("meta")
    assert {moved.x.device.type, moved.mask.device.type, moved.cond["label"].device.type} == {"meta"}


def test_expand_broadcasts_over_samples_in_the_dtype_of_x():
    x = torch.zeros(3, 2, 4)
    expanded = expand(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), x)
    assert expanded.shape == (3, 1, 1)
    assert expanded.dtype == x.dtype
    assert torch.equal((x + expanded)[:, 0, 0], torch.tensor([1.0, 2.0, 3.0]))
    assert expand(torch.tensor(2.0), x).shape == ()
