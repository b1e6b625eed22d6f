"""Waveforms given their spectrogram: the coordinates of a vocoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch, is_full
from core.codec import Codec
from modalities.audio.frames import frame_mask, whole_frames
from modalities.audio.spectrogram import Spectrogram


class Vocoding(Codec):
    """z = x / envelope, with the spectrogram of x as the condition `spectrogram` (B, 1, frames, bands).

    The envelope is the loudness that the spectrogram itself tells, so that quiet sounds are as large in z as loud ones
    and a whisper does not drown in the last noise. spectrogram: what is conditioned on. scale, bound: the standard
    deviation of x / loudness, and the largest |z| (for clipping x_0), measured on the training data.
    quietest: the loudness below which a sound counts as silence, relative to full scale.
    envelope: false leaves the waveform as it is, z = x, as published vocoders have it; nothing is measured then.
    """

    conditions = ("spectrogram",)

    def __init__(
        self,
        spectrogram: Spectrogram,
        scale: float = 1.0,
        bound: float | None = None,
        quietest: float = 1e-3,
        envelope: bool = True,
    ) -> None:
        if scale <= 0 or quietest <= 0:
            raise ValueError(f"scale={scale}, quietest={quietest}: must be positive")
        self.spectrogram, self.scale, self.quietest, self.envelope = spectrogram, scale, quietest, envelope
        if bound is not None:
            self.range = (-bound, bound)

    def encode(self, batch: Batch) -> Batch:
        batch = whole_frames(batch, self.spectrogram.bands.hop)
        spectrogram = self.spectrogram.encode(batch).x
        x = batch.x * batch.mask / (self._envelope(spectrogram, batch.mask) * self.scale)
        return Batch(x * batch.mask, batch.mask, {**batch.cond, "spectrogram": spectrogram})

    def decode(self, batch: Batch) -> Batch:
        x = batch.x * self._envelope(batch.cond["spectrogram"], batch.mask) * self.scale
        cond = {name: value for name, value in batch.cond.items() if name != "spectrogram"}
        return Batch((x * batch.mask).clamp(-1, 1), batch.mask, cond)

    def fit(self, batch: Batch) -> Mapping[str, object]:
        seen = self.spectrogram.fit(batch)
        for name, values in seen.items():
            setattr(self.spectrogram, name, self.spectrogram.mean.new_tensor(values))
        if not self.envelope:
            return {"spectrogram": seen, "bound": 1 / self.scale}
        encoded = self.encode(batch)
        real = encoded.mask.expand_as(encoded.x)
        scale = float(((encoded.x**2 * real).sum() / real.sum()).sqrt()) * self.scale
        bound = float(encoded.x.abs().max()) * self.scale / scale
        return {"spectrogram": seen, "scale": round(scale, 6), "bound": round(bound, 3)}

    def _envelope(
        self, spectrogram: Float[Tensor, "batch 1 frames bands"], mask: Float[Tensor, "batch 1 masklength"]
    ) -> Float[Tensor, "batch 1 length"]:
        """The root mean square of the sound around each sample, from the spectrogram, linear between frames."""
        bands = self.spectrogram.bands
        if not self.envelope:
            return spectrogram.new_ones(len(spectrogram), 1, 1)
        magnitudes = bands.magnitudes(self.spectrogram.logs(spectrogram[:, 0]))
        # Parseval: a Hann window has 3/8 of its length as energy, and half of the bins are counted
        loudness = (2 * magnitudes.square().sum(-1) / (0.375 * bands.window**2)).sqrt()
        if not is_full(mask):  # padding says nothing of the last frame's end, which is as loud as its middle
            last = frame_mask(mask, bands.hop)[:, 0].sum(1).long() - 1
            frames = torch.arange(loudness.shape[1], device=last.device)
            loudness = loudness.gather(1, frames.minimum(last.clamp(min=0)))
        length = loudness.shape[1] * bands.hop
        smooth = F.interpolate(loudness[:, None], size=length, mode="linear", align_corners=False)
        return smooth.clamp(min=self.quietest)
