"""Log-spectrograms as diffusion coordinates: a latent space of sound with an analytic encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.codec import Codec
from core.errors import UserError
from modalities.audio.bands import WARP, Bands
from modalities.audio.frames import frame_mask, mask_of_frames, whole_frames
from modalities.audio.vocoder import GriffinLim, Vocoder

AT_ONCE = 32  # clips that are looked at together: the transforms of many more leave a CPU's caches


class Spectrogram(Codec):
    """Waveform (B, 1, L) -> standardised log-amplitudes (B, 1, frames, bands); back through a vocoder. Lossy.

    window, hop, warp, mels, sample_rate, floor: see `Bands`.
    vocoder: makes the sound; `GriffinLim()` unless given.
    mean, std, low, high: of each band over the real frames of the training data, measured; x_0 is clipped to
             [low, high], whose lower end is silence.

    Time comes before frequency, so the noise of a clip does not depend on how far it is padded.
    """

    def __init__(
        self,
        window: int = 256,
        hop: int = 80,
        warp: Sequence[Sequence[int]] = WARP,
        mels: int | None = None,
        sample_rate: int | None = None,
        floor: float = 0.01,
        vocoder: Vocoder | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
    ) -> None:
        self.bands = Bands(window, hop, warp, mels, sample_rate, floor)
        self.vocoder = vocoder or GriffinLim()
        self.mean = _row(mean, "mean", self.bands.count, 0.0)
        self.std = _row(std, "std", self.bands.count, 1.0)
        if low is not None and high is not None:
            self.range = (_row(low, "low", self.bands.count, 0.0), _row(high, "high", self.bands.count, 0.0))

    def encode(self, batch: Batch) -> Batch:
        batch = whole_frames(batch, self.bands.hop)
        logs = self.bands.analyse((batch.x * batch.mask)[:, 0])
        mask = frame_mask(batch.mask, self.bands.hop)
        return Batch(self.standardise(logs)[:, None] * mask, mask, batch.cond)

    def kept(self, keep: Float[Tensor, "batch rows length"], encoded: Batch) -> Tensor:
        """A frame is known if all of its window is; a band of frequency if all that its window hears is (rows > 1).

        rows: equal shares of the way from 0 to half of the sample rate. A Hann window hears 2 bins on both sides.
        """
        window, hop = self.bands.window, self.bands.hop
        if "beyond" in encoded.cond:
            raise UserError("keep=declip needs a model of waveforms (codec=waveform)")
        if keep.shape[1] > 1:
            bins = F.interpolate(keep[:, None, :, 0], self.bands.average.shape[1], mode="nearest-exact")[:, 0]
            lost = F.max_pool1d(1 - bins, 5, 1, 2) @ (self.bands.average > 0).to(bins).T
            known = (lost == 0).to(keep)[:, None, None]
        else:
            margin = window // 2 - hop // 2
            short = encoded.x.shape[2] * hop - keep.shape[-1]  # what `whole_frames` has added
            new = F.pad(1 - keep, (margin, window - hop - margin + short))
            known = 1 - F.max_pool1d(new, window, hop)[..., None]
        if not bool((known * encoded.mask).flatten(1).any(1).all()):
            raise UserError(f"keep: no frame of {window} samples, or no band of frequency, stays as a whole")
        return known

    def decode(self, batch: Batch) -> Batch:
        logs = self.logs(batch.x[:, 0])
        x = self.vocoder(logs, batch.mask[:, 0], self.bands)[:, None]
        mask = mask_of_frames(batch.mask, self.bands.hop)
        x = x * mask
        # new phases make new peaks: a clip that is too loud becomes quieter as a whole, nothing is cut off
        return Batch(x / x.abs().amax(-1, keepdim=True).clamp(min=1), mask, batch.cond)

    def standardise(self, logs: Float[Tensor, "batch frames bands"]) -> Float[Tensor, "batch frames bands"]:
        return (logs - self.mean.to(logs)) / self.std.to(logs)

    def logs(self, z: Float[Tensor, "batch frames bands"]) -> Float[Tensor, "batch frames bands"]:
        """The inverse of `standardise`."""
        return z * self.std.to(z) + self.mean.to(z)

    def fit(self, batch: Batch) -> Mapping[str, object]:
        batch = whole_frames(batch, self.bands.hop)
        sounds = (batch.x * batch.mask)[:, 0].split(AT_ONCE)
        logs = torch.cat([self.bands.analyse(some) for some in sounds])
        real = frame_mask(batch.mask, self.bands.hop)[:, 0].expand(-1, logs.shape[1], -1)[..., 0] > 0
        frames = logs[real].double()  # (frames of all clips, bands)
        std, mean = torch.std_mean(frames, 0)
        std = std.clamp(min=1e-3)
        # a digital silence lies far below what recordings have, but is data where a clip has it
        low, high = (frames.amin(0) - mean) / std, (frames.amax(0) - mean) / std
        found = {"mean": mean, "std": std, "low": low, "high": high}
        return {name: [round(v, 5) for v in values.tolist()] for name, values in found.items()}


def _row(values: Sequence[float] | None, name: str, count: int, default: float) -> Float[Tensor, " bands"]:
    if values is not None and len(values) != count:
        raise ValueError(f"{name} has {len(values)} values for {count} bands")
    return torch.full((count,), default) if values is None else torch.tensor(list(values))
