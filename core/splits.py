"""Fixed splits of a data set: stratified by label, and in an order whose every prefix is stratified too."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from core.errors import UserError

SPLITS = ("train", "val", "test")
SPLIT_SEED = 0  # one split for ever: a figure is comparable only with figures on the same held-out data


def check_shares(val: float, test: float) -> None:
    """UserError unless each of the three splits has a share of the data."""
    if not (val > 0 and test > 0 and val + test < 1):
        raise UserError(f"data.val={val} and data.test={test}: must be shares above 0 whose sum is below 1")


def stratified_split(
    labels: Int64[np.ndarray, " n"], fractions: Mapping[str, float], seed: int = SPLIT_SEED
) -> dict[str, Int64[np.ndarray, " m"]]:
    """Disjoint rows for `train` and for each name in `fractions`, shuffled within classes by `seed`.

    A split of fraction f gets round(f n) rows, by systematic sampling along the sorted labels: each class gives its
    share to within one sample. The rows of each split are in an order whose every prefix is stratified too.
    """
    rng = np.random.default_rng(seed)
    rest = np.lexsort((rng.random(len(labels)), labels))
    rows = {}
    for name, fraction in fractions.items():
        count = round(fraction * len(labels))
        picked = ((np.arange(count) + 0.5) * len(rest) / max(count, 1)).astype(np.int64)
        rows[name], rest = rest[picked], np.delete(rest, picked)
    rows["train"] = rest
    return {name: r[interleaved(labels[r], rng)] for name, r in rows.items()}


def interleaved(labels: Int64[np.ndarray, " n"], rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """An order of all rows in which every prefix has nearly the class shares of the whole."""
    shuffled = np.lexsort((rng.random(len(labels)), labels))
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(labels)) - starts[labels[shuffled]]  # within its class
    return shuffled[np.lexsort((labels[shuffled], (rank + 0.5) / counts[labels[shuffled]]))]
