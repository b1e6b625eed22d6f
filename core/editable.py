"""What a modality adds for `core.edit`: how a file becomes a sample to edit, and how an edit is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.batch import Batch
from core.errors import UserError


@dataclass(frozen=True)
class EditRequest:
    """A file to edit n times.

    input: the file. cond: conditions that the edited samples are to have, by name; those that are not given are null.
    keep: what of it stays, in the modality's words; mask: a file that says it. grow: by how much more the sample
    becomes, by the modality's names. At most one of keep and mask is given; what grows is never kept. measured: whether
    the file is a measurement of the samples, made elsewhere, and so may differ from them in shape.
    """

    input: Path
    n: int = 1
    cond: Mapping[str, object] = field(default_factory=dict)
    keep: str | None = None
    mask: Path | None = None
    grow: Mapping[str, object] = field(default_factory=dict)
    measured: bool = False


class Editable:
    """The hooks of editing. All batches are in data units; `cond["keep"]`, where there is one, broadcasts to x."""

    name: str

    def known(self, request: EditRequest) -> Batch:
        """The file as n samples, with the conditions, the added room and, where something stays, `cond["keep"]`.

        UserError for what cannot be read or kept.
        """
        raise UserError(f"modality={self.name} cannot edit files: its package has no Modality.known")

    def windowed(self, denoiser: Any, template: Batch, codec: Any) -> Any:
        """A denoiser for samples larger than those of training, such as `core.editing.Windows`; itself otherwise.

        template: in the diffusion coordinates of the codec.
        """
        return denoiser

    def method(self, codec: Any, network: Any) -> Any:
        """How what is kept is followed unless a config says it, a `core.editing.Method`; None for the usual way."""
        return None

    def finished(self, edited: Batch, known: Batch) -> Batch:
        """The edited samples with what is kept of the known ones exactly as it was, also where the codec is lossy."""
        keep = known.cond["keep"].to(edited.x).expand_as(edited.x)
        return edited.with_x(torch.where(keep > 0, known.x.to(edited.x), edited.x))

    def show_edit(self, known: Batch, edited: Batch, path: Path) -> None:
        """One picture: before, what is kept of it, and several after. path: without its suffix."""
        raise NotImplementedError

    def show_measured(self, measured: Tensor, edited: Batch, path: Path) -> None:
        """One picture: the measurement, in data units, and several samples that agree with it."""
        raise NotImplementedError
