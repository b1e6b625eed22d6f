"""The waveform itself as diffusion coordinates, at unit variance."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from core.batch import Batch
from core.codec import Affine
from core.errors import UserError


class Waveform(Affine):
    """z = x / scale for x in [-1, 1]: invertible, each sample for itself, so every edit in time is one in z.

    scale: the standard deviation of the training data's real samples, measured. Speech is quiet most of the time, so
           the range of z, to which x_0 is clipped, is about +-8, far from +-1.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale=scale, low=-1.0, high=1.0)

    def kept(self, keep: Tensor, encoded: Batch) -> Tensor:
        """Samples are known one by one; a band of frequency is none of them."""
        if keep.shape[1] > encoded.x.shape[1]:
            raise UserError(
                "keep=bands needs a model of spectrograms (codec=spectrogram); for waveforms see measurement=lowpass"
            )
        return keep

    def fit(self, batch: Batch) -> Mapping[str, object]:
        real = batch.mask.expand_as(batch.x)
        return {"scale": float(((batch.x**2 * real).sum() / real.sum()).sqrt())}
