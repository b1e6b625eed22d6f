"""What a modality package hands to the core, besides its network, codec, space and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.batch import Batch
from core.errors import UserError


class Instrument:
    """What figures are measured with, such as a feature extractor: those of two instruments cannot be compared."""

    name: str


class Modality:
    """How samples of a kind are asked for, written, read, drawn and measured.

    A package subclasses it and overrides what its kind needs; the defaults serve plain tensors of one shape with
    integer labels. All batches here are decoded: data units, not diffusion coordinates.

    shape: of one sample in diffusion coordinates, without the batch axis.
    classes: names of the values of the condition `label`; [] if the data has no labels.
    """

    name = "tensor"

    def __init__(self, shape: Sequence[int], classes: Sequence[str] = ()) -> None:
        self.shape, self.classes = tuple(shape), list(classes)

    def template(self, n: int, cond: Mapping[str, object] | None = None) -> Batch:
        """Shape, mask and conditions of n samples to draw.

        cond: by name; `label` a class's name or number, or a list of n of them. Without one, the classes take turns.
        """
        unknown = set(cond or {}) - {"label"}
        if unknown or (cond and not self.classes):
            known = "label" if self.classes else "none, it knows no labels"
            raise UserError(f"unknown condition {sorted(unknown or cond or [])}; this model's conditions: {known}")
        conditions: dict[str, Tensor] = {}
        if self.classes:
            conditions["label"] = self._labels(n, (cond or {}).get("label"))
        return Batch.full(torch.zeros(n, *self.shape), conditions)

    def _labels(self, n: int, wanted: object) -> Tensor:
        if wanted is None:
            return torch.arange(n) % len(self.classes)
        names = list(wanted) if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted] * n
        if len(names) != n:
            raise UserError(f"label has {len(names)} entries for n={n} samples")
        return torch.tensor([self._label(name) for name in names])

    def _label(self, name: object) -> int:
        if str(name) in self.classes:
            return self.classes.index(str(name))
        if isinstance(name, int) and 0 <= name < len(self.classes):
            return name
        raise UserError(f"unknown label {name!r}; allowed: {', '.join(self.classes)} (or 0 to {len(self.classes) - 1})")

    def write(self, batch: Batch, folder: Path, first: int) -> None:
        """One file a sample, numbered from `first`."""
        raise NotImplementedError

    def read(self, folder: Path) -> Batch:
        """The files of a folder, as `write` makes them."""
        raise NotImplementedError

    def grid(self, batch: Batch, path: Path) -> None:
        """One picture of the samples."""
        raise NotImplementedError

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

    def metrics(self, samples: Batch, reference: Batch, training: Batch | None) -> dict[str, float]:
        """Figures of the samples against held-out data; training: for nearest neighbours (memorisation).

        Those that `missing` names are left out.
        """
        raise NotImplementedError
