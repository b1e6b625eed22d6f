"""Molecules <-> diffusion coordinates: centred positions beside scaled one-hot elements (Hoogeboom et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch, is_full
from core.codec import Codec
from core.errors import UserError
from modalities.molecules.elements import atomic_numbers, check
from modalities.molecules.inputs import POSITIONS, centred

ELEMENT_SCALE = 0.25  # of the one-hot elements beside positions in angstrom
POSITION_FACTOR = 3.0  # of positions in the loss, beside 1 of the features
CHARGE_SCALE = 0.1  # of atomic numbers: Hoogeboom et al. 2022, section 4


class Atoms(Codec):
    """z = (position - centre, scale * one-hot element [, atomic number / 10]) of every atom; angstrom stay angstrom.

    decode takes each atom's element from its highest score. The atomic number is redundant: it only tells a network
    which elements are alike.

    elements: symbols, in the order of the one-hot columns. scale: of the one-hot elements. charges: whether the last
    column, the atomic number, is there.
    """

    def __init__(self, elements: Sequence[str], scale: float = ELEMENT_SCALE, charges: bool = False) -> None:
        if scale <= 0:
            raise ValueError(f"scale={scale}: must be positive")
        self.elements, self.scale, self.charges = check(elements), scale, charges
        self.charge = CHARGE_SCALE * torch.tensor(atomic_numbers(self.elements), dtype=torch.float32)

    @property
    def scales(self) -> list[float]:
        """Of each column: an angstrom, an element's one, a tenth of an atomic number."""
        return [1.0] * POSITIONS + [self.scale] * len(self.elements) + [CHARGE_SCALE] * self.charges

    def facts(self, data: Mapping[str, object]) -> Mapping[str, object]:
        """`features`: columns after the positions. `sigma_data`: each column's standard deviation, as if all elements
        were as frequent. `factors`: of each column in the loss. data: has `scale`, of positions.
        """
        spread, many = [data["scale"]] * POSITIONS, len(self.elements)
        scales = [self.scale / many**0.5] * many + [float(self.charge.square().mean().sqrt())] * self.charges
        return {
            "features": len(scales),
            "sigma_data": spread + [round(scale, 3) for scale in scales],
            "factors": [POSITION_FACTOR] * POSITIONS + [1.0] * len(scales),
        }

    def encode(self, batch: Batch) -> Batch:
        if batch.x.shape[-1] != 3 + len(self.elements):
            raise UserError(f"atoms have {batch.x.shape[-1] - 3} element columns, but codec.elements={self.elements}")
        mask = batch.mask.expand(*batch.x.shape[:2], 1)  # a mask without padding may be (B, 1, 1)
        one_hot = batch.x[..., 3:] * mask
        columns = [centred(batch.x[..., :3], mask), self.scale * one_hot]
        if self.charges:
            columns.append(one_hot @ self.charge.to(one_hot)[:, None])
        return Batch(torch.cat(columns, dim=-1), mask, batch.cond)

    def decode(self, batch: Batch) -> Batch:
        scores = batch.x[..., 3 : 3 + len(self.elements)]
        one_hot = torch.nn.functional.one_hot(scores.argmax(-1), len(self.elements)).to(scores)
        return batch.with_x(torch.cat([batch.x[..., :3], one_hot], dim=-1) * batch.mask)

    def kept(self, keep: Tensor, encoded: Batch) -> Tensor:
        """The atomic number is known with the element."""
        keep = keep.expand(*keep.shape[:2], 3 + len(self.elements))
        return torch.cat([keep, keep[..., -1:]], dim=-1) if self.charges else keep

    def trim(self, batch: Batch) -> Batch:
        if is_full(batch.mask):
            return batch
        longest = int(batch.mask.sum(1).max())
        cond = {name: value[:, :longest] if name == "keep" else value for name, value in batch.cond.items()}
        return Batch(batch.x[:, :longest], batch.mask[:, :longest], cond)

    def log_prob(self, encoded: Batch, mean: Tensor, var: Tensor, dim: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Positions: their density in angstrom. Elements: the mass of +-1/2 around 1 of each one-hot column, normalised
        over the elements; atomic numbers: the mass of +-1/2 around them (Hoogeboom et al. 2022, appendix C).
        """
        e, mask = len(self.elements), encoded.mask
        var = var.to(mean).expand(encoded.x.shape)
        std = var.sqrt().clamp(min=torch.finfo(mean.dtype).tiny)
        squares = ((encoded.x - mean) ** 2 / var)[..., :3] + torch.log(2 * torch.pi * var[..., :3])
        log_p = -0.5 * (squares * mask).flatten(1).sum(1)
        # one mean of the positions is fixed: n - 1 of the n normalising constants count
        log_p = log_p + 0.5 * torch.log(2 * torch.pi * var[:, 0, :3]).sum(-1)
        score, width = mean[..., 3 : 3 + e] / self.scale, std[..., 3 : 3 + e] / self.scale
        mass = (_log_mass(score - 1, width) * encoded.x[..., 3 : 3 + e] / self.scale).sum(-1)
        log_p = log_p + ((mass - _log_mass(score - 1, width).logsumexp(-1)) * mask[..., 0]).sum(1)
        if self.charges:
            off = (mean - encoded.x)[..., -1] / CHARGE_SCALE
            log_p = log_p + (_log_mass(off, std[..., -1] / CHARGE_SCALE) * mask[..., 0]).sum(1)
        return log_p


def _log_mass(centre: Tensor, std: Tensor) -> Tensor:
    """log P(-1/2 < N(centre, std^2) < 1/2)."""
    upper, lower = (0.5 - centre) / std, (-0.5 - centre) / std
    # P(lower < N < upper) = P(-upper < N < -lower): on the side where both tails are small, nothing cancels
    flip = lower + upper > 0
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    return log_b + torch.log1p(-torch.exp(log_a - log_b).clamp(max=1 - torch.finfo(centre.dtype).eps))
