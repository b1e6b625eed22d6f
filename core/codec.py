"""Data <-> diffusion coordinates: pixel scaling, scaled one-hot, a frozen autoencoder; with log p(x | z)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch, is_full


class LossyCodecError(TypeError):
    """A likelihood was asked of a codec that does not keep all of the data."""


class Codec:
    """encode: data -> z, of about unit scale.  decode: its inverse, or the nearest a lossy codec has.

    range: (lowest, highest) z that data can have, numbers or tensors that broadcast against z, for clipping x_0; None
           where there is no bound.
    conditions: names of those that `encode` takes from the data itself and adds to `cond`. Samples of such a model are
           asked for with data: what it is made from is then the template.
    """

    range: tuple[float | Tensor, float | Tensor] | None = None
    conditions: tuple[str, ...] = ()

    def encode(self, batch: Batch) -> Batch:
        raise NotImplementedError

    def decode(self, batch: Batch) -> Batch:
        raise NotImplementedError

    def template(self, batch: Batch) -> Batch:
        """Shape, mask and conditions in diffusion coordinates of samples whose shape in data units is that of `batch`.

        Its values are read only for `conditions`, and where something of them is kept: see `known`.
        """
        encoded = self.known(batch)
        return encoded if "keep" in encoded.cond else encoded.with_x(torch.zeros_like(encoded.x))

    def known(self, batch: Batch) -> Batch:
        """`encode` for samples of which something is known: `cond["keep"]` too is then in diffusion coordinates."""
        if "keep" not in batch.cond:
            return self.encode(batch)
        cond = {name: value for name, value in batch.cond.items() if name != "keep"}
        encoded = self.encode(Batch(batch.x, batch.mask, cond))
        keep = self.kept(batch.cond["keep"].to(encoded.mask), encoded)
        return Batch(encoded.x, encoded.mask, {**encoded.cond, "keep": keep})

    def kept(self, keep: Tensor, encoded: Batch) -> Tensor:
        """Which elements of z are known where `keep` marks those of the data; broadcastable to `encoded.x`.

        As it is, for codecs that take each element for itself.
        """
        return keep

    def facts(self, data: Mapping[str, object]) -> Mapping[str, object]:
        """What follows from the data's facts in diffusion coordinates, such as the number or the scale of columns.

        It fills, as those do, the `???` of networks, predictions and weightings by name.
        """
        return {}

    def trim(self, batch: Batch) -> Batch:
        """The same samples in diffusion coordinates, with no more padding at the end of each axis than they need."""
        return batch

    def fit(self, batch: Batch) -> Mapping[str, object]:
        """The constructor's arguments that follow from training data (a large batch of it), as plain values.

        Asked once, before training; they become part of the config, and so of every checkpoint.
        """
        return {}

    def log_prob(self, encoded: Batch, mean: Tensor, var: Tensor, dim: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log p(x | z) in nats of data units, for z ~ N(mean, var) in diffusion coordinates: the decoder's term.

        encoded: the data after `encode`. dim: its degrees of freedom. Lossy codecs raise `LossyCodecError`.
        """
        raise LossyCodecError(f"{type(self).__name__} loses information: no likelihood can be computed through it")


class Affine(Codec):
    """z = (x - shift) / scale, for data that is continuous (levels = None) or on a grid of `levels` values.

    low, high: the data's bounds if it has any. With `levels`, the values are low, ..., high, equally spaced.
    """

    def __init__(
        self,
        shift: float = 0.0,
        scale: float = 1.0,
        low: float | None = None,
        high: float | None = None,
        levels: int | None = None,
    ) -> None:
        if scale <= 0:
            raise ValueError(f"scale={scale}: must be positive")
        if levels is not None and (low is None or high is None or levels < 2):
            raise ValueError(f"levels={levels} needs low, high and at least 2 values")
        self.shift, self.scale, self.levels = shift, scale, levels
        if low is not None and high is not None:
            self.range = ((low - shift) / scale, (high - shift) / scale)

    def encode(self, batch: Batch) -> Batch:
        z = (batch.x.to(batch.mask.dtype) - self.shift) / self.scale
        # padding must be 0 in diffusion coordinates, whatever value it had in the data's
        return batch.with_x(z if is_full(batch.mask) else z * batch.mask)

    def decode(self, batch: Batch) -> Batch:
        x = batch.x * self.scale + self.shift
        if self.range:
            x = x.clamp(*self._bounds())
        return batch.with_x(x if is_full(batch.mask) else x * batch.mask)

    def _bounds(self) -> tuple[float, float]:
        """The range in data units."""
        assert self.range is not None
        low, high = (float(z) * self.scale + self.shift for z in self.range)
        return low, high

    def log_prob(self, encoded: Batch, mean: Tensor, var: Tensor, dim: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """With `levels`, the mass of each value's bin (Ho et al. 2020, eq. 13); else the density, with |dz/dx|."""
        var = var.to(mean)
        if self.levels is None:
            squares = ((encoded.x - mean) ** 2 / var).flatten(1).sum(1)
            log_normaliser = torch.log(2 * math.pi * var).expand(encoded.x.shape).flatten(1).mean(1)
            return -0.5 * (squares + dim * log_normaliser) - dim * math.log(self.scale)
        mass = self._log_bin_mass(encoded.x, mean, var.clamp(min=torch.finfo(mean.dtype).tiny).sqrt())
        return (mass * encoded.mask).flatten(1).sum(1)

    def _log_bin_mass(self, z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """log P(z - half < N(mean, std^2) < z + half); the outermost bins reach to infinity."""
        assert self.range is not None
        assert self.levels is not None
        low, high = map(float, self.range)
        half = (high - low) / (self.levels - 1) / 2
        upper = torch.where(z > high - half, math.inf, (z + half - mean) / std)
        lower = torch.where(z < low + half, -math.inf, (z - half - mean) / std)
        # P(lower < N < upper) = P(-upper < N < -lower): on the side where both tails are small, nothing cancels
        flip = lower + upper > 0
        a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
        log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
        return log_b + torch.log1p(-torch.exp(log_a - log_b).clamp(max=1 - torch.finfo(z.dtype).eps))


class Identity(Affine):
    """Data that already is at unit scale, without bounds."""

    def __init__(self) -> None:
        super().__init__()
