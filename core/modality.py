"""What a modality package hands to the core, besides its network, codec, space and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.editable import Editable
from core.errors import UserError
from core.metrics import Headline

GRID = "grid.png"
GRID_SAMPLES = 100


class Instrument:
    """What figures are measured with, such as a feature extractor: those of two instruments cannot be compared."""

    name: str


class Modality(Editable):
    """How samples of a kind are asked for, written, read, drawn and measured.

    A package subclasses it and overrides what its kind needs; the defaults serve plain tensors of one shape with
    categorical conditions. All batches here are decoded: data units, not diffusion coordinates.

    shape: of one sample in data units, without the batch axis.
    classes: names of the values of the condition `label`; [] if the data has no labels.
    conditions: names of the values of every categorical condition; `label` alone unless a subclass sets more.
    """

    name = "tensor"
    about: Mapping[str, float] = {}  # numbers that belong to all samples, such as their rate; kept in samples.npz

    def __init__(self, shape: Sequence[int], classes: Sequence[str] = ()) -> None:
        self.shape, self.classes = tuple(shape), list(classes)
        self.conditions: dict[str, list[str]] = {"label": self.classes} if self.classes else {}

    def template(self, n: int, cond: Mapping[str, object] | None = None) -> Batch:
        """Shape, mask and conditions of n samples to draw, in data units; the values are zero.

        cond: by name, a value's name or number, or a list of n of them. Those that are not given take turns, so that
        all combinations of their values come up equally often.
        """
        cond = cond or {}
        if unknown := sorted(set(cond) - self.conditions.keys()):
            known = ", ".join(self.conditions) or "none, it knows no labels"
            raise UserError(f"unknown condition {unknown}; this model's conditions: {known}")
        return Batch.full(torch.zeros(n, *self.shape), self.categories(n, cond))

    def categories(self, n: int, cond: Mapping[str, object]) -> dict[str, Tensor]:
        """The categorical conditions of n samples, (n,) each: those in `cond`, and turns of the others."""
        chosen, turn = {}, torch.arange(n)
        for name, values in self.conditions.items():
            if cond.get(name) is None:
                chosen[name], turn = turn % len(values), turn // len(values)
            else:
                chosen[name] = torch.tensor([_place(name, value, values) for value in each(name, cond[name], n)])
        return chosen

    def holding(self, denoiser: Any, known: Batch, keep: Tensor) -> Any:
        """A denoiser around `denoiser` whose samples have what is known, for a kind that knows a better way than
        `core.editing.Kept`. known: a template in diffusion coordinates, whose values are known where `keep` is 1.
        """
        return None

    def log_prior(self, batch: Batch) -> Float[Tensor, " b"]:
        """log-probability of what a template fixes of each sample, such as its size: a part of its likelihood."""
        return torch.zeros(len(batch))

    def write(self, batch: Batch, folder: Path, first: int) -> None:
        """One file a sample, numbered from `first`."""
        raise NotImplementedError

    def read(self, folder: Path) -> Batch:
        """The files of a folder, as `write` makes them."""
        raise NotImplementedError

    def grid(self, batch: Batch, path: Path) -> None:
        """One picture of the samples."""
        raise NotImplementedError

    def present(self, batch: Batch, folder: Path, real: Batch | None) -> None:
        """Pictures of the samples in `folder`, beside their files; real: held-out data to draw beside them."""
        self.grid(batch[:GRID_SAMPLES], folder / GRID)

    def trajectory(self, moments: Sequence[Batch], folder: Path) -> None:
        """The way from noise to data: `moments` are the decoded states, in order. A film strip and an animation."""
        raise NotImplementedError

    @property
    def instrument(self) -> Instrument | None:
        """What `metrics` measures with: its name stands beside the figures. None where nothing needs a name."""
        return None

    def missing(self, n: int) -> str:
        """Which figures of n samples cannot be had here, and how to get them; "" for none. Asked before training."""
        return ""

    def metrics(
        self, samples: Batch, reference: Batch, training: Batch | None, floor: bool = False
    ) -> dict[str, float]:
        """Figures of the samples against held-out data; training: for nearest neighbours (memorisation).

        floor: whether the samples are other held-out data, which is no reconstruction of the reference.

        Those that `missing` names are left out.
        """
        raise NotImplementedError

    def headlines(self, samples: Batch, reference: Batch) -> dict[str, Headline]:
        """The few of these figures that say most, under the same names, as functions of the samples: their errors
        follow from them. {} unless a kind names some.
        """
        return {}


def each(name: str, wanted: object, n: int) -> list[object]:
    """One value for each of n samples, from a list of n or from one for all. UserError for a list of another length."""
    values = list(wanted) if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted] * n
    if len(values) != n:
        raise UserError(f"{name} has {len(values)} entries for n={n} samples")
    return values


def _place(condition: str, name: object, values: Sequence[str]) -> int:
    if str(name) in values:
        return values.index(str(name))
    by_place = not all(value.lstrip("-").isdigit() for value in values)  # else a number is a name, such as a note's
    if by_place and isinstance(name, int) and 0 <= name < len(values):
        return name
    places = f" (or 0 to {len(values) - 1})" if by_place else ""
    raise UserError(f"unknown {condition} {name!r}; allowed: {', '.join(values)}{places}")
