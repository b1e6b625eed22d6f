"""Laws of the splits: disjoint, complete, stratified in every prefix, and with something in each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.errors import UserError
from core.splits import SPLITS, check_shares, stratified_split


@pytest.mark.parametrize("counts", [[50] * 10, [3, 200, 41, 7], [97]])
def test_splits_are_disjoint_complete_and_stratified(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = stratified_split(labels, {"val": 0.1, "test": 0.2})
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(labels)))
    for split, share in {"val": 0.1, "test": 0.2, "train": 0.7}.items():
        of_class = np.bincount(labels[rows[split]], minlength=len(counts))
        assert np.abs(of_class - share * np.array(counts)).max() <= 1
    again = stratified_split(labels, {"val": 0.1, "test": 0.2})
    assert all((rows[split] == again[split]).all() for split in SPLITS)
    assert not np.array_equal(stratified_split(labels, {"val": 0.1}, seed=1)["val"], rows["val"])


def test_every_prefix_of_a_split_is_stratified() -> None:
    counts = np.array([30, 60, 10])
    labels = np.repeat(np.arange(3), counts)
    order = labels[stratified_split(labels, {})["train"]]
    for n in range(1, 101):
        assert np.abs(np.bincount(order[:n], minlength=3) - n * counts / 100).max() <= 1.5


def test_every_split_must_have_a_share() -> None:
    check_shares(0.05, 0.1)
    for val, test in ((0, 0.1), (0.1, 0), (-0.1, 0.5), (0.5, 0.5), (0.9, 0.2), (math.nan, 0.1), (0.1, math.inf)):
        with pytest.raises(UserError, match=f"^data.val={val} and data.test={test}: must be shares above 0 "):
            check_shares(val, test)
