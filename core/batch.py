"""The one form in which every modality meets the diffusion mathematics: a dense tensor and its mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

NO_CONDITIONS = frozenset({"drop", "keep"})  # reserved names in `Batch.cond`


@dataclass(frozen=True)
class Batch:
    """Samples of one shape.

    x:    (B, *S), the data, or its diffusion coordinates after `Codec.encode`.
    mask: broadcastable to x, first axis B; 1 where an element is real, 0 where it is padding. Never None:
          `Batch.full(x)` makes the mask of data without padding, (B, 1, ..., 1).
    cond: conditions by name, each with first axis B. The reserved name `drop` (B,) bool marks the samples whose
          conditions a network must replace by its learned null embedding; a condition that is absent is null for all.
          `keep` (broadcastable to x) marks what of x is known: in a template sampling keeps it, in a training batch it
          stays without noise. Only networks that are trained so see it.
    """

    x: Float[Tensor, "batch *shape"]
    mask: Float[Tensor, "batch *maskshape"]
    cond: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {"mask": self.mask, **self.cond}.items():
            if value.shape[:1] != self.x.shape[:1]:
                raise ValueError(f"{name} has {tuple(value.shape)[:1]} samples, but x has {self.x.shape[0]}")
        if self.mask.ndim != self.x.ndim or any(
            m not in (1, n) for m, n in zip(self.mask.shape, self.x.shape, strict=True)
        ):
            raise ValueError(
                f"mask has the shape {tuple(self.mask.shape)}, which does not broadcast to x, {tuple(self.x.shape)}"
            )

    @classmethod
    def full(cls, x: Tensor, cond: Mapping[str, Tensor] | None = None) -> Batch:
        """A batch in which every element is real: its mask has shape (B, 1, ..., 1)."""
        return cls(x, x.new_ones((x.shape[0],) + (1,) * (x.ndim - 1), dtype=float_dtype(x)), cond or {})

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        """The samples that `rows` selects."""
        return Batch(self.x[rows], self.mask[rows], {name: value[rows] for name, value in self.cond.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        def move(value: Tensor) -> Tensor:
            return value.to(device, non_blocking=non_blocking)

        return Batch(move(self.x), move(self.mask), {name: move(value) for name, value in self.cond.items()})

    def pin_memory(self) -> Batch:
        return Batch(
            self.x.pin_memory(), self.mask.pin_memory(), {name: value.pin_memory() for name, value in self.cond.items()}
        )

    def with_x(self, x: Tensor) -> Batch:
        """The same mask and conditions around other values."""
        return replace(self, x=x)


def check_real(mask: Tensor) -> None:
    """ValueError for a sample without a real element. Looks at the values: on a GPU it waits for them."""
    empty = (mask == 0).flatten(1).all(1)
    if bool(empty.any()):
        raise ValueError(f"mask has no real element in the samples {empty.nonzero().flatten().tolist()[:8]}")


def concatenate(batches: list[Batch]) -> Batch:
    """One batch of all the samples, in order; every batch must have the same conditions."""
    return Batch(
        torch.cat([b.x for b in batches]),
        torch.cat([b.mask for b in batches]),
        {name: torch.cat([b.cond[name] for b in batches]) for name in batches[0].cond},
    )


def padded(x: Tensor, like: Tensor) -> Tensor:
    """x with zeros at the end of each axis, up to the shape of `like`."""
    if x.shape == like.shape:
        return x
    out = x.new_zeros(like.shape)
    out[tuple(slice(0, size) for size in x.shape)] = x
    return out


def float_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the mask of x: that of x if it is floating, float32 for integer data."""
    return x.dtype if x.is_floating_point() else torch.float32


def is_full(mask: Tensor) -> bool:
    """Whether the mask can mask nothing inside a sample. Decided by its shape: no device synchronisation."""
    return mask.numel() == mask.shape[0]


def expand(per_sample: Tensor, x: Tensor) -> Tensor:
    """(B,) -> broadcastable against x (B, *S), in the dtype of x; one number for all stays as it is, float64 too."""
    if per_sample.ndim == 0:
        return per_sample
    return per_sample.to(x.dtype).reshape(len(per_sample), *(1,) * (x.ndim - 1))
