"""Sounds as a modality: how they are asked for, written, read, drawn and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.batch import Batch
from core.codec import Codec
from core.denoiser import BaseDenoiser
from core.editable import EditRequest
from core.editing import Windows
from core.errors import UserError
from core.metrics import Headline
from core.modality import GRID, Modality, each
from modalities.audio import artefacts, drawing, editing, metrics, page, sheets
from modalities.audio.features import Listener
from modalities.audio.frames import whole_frames
from modalities.audio.judge import SHIPPED, Judge


class Audio(Modality):
    """Mono sounds; decoded batches are (B, 1, L) in [-1, 1], with a mask where they differ in length.

    sample_rate: in Hz.
    max_length, multiple: of a sample, in samples; every template is as long as its longest sound, rounded up to the
               multiple.
    conditions: the values of every categorical condition by its name, `label` among them where there are classes.
    lengths:   of training sounds: 8 quantiles for each combination of the conditions, in row-major order; one row where
               they do not depend on them; [] where all are `max_length` long.
    unpitched: labels of sounds without a pitch.
    extractor: what the metrics hear through; unless given, the shipped judge of such labels, if there is one.
    paired:    whether sample i is a reconstruction of held-out sound i, as a vocoder's is; their distances are then
               measured too.
    dither:    whether WAVs get triangular noise of a step, so that what rounding to 16 bits leaves is noise.
    """

    name = "audio"

    def __init__(
        self,
        sample_rate: int,
        max_length: int,
        multiple: int,
        conditions: Mapping[str, Sequence[str]],
        lengths: Sequence[Sequence[int]] = (),
        classes: Sequence[str] = (),
        unpitched: Sequence[str] = ("drum",),
        extractor: Listener | None = None,
        paired: bool = False,
        dither: bool = False,
    ) -> None:
        super().__init__((1, max_length), classes)
        self.sample_rate, self.multiple = sample_rate, multiple
        self.paired, self.dither = paired, dither
        self.about = {"sample_rate": sample_rate}
        self.conditions = {name: list(values) for name, values in conditions.items()}
        self.lengths = torch.tensor([list(row) for row in lengths], dtype=torch.int64)
        self.unpitched = list(unpitched)
        self.extractor = extractor or _shipped_judge(self.classes)
        self._silenced: str | None = None  # why the extractor cannot be had, once it was tried

    def template(self, n: int, cond: Mapping[str, object] | None = None) -> Batch:
        """Sounds to draw. cond: categorical conditions, and `length` in seconds, or a list of n of them; or `input`, a
        folder of sounds, for models that follow one. Lengths that are not given are like those of training sounds.
        """
        wanted = dict(cond or {})
        if "input" in wanted:
            return self._inputs(n, wanted)
        length = wanted.pop("length", None)
        categories = super().template(n, wanted).cond
        longest = self.shape[1]
        if length is not None:
            lengths = torch.tensor([self._samples(value) for value in each("length", length, n)])
        elif len(self.lengths):
            lengths = self._usual_lengths(categories, n)
        else:
            lengths = torch.full((n,), longest)
        longest = -(-int(lengths.max()) // self.multiple) * self.multiple
        x = torch.zeros(n, 1, longest)
        if bool((lengths == longest).all()):
            return Batch.full(x, categories)
        return Batch(x, (torch.arange(longest) < lengths[:, None, None]).float(), categories)

    def _samples(self, seconds: object) -> int:
        if not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
            raise UserError(f"length={seconds}: must be a number of seconds above 0 and at most 3600")
        return max(1, round(seconds * self.sample_rate))

    def _usual_lengths(self, categories: Mapping[str, Tensor], n: int) -> Tensor:
        """A quantile of the lengths that such sounds have; sounds of the same conditions take the quantiles in turn."""
        row = torch.zeros(n, dtype=torch.int64)
        if len(self.lengths) > 1:
            for name, values in self.conditions.items():
                row = row * len(values) + categories[name]
        seen: dict[int, int] = {}
        turns = []
        for place in row.tolist():
            turns.append(seen.get(place, 0))
            seen[place] = turns[-1] + 1
        # 3 is coprime to 8: a few sounds already spread over short and long
        return self.lengths[row, (torch.tensor(turns) * 3 + row * 5 + 4) % self.lengths.shape[1]]

    def _inputs(self, n: int, wanted: Mapping[str, object]) -> Batch:
        if set(wanted) != {"input"}:
            raise UserError(f"cond.input stands alone; besides it there is {sorted(set(wanted) - {'input'})}")
        batch, _ = artefacts.read_wavs(Path(str(wanted["input"])), self.sample_rate)
        if len(batch) < n:
            raise UserError(f"n={n}, but cond.input={wanted['input']} holds {len(batch)} sounds")
        return whole_frames(batch[:n], self.multiple)

    def known(self, request: EditRequest) -> Batch:
        """A sound of a file, n times; keep: see `editing.WORDS`; grow.seconds, grow.before: room after and before."""
        if self.paired:
            raise UserError("this model follows a whole sound and edits none: give core.sample a folder, cond.input")
        asked = {name: value for name, value in request.cond.items() if value is not None}
        every = super().template(request.n, asked).cond
        return editing.known(request, self.sample_rate, self.multiple, {name: every[name] for name in asked})

    def windowed(self, denoiser: BaseDenoiser, template: Batch, codec: Codec) -> BaseDenoiser:
        """Overlapping windows of the longest clip's size along time where the template is longer.

        Models that follow a sound in time take any length as it is. Clipped sounds (`editing.BEYOND`) stay beyond the
        level at which they were cut off.
        """
        seen = editing.without_aside(template.cond)
        if all(value.ndim == 1 for value in seen.values()):
            size = codec.template(Batch.full(torch.zeros(1, *self.shape))).x.shape[2]
            denoiser = Windows(denoiser, size, dim=2) if template.x.shape[2] > size else denoiser
        if len(seen) == len(template.cond):
            return denoiser
        beyond = template.cond.get(editing.BEYOND)
        return editing.Aside(denoiser, None if beyond is None else template.x * beyond)

    def finished(self, edited: Batch, known: Batch) -> Batch:
        return editing.finished(edited, known, self.sample_rate)

    def show_edit(self, known: Batch, edited: Batch, path: Path) -> None:
        sheets.show_edit(known, edited, path, self.sample_rate)

    def show_measured(self, measured: Tensor, edited: Batch, path: Path) -> None:
        sheets.show_measured(measured, edited, path, self.sample_rate)

    def write(self, batch: Batch, folder: Path | str, first: int) -> None:
        artefacts.write_wavs(batch.x, batch.mask, Path(folder), self.sample_rate, first, self.dither)

    def read(self, folder: Path | str) -> Batch:
        return artefacts.read_wavs(Path(folder), self.sample_rate)[0]

    def grid(self, batch: Batch, path: Path | str) -> None:
        drawing.save_grid(batch, Path(path), self.sample_rate, self.conditions)

    def present(self, batch: Batch, folder: Path, real: Batch | None) -> None:
        drawing.save_grid(batch, folder / GRID, self.sample_rate, self.conditions, real)
        page.write_page(folder, batch, self.sample_rate, self.conditions)

    def trajectory(self, moments: Sequence[Batch], folder: Path | str) -> None:
        folder = Path(folder)
        drawing.save_strip(moments, folder / drawing.STRIP, self.sample_rate, self.conditions)
        drawing.save_gif(moments, folder / drawing.GIF, self.sample_rate)

    @property
    def instrument(self) -> Listener | None:
        return self.extractor

    def missing(self, n: int) -> str:
        if self.extractor is not None and (why := self._try_extractor()):
            return f"figures through {self.extractor.name} are missing: {why}"
        if self.extractor is None and self.classes:
            return f"figures through a judge are missing: none is shipped for the labels {', '.join(self.classes[:5])}"
        return metrics.too_few(n)

    def metrics(
        self, samples: Batch, reference: Batch, training: Batch | None, floor: bool = False
    ) -> dict[str, float]:
        return metrics.evaluate(
            samples,
            reference,
            training,
            None if self._try_extractor() else self.extractor,
            self.sample_rate,
            self.conditions,
            unpitched=self.unpitched,
            paired=self.paired and not floor,
        )

    def headlines(self, samples: Batch, reference: Batch) -> dict[str, Headline]:
        extractor = None if self._try_extractor() else self.extractor
        return metrics.headlines(samples, reference, extractor, self.sample_rate, self.conditions)

    def _try_extractor(self) -> str:
        """Loads the extractor, which may download, and listens to a silence; the reason if that fails."""
        if self._silenced is None:
            self._silenced = ""
            try:
                if self.extractor is not None:
                    self.extractor(torch.zeros(1, 1, self.extractor.sample_rate))
            except UserError as error:
                self._silenced = str(error)
        return self._silenced


def _shipped_judge(classes: Sequence[str]) -> Judge | None:
    """The shipped judge that knows just these labels."""
    judges = (Judge(name) for name in SHIPPED) if classes else ()
    return next((judge for judge in judges if judge.classes == list(classes)), None)
