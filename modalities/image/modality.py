"""Images as a modality: how they are written, read, drawn and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from core.batch import Batch
from core.codec import Codec
from core.denoiser import BaseDenoiser
from core.editable import EditRequest
from core.editing import PiGDM, Windows
from core.errors import UserError
from core.features import FeatureExtractor
from core.metrics import Headline
from core.modality import Modality
from modalities.image import artefacts, editing, metrics, panels
from modalities.image.features import InceptionV3
from modalities.image.judge import CLASSES, SIZE, Judge


class Image(Modality):
    """Pictures of one size; decoded batches are (B, C, H, W) in [0, 1].

    extractor: what the metrics look through. Unless given: the digit judge for 1x28x28 pictures of digits, or of no
               labels; Inception-v3 for all others.
    paired:    whether sample i is a reconstruction of held-out picture i, as an enlarged one is; how near it comes
               is then measured too.
    """

    name = "image"

    def __init__(
        self,
        shape: Sequence[int],
        classes: Sequence[str] = (),
        extractor: FeatureExtractor | None = None,
        paired: bool = False,
    ) -> None:
        super().__init__(shape, classes)
        self.extractor, self.paired = extractor, paired
        self._tried: str | None = None  # why the extractor cannot be used, "" if it can; None before the first trial

    def template(self, n: int, cond: Mapping[str, object] | None = None) -> Batch:
        """cond: categorical conditions; or, for models that enlarge, `input`: a folder of small pictures."""
        cond = dict(cond or {})
        if "input" not in cond:
            return super().template(n, cond)
        if not self.paired:
            raise UserError(f"cond.input={cond['input']}: this model follows no pictures; core.edit changes them")
        if others := sorted(set(cond) - {"input"}):
            raise UserError(f"cond.input stands alone; besides it there is {others}")
        return Batch.full(editing.small_pictures(Path(str(cond["input"])), n, self.shape))

    def write(self, batch: Batch, folder: Path | str, first: int) -> None:
        artefacts.write_pngs(batch.x, Path(folder), first)

    def read(self, folder: Path | str) -> Batch:
        return artefacts.read_pngs(Path(folder))

    def grid(self, batch: Batch, path: Path | str) -> None:
        artefacts.save_grid(batch, Path(path))

    def trajectory(self, moments: Sequence[Batch], folder: Path | str) -> None:
        artefacts.save_strip(moments, Path(folder) / artefacts.STRIP)
        artefacts.save_gif(moments, Path(folder) / artefacts.GIF)

    def known(self, request: EditRequest) -> Batch:
        """keep: `left 0.5`, or a box `x0:x1 y0:y1` of pixels. mask: a picture, white where it stays. grow: pixels."""
        if self.paired:
            raise UserError("this model follows a whole picture and edits none: give core.sample a folder, cond.input")
        asked = {name: value for name, value in request.cond.items() if value is not None}
        every = self.template(request.n, asked).cond
        return editing.known(request, self.shape, {name: every[name] for name in asked})

    def windowed(self, denoiser: BaseDenoiser, template: Batch, codec: Codec) -> BaseDenoiser:
        """Overlapping windows of the model's size, along height and width where the template is larger."""
        if template.x.shape[1:] == self.shape:
            return denoiser
        if tall := [name for name, value in template.cond.items() if value.ndim > 1]:
            raise UserError(f"this model follows the condition {tall[0]}, for pictures of its own size only")
        for axis in (-2, -1):
            denoiser = Windows(denoiser, self.shape[axis], axis)
        return denoiser

    def method(self, codec: Codec, network: nn.Module) -> PiGDM:
        """A fifth of the evaluations of replacing five times, and more completions are what they were."""
        return PiGDM()

    def show_edit(self, known: Batch, edited: Batch, path: Path) -> None:
        panels.show_edit(known, edited, path.with_suffix(".png"))

    def show_measured(self, measured: Tensor, edited: Batch, path: Path) -> None:
        panels.show_measured(measured, edited, path.with_suffix(".png"))

    @property
    def instrument(self) -> FeatureExtractor | None:
        return None if self._tried else self.extractor

    def missing(self, n: int) -> str:
        if self.shape and (why := self._try_extractor()):
            return f"figures through {self.extractor.name} are missing: {why}" if self.extractor else why
        return metrics.too_few(n)

    def metrics(
        self, samples: Batch, reference: Batch, training: Batch | None, floor: bool = False
    ) -> dict[str, float]:
        paired = self.paired and not floor
        return metrics.evaluate(samples, reference, training, *self._looking_at(reference), paired)

    def headlines(self, samples: Batch, reference: Batch) -> dict[str, Headline]:
        return metrics.headlines(samples, reference, *self._looking_at(reference))

    def _looking_at(self, reference: Batch) -> tuple[FeatureExtractor | None, bool]:
        """The extractor, if it can be had, and whether its classes are the labels."""
        self.shape = self.shape or tuple(reference.x.shape[1:])  # files alone tell it
        extractor = None if self._try_extractor() else self.extractor
        return extractor, extractor is not None and self.classes != [] and list(extractor.classes) == self.classes

    def _try_extractor(self) -> str:
        """Loads the extractor, which may download, and looks at one black picture; the reason if that fails."""
        if self._tried is None:
            if self.extractor is None:
                digits = self.shape == (1, SIZE, SIZE) and self.classes in ([], CLASSES)
                self.extractor = Judge() if digits else InceptionV3()
            try:
                self.extractor(torch.zeros(1, *self.shape))
                self._tried = ""
            except (UserError, ValueError) as error:
                self._tried = str(error)
        return self._tried
