"""The modified discrete cosine transform: overlapping frames that are one orthogonal change of basis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch, is_full
from core.codec import Codec
from core.errors import UserError
from modalities.audio.frames import frame_mask, mask_of_frames, whole_frames


@lru_cache(maxsize=8)
def basis(bands: int) -> Float[Tensor, "bands window"]:
    """The cosines under a sine window, (bands, 2 bands), orthonormal over overlapping frames; float64.

    (Princen, Johnson & Bradley 1987: time-domain aliasing cancels between neighbours.)
    """
    n = torch.arange(2 * bands, dtype=torch.float64)
    k = torch.arange(bands, dtype=torch.float64)[:, None]
    cosines = torch.cos(math.pi / bands * (n + 0.5 + bands / 2) * (k + 0.5))
    return math.sqrt(2 / bands) * cosines * torch.sin(math.pi * (n + 0.5) / (2 * bands))


def mdct(x: Float[Tensor, "batch length"], bands: int) -> Float[Tensor, "batch frames bands"]:
    """length / bands + 1 frames of `bands` coefficients; length must be a multiple of `bands`. An isometry."""
    padded = F.pad(x, (bands, bands))
    return padded.unfold(-1, 2 * bands, bands) @ basis(bands).to(x).T


def inverse_mdct(z: Float[Tensor, "batch frames bands"], bands: int) -> Float[Tensor, "batch length"]:
    """The transpose of `mdct`, and on its image its inverse."""
    frames = z @ basis(bands).to(z)  # (B, frames, 2 bands)
    first, second = frames.split(bands, dim=-1)
    return (first[:, 1:] + second[:, :-1]).flatten(1)


class MDCT(Codec):
    """Waveform (B, 1, L) <-> coefficients (B, 1, frames, bands), at about unit scale.

    bands:  of each frame, which is as many samples long; L is padded to a whole number of frames.
    scale:  of each band, a standard deviation, measured on the training data; None: 1, and the transform keeps white
            noise white and every length as it is.
    power:  z -> sign(z) |z|^power afterwards, which brings the heavy tails of sound nearer to a Gaussian; 1: nothing.
    bound:  the largest |z| of training data, measured, for clipping.
    multiple: frames that a clip is filled up to a multiple of, for a network's stride.

    Invertible. A clip's last, half empty frame is real too, so a mask has one frame more than the clip.
    """

    def __init__(
        self,
        bands: int = 128,
        power: float = 1.0,
        multiple: int = 1,
        scale: Sequence[float] | None = None,
        bound: float | None = None,
    ) -> None:
        if bands < 2 or bands % 2:
            raise ValueError(f"bands={bands}: must be even and at least 2")
        if not 0 < power <= 1:
            raise ValueError(f"power={power}: must lie in (0, 1]")
        if multiple < 1:
            raise ValueError(f"multiple={multiple}: must be at least 1")
        self.bands, self.power, self.multiple = bands, power, multiple
        self.scale = torch.tensor(list(scale) if scale is not None else [1.0] * bands)
        if bound is not None:
            self.range = (-bound, bound)

    def encode(self, batch: Batch) -> Batch:
        batch = whole_frames(batch, self.bands)
        z = mdct((batch.x * batch.mask)[:, 0], self.bands) / self.scale.to(batch.x)
        return self._filled(Batch(self._companded(z, self.power)[:, None], self._frame_mask(batch.mask), batch.cond))

    def decode(self, batch: Batch) -> Batch:
        z = self._companded((batch.x * batch.mask)[:, 0], 1 / self.power) * self.scale.to(batch.x)
        x = inverse_mdct(z, self.bands)[:, None]
        # the first frame has no block of samples to itself
        mask = mask_of_frames(batch.mask if is_full(batch.mask) else batch.mask[:, :, 1:], self.bands)
        return Batch((x * mask).clamp(-1, 1), mask, batch.cond)

    def kept(self, keep: Float[Tensor, "batch rows length"], encoded: Batch) -> Tensor:
        """A frame is known if both blocks of samples are that its window lies over."""
        if keep.shape[1] > 1 or "beyond" in encoded.cond:
            raise UserError("of an MDCT only stretches of seconds can be kept, such as keep=0:0.5")
        frames = encoded.x.shape[2]
        # silence before the first block, and after the last up to the last frame's end
        new = F.pad(1 - keep, (self.bands, frames * self.bands - keep.shape[-1]))
        known = 1 - F.max_pool1d(new, 2 * self.bands, self.bands)[..., None]
        if not bool((known * encoded.mask).flatten(1).any(1).all()):
            raise UserError(f"keep: no frame of {2 * self.bands} samples stays as a whole")
        return known

    def fit(self, batch: Batch) -> Mapping[str, object]:
        plain = MDCT(self.bands).encode(batch)
        real = plain.mask.expand_as(plain.x)
        scale = ((plain.x**2 * real).sum((0, 1, 2)) / real.sum((0, 1, 2))).sqrt().clamp(min=1e-4)
        z = self._companded(plain.x / scale, self.power)
        # a power changes the spread: unit variance again, by the inverse power of what it is
        spread = float(((z**2 * real).sum() / real.sum()).sqrt())
        scale = scale * spread ** (1 / self.power)
        return {"scale": scale.tolist(), "bound": float(z.abs().max()) / spread}

    def _filled(self, batch: Batch) -> Batch:
        """The batch with padding up to a multiple of frames."""
        frames = batch.x.shape[2]
        if not (short := -frames % self.multiple):
            return batch
        mask = batch.mask.expand(-1, 1, frames, 1)
        return Batch(F.pad(batch.x, (0, 0, 0, short)), F.pad(mask, (0, 0, 0, short)), batch.cond)

    @staticmethod
    def _companded(z: Tensor, power: float) -> Tensor:
        return z if power == 1 else z.sign() * z.abs() ** power

    def _frame_mask(self, mask: Tensor) -> Tensor:
        if is_full(mask):
            return frame_mask(mask, self.bands)
        return frame_mask(F.pad(mask, (self.bands, 0), value=1.0), self.bands)
