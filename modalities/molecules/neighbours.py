"""Who is whose neighbour in a batch of molecules: all pairs, those within a radius, or the nearest ones.

Pure torch, no compiled extension. The lists are padded to the longest, so that every atom has as many edges and a sum
over edges is a matrix product; distances are computed for a few atoms at a time, so that memory stays linear in a
large molecule's atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

AT_ONCE = 2**22  # distances held at a time
FLAT = 0.75  # the envelope is 1 up to this fraction of the reach


@dataclass(frozen=True)
class Neighbours:
    """The edges of all n real atoms of a batch, each with the same number of slots.

    senders: numbers of the atoms that send, 0 ... n - 1; a free slot repeats the receiver
    real:    whether the slot holds an edge
    cutoff:  angstrom; None: edges are not cut off at a radius
    nearest: the list was cut off after this many; one more is listed, the distance at which an edge's weight is 0
    """

    senders: Int64[Tensor, "n slots"]
    real: Bool[Tensor, "n slots"]
    cutoff: float | None = None
    nearest: int | None = None

    @property
    def edge_index(self) -> Int64[Tensor, "2 edges"]:
        """PyTorch Geometric's form, (senders, receivers), receivers in order."""
        receivers = torch.arange(len(self.senders), device=self.senders.device)
        return torch.stack([self.senders, receivers[:, None].expand_as(self.senders)]).flatten(1)

    def weights(self, distances: Float[Tensor, "n slots"]) -> Float[Tensor, "n slots"]:
        """1 for near atoms, falling to 0 where the list is cut off: what enters or leaves it weighs nothing.

        distances: of the slots, in angstrom. The reach of an atom is the cutoff, or the distance of the first that is
        not among its nearest, if that is less.
        """
        weights = self.real.to(distances)
        if self.cutoff is not None:
            weights = weights * _envelope(distances / self.cutoff)
        if self.nearest is not None and distances.shape[1] > self.nearest:
            reach, cut = distances[:, self.nearest, None], self.real[:, self.nearest, None]
            weights = weights * torch.where(cut, _envelope(distances / reach.clamp(min=1e-6)), 1)
        return weights


def _envelope(x: Tensor) -> Tensor:
    """1 up to `FLAT`, 0 from 1 on, twice continuously differentiable between."""
    t = ((x - FLAT) / (1 - FLAT)).clamp(0, 1)
    return 1 - t**3 * (10 - 15 * t + 6 * t**2)


@torch.no_grad()
def find(
    positions: Float[Tensor, "b n 3"],
    real: Bool[Tensor, "b n"],
    cutoff: float | None = None,
    nearest: int | None = None,
    at_once: int = AT_ONCE,
) -> Neighbours:
    """The edges between different atoms of the same molecule, numbered as `positions[real]`.

    cutoff: the radius in angstrom, exclusive; nearest: how many at most, the nearest. None: no such bound.
    """
    number = (real.flatten().cumsum(0) - 1).view_as(real)  # of each atom among the real ones
    batch, length = real.shape
    if cutoff is None and (nearest is None or nearest >= length - 1):
        senders, listed = _all_pairs(length, real)
        return Neighbours(*_numbered(senders, listed, number, real))
    rows = max(1, at_once // max(batch * length, 1))
    parts = [_nearest(positions, real, slice(start, start + rows), cutoff, nearest) for start in range(0, length, rows)]
    slots = max(part.shape[-1] for part, _ in parts)
    senders, listed = (torch.cat([_widened(p, slots) for p in ps], 1) for ps in zip(*parts, strict=True))
    return Neighbours(*_numbered(senders, listed, number, real), cutoff, nearest)


def _all_pairs(length: int, real: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (B, N, N - 1) of all the others of each row, and whether they are real."""
    row, slot = torch.arange(length, device=real.device)[:, None], torch.arange(length - 1, device=real.device)
    columns = slot + (slot >= row)  # skips the row itself
    return columns.expand(len(real), -1, -1), real[:, columns]


def _nearest(
    positions: Tensor, real: Tensor, rows: slice, cutoff: float | None, nearest: int | None
) -> tuple[Tensor, Tensor]:
    """Columns (B, rows, slots) of the others by distance, as many as any of the rows has, and whether they are real."""
    distances = torch.cdist(positions[:, rows], positions, compute_mode="donot_use_mm_for_euclid_dist")
    columns = torch.arange(positions.shape[1], device=real.device)
    allowed = real[:, None, :] & real[:, rows, None] & (columns != columns[rows, None])
    if cutoff is not None:
        allowed = allowed & (distances < cutoff)
    slots = int(allowed.sum(-1).max())
    if nearest is not None:
        slots = min(slots, nearest + 1)
    distances, columns = distances.masked_fill(~allowed, torch.inf).topk(slots, largest=False)
    return columns, distances < torch.inf


def _widened(x: Tensor, slots: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, slots - x.shape[-1]))


def _numbered(senders: Tensor, listed: Tensor, number: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of each molecule -> numbers among the real atoms, for the real rows alone."""
    listed = listed[real]
    molecule = torch.arange(len(real), device=real.device)[:, None, None].expand_as(senders)
    numbered = number[molecule, senders][real]
    return torch.where(listed, numbered, number[real][:, None]), listed
