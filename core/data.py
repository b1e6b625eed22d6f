"""Data in the form that training reads: sources that are indexed by whole batches, in an order that is a function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from core import random
from core.batch import Batch
from core.errors import UserError

PROBED = 64  # samples of a split that tell how large all are


class Source(Protocol):
    """One split of a data set.

    Where samples differ in size, it may also have `sizes`, an integer array (N,): each training batch is then of
    samples that are about equally large (see `SizedOrder`).
    """

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """The samples at these places, in data units, on the CPU."""
        ...


class Data(Protocol):
    """A data set with its fixed splits. Constructing it loads, or fills and then loads, its cache.

    facts: what the data settles for other parts: they fill the `???` of the network's and codec's configs by name.
    classes: the labels' names, [] where there are none.
    """

    name: str
    train: Source
    val: Source
    test: Source
    facts: dict[str, object]
    classes: list[str]

    def describe(self) -> str:
        """One line for the start-up summary."""
        ...

    def augment(self, batch: Batch, u: Tensor) -> Batch:
        """A random variation of training data (after loading, before encoding); u: (B, 8) uniform numbers."""
        ...


class Rows(Protocol):
    """What of an array a source needs: `core.shards.Shards`, whose files may be larger than the memory, has it too."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class ArraySource:
    """A split held in arrays or `Shards`: x (N, *S), conditions (N, ...), optionally a mask (N, *M).

    rows: the places of this split in the arrays; all of them, in their order, unless given.
    """

    def __init__(
        self,
        x: Rows,
        cond: Mapping[str, Rows] | None = None,
        mask: Rows | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self.x, self.cond, self.mask = x, dict(cond or {}), mask
        self.rows = None if rows is None else np.asarray(rows)

    def __len__(self) -> int:
        return len(self.x) if self.rows is None else len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(indices, dtype=np.int64)
        rows = rows if self.rows is None else self.rows[rows]
        x = torch.from_numpy(np.ascontiguousarray(self.x[rows]))
        cond = {name: torch.from_numpy(np.ascontiguousarray(value[rows])) for name, value in self.cond.items()}
        if self.mask is None:
            return Batch.full(x, cond)
        return Batch(x, torch.from_numpy(np.ascontiguousarray(self.mask[rows])).float(), cond)


def sizes_of(source: Source) -> np.ndarray | None:
    """(N,), where samples differ in size, so that batches hold neighbours in it; None where they do not."""
    return getattr(source, "sizes", None)


def whole(source: Source, limit: int | None = None) -> Batch:
    """A split (or its first `limit` samples) as one batch."""
    return source.batch(range(len(source) if limit is None else min(limit, len(source))))


def spread(source: Source, limit: int) -> Batch:
    """A split as one batch or, if its x would take more than about `limit` bytes, evenly spaced samples that do not.

    Counted as float32, to which figures convert it.
    """
    size = len(source)
    looked_at = np.unique(np.linspace(0, size - 1, min(size, PROBED)).astype(np.int64)).tolist()
    if (sizes := sizes_of(source)) is not None:
        looked_at.append(int(np.argmax(sizes)))  # to which the whole batch would be padded
    some = source.batch(looked_at).x
    count = max(1, limit * len(looked_at) // (4 * some.numel()))
    return whole(source) if count >= size else source.batch((np.arange(count) * size // count).tolist())


class StepOrder(Sampler[list[int]]):
    """The places of each step's batch, for one rank: a function of (seed, step, position in the global batch).

    The positions of all steps run through one permutation of the data after another, one an epoch; rank r takes
    positions r, r + world, ... of each global batch. So a resumed run and another number of ranks see the same order.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, first_step: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if size < 1:
            raise UserError("the training split is empty")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.first_step, self.rank, self.world = first_step, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        step, epoch, order = self.first_step, -1, torch.empty(0)
        while True:
            indices = []
            for position in global_positions(self.batch_size, self.rank, self.world).tolist():
                place = step * self.batch_size * self.world + position
                if place // self.size != epoch:
                    epoch = place // self.size
                    order = random.permutation(self.seed, epoch, self.size)
                indices.append(int(order[place % self.size]))
            yield indices
            step += 1


class SizedOrder(StepOrder):
    """As `StepOrder`, for samples of different sizes: each global batch holds neighbours in size, so little is padding.

    In each epoch the shuffled samples are sorted by size and cut into batches, which are visited in a random order.
    The samples that fill no batch, of a random size, are left out of that epoch.
    """

    def __init__(self, sizes: np.ndarray, *args: int, **kwargs: int) -> None:
        super().__init__(len(sizes), *args, **kwargs)
        self.sizes = torch.as_tensor(np.ascontiguousarray(sizes))
        if self.size < self.batch_size * self.world:
            raise ValueError(
                f"batches of {self.batch_size * self.world} samples of about one size, and only {self.size} samples"
            )

    def __iter__(self) -> Iterator[list[int]]:
        step, epoch, total = self.first_step, -1, self.batch_size * self.world
        batches = self.size // total
        order = torch.empty(0, 0)
        positions = global_positions(self.batch_size, self.rank, self.world)
        while True:
            if step // batches != epoch:
                epoch = step // batches
                order = self._epoch(epoch, batches, total)
            yield order[step % batches][positions].tolist()
            step += 1

    def _epoch(self, epoch: int, batches: int, total: int) -> Tensor:
        """(batches, total): the places in the data of each global batch."""
        shuffled = random.permutation(self.seed, epoch, self.size)
        by_size = shuffled[torch.argsort(self.sizes[shuffled], stable=True)]
        left_out = self.size - batches * total
        begin = int(shuffled[0]) * (left_out + 1) // self.size
        kept = torch.cat([by_size[:begin], by_size[begin + left_out :]])
        return kept.reshape(batches, total)[torch.argsort(shuffled[:batches])]


def training_order(
    source: Source, batch_size: int, seed: int, first_step: int = 0, rank: int = 0, world: int = 1
) -> StepOrder:
    """The order in which training visits the source: by size, where samples differ in it and fill a batch."""
    sizes = sizes_of(source)
    if sizes is None or len(sizes) < batch_size * world:
        return StepOrder(len(source), batch_size, seed, first_step, rank, world)
    return SizedOrder(sizes, batch_size, seed, first_step, rank, world)


def global_positions(batch_size: int, rank: int, world: int) -> Tensor:
    """Where a rank's samples stand in the global batch of `batch_size * world`."""
    return torch.arange(batch_size) * world + rank


class _Indexed(Dataset[Batch]):
    """A source as a data set that is asked for whole batches at once."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.source.batch(indices)

    def __getitem__(self, index: int) -> Batch:
        return self.source.batch([index])


def _as_it_is(batch: Any) -> Any:
    return batch  # the source has collated it


def train_loader(source: Source, order: StepOrder, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    """An endless loader in the given order."""
    return DataLoader(
        _Indexed(source),
        batch_sampler=order,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )


def val_loader(source: Source, batch_size: int, limit: int, rank: int = 0, world: int = 1) -> DataLoader[Batch]:
    """The first `limit` held-out samples, once; rank r takes places r, r + world, ...

    All ranks take equally many (up to world - 1 samples are left out), because they meet in every batch. UserError if
    there is not one for each.
    """
    count = min(limit, len(source)) // world * world
    if count == 0:
        raise UserError(f"{min(limit, len(source))} held-out samples (training.validate_on) for {world} processes")
    places = list(range(count))[rank::world]
    batches = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
    return DataLoader(_Indexed(source), batch_sampler=batches, collate_fn=_as_it_is)
