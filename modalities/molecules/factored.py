"""The default network: scalars and vectors on atoms, and messages that are one matrix product with radial operators.

There is no network on pairs. R_k[i, j] = g_k(|x_i - x_j|) are N x N matrices of a geometry; a layer sends linear maps
of the atoms' scalars a and vectors v through all of them at once:

    sum_j R_k a_j,      sum_j R_k v_j,      sum_j R_k (x_i - x_j) a_j = x_i (R_k a)_i - (R_k (x a))_i

which makes it equivariant to translations, rotations and reflections, and cheap on any device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser import Cond
from modalities.molecules.context import Context, Staying
from modalities.molecules.inputs import atoms
from modalities.molecules.radial import centres, distances, gaussians, steepness

SOFTENING = 0.3  # angstrom: unit vectors vanish smoothly where two atoms meet
DAMPING = 0.7  # of the sums over messages, beside the atom's own part
REFINE = 32  # hidden numbers of what tells how far the positions move

Scalars = Float[Tensor, "b n width"]
Vectors = Float[Tensor, "3 b n c"]


def radial_operators(
    positions: Float[Tensor, "3 b n"], mask: Float[Tensor, "b n 1"], number: int
) -> Float[Tensor, "b k n n"]:
    """R_k for `number` Gaussians of the distance, see `gaussians`. Zero on the diagonal and in padding.

    Each is divided by the distance (plus a little), so that (x_i - x_j) R_k has the Gaussian's size, and multiplied by
    that of its peak: all are of order 1. positions: in angstrom.
    """
    d = distances(positions[..., :, None] - positions[..., None, :], dim=0)
    pairs = mask * mask.mT * (1 - torch.eye(d.shape[-1], dtype=d.dtype, device=d.device))
    operators: Tensor = RadialOperators.apply(d, pairs, number)
    return operators


class RadialOperators(torch.autograd.Function):
    """R_k of the distances d, times `pairs`, with the derivative that follows from its closed form:

        R_k = h_k exp(-s^2 (sqrt(d) - m_k)^2) / (d + e),    dR_k / dd = R_k (s^2 m_k / sqrt(d) - s^2 - 1 / (d + e))

    for the Gaussians' centres m_k and s of `steepness`. So the gradient is two sums over k of one product, where a
    graph of each operation takes ten times over all K N N. Its own operations have a graph: it can be derived again.
    """

    @staticmethod
    def forward(ctx: Any, d: Tensor, pairs: Tensor, number: int) -> Tensor:
        peaks = centres(number, d).square() + SOFTENING
        operators = gaussians(d, number, dim=1, heights=peaks).mul_((pairs / (d + SOFTENING))[:, None])
        ctx.save_for_backward(d, operators)
        return operators

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        d, operators = ctx.saved_tensors
        b, number, n, _ = operators.shape
        m, s2 = centres(number, d), steepness(number) ** 2
        sums = torch.stack([m, torch.ones_like(m)]) @ (gradients[0] * operators).flatten(2)
        by_centre, plain = sums.view(b, 2, n, n).unbind(1)
        return s2 * by_centre * d.rsqrt() - plain * (s2 + 1 / (d + SOFTENING)), None, None


def at_most_one(v: Vectors) -> Vectors:
    """Each atom's vectors with a root mean square length below 1: what follows multiplies them with one another."""
    return v * torch.rsqrt(1 + v.square().sum(0).mean(-1, keepdim=True))


class Layer(nn.Module):
    """Messages, then an update of scalars h (B, N, width) and vectors v (3, B, N, vectors).

    The axis of the three coordinates comes first: what all of them have in common broadcasts.
    """

    def __init__(
        self, width: int = 96, vectors: int = 32, radial: int = 24, scalar_channels: int = 4, vector_channels: int = 4
    ) -> None:
        super().__init__()
        self.width, self.vectors, self.radial = width, vectors, radial
        self.scalar_channels, self.vector_channels = scalar_channels, vector_channels
        hidden = 2 * width
        self.norm = nn.LayerNorm(width)
        self.send = nn.Linear(width, radial * (scalar_channels + vector_channels))
        self.transport = nn.Linear(vectors, radial * vector_channels, bias=False)
        self.point = nn.Linear(radial * vector_channels, vectors, bias=False)
        self.arrive = nn.Linear(radial * vector_channels, vectors, bias=False)
        self.maps = nn.Linear(vectors, 3 * vectors, bias=False)
        self.own = nn.Linear(width, hidden)
        self.heard = nn.Linear(radial * scalar_channels, hidden, bias=False)
        self.invariant = nn.Linear(2 * vectors, hidden, bias=False)
        self.update = nn.Linear(hidden, width + 2 * vectors)

    def forward(
        self, h: Scalars, v: Vectors, operators: Float[Tensor, "b k n n"], positions: Float[Tensor, "3 b n"]
    ) -> tuple[Scalars, Vectors, Scalars]:
        """(h, v, the gates through which the vectors move the positions)."""
        normed = self.norm(h)
        heard, pointed, passed = self._messages(normed, at_most_one(v), operators, positions)
        v = v + DAMPING * self.point(pointed) + self.arrive(passed)
        a, b, c = self.maps(at_most_one(v)).chunk(3, dim=-1)
        invariants = torch.cat([(a * b).sum(0), (c.square().sum(0) + 1e-6).sqrt()], dim=-1)
        y = F.silu(self.own(normed) + DAMPING * self.heard(heard) + self.invariant(invariants))
        update, turn, gate = self.update(y).split([h.shape[-1], v.shape[-1], v.shape[-1]], dim=-1)
        return h + update, v + b * turn, gate

    def _messages(
        self, h: Scalars, v: Vectors, operators: Float[Tensor, "b k n n"], positions: Float[Tensor, "3 b n"]
    ) -> tuple[Scalars, Vectors, Vectors]:
        """Scalars (B, N, K s); vectors made of scalars, and vectors passed on, both (3, B, N, K c).

        Between the linear maps the atoms are the last axis and the channels the first: the maps write and read that
        order at no cost, and what the operators' product needs to be moved, moves in long runs.
        """
        b, n, _ = h.shape
        k, s, c = self.radial, self.scalar_channels, self.vector_channels
        sent = torch.addmm(self.send.bias[:, None], self.send.weight, h.flatten(0, 1).mT)
        scalars, sources = sent.view(k, s + c, b, n).split([s, c], dim=1)
        placed = (-positions * sources[:, :, None]).flatten(1, 2)
        passed = (self.transport.weight @ v.flatten(0, 2).mT).view(k, 3 * c, b, n)
        columns = torch.cat([x.permute(2, 0, 1, 3) for x in (scalars, sources, placed, passed)], dim=2)
        sums = (columns @ operators.mT).permute(1, 2, 0, 3).contiguous()  # (K, s + 7 c, B, N)
        scalars, sources, placed, passed = sums.split([s, c, 3 * c, 3 * c], dim=1)
        pointed = torch.addcmul(placed.unflatten(1, (c, 3)), positions, sources[:, :, None])
        heard = scalars.reshape(k * s, b, n).permute(1, 2, 0)
        return heard, *(x.reshape(k * c, 3, b, n).permute(1, 2, 3, 0) for x in (pointed, passed))


class Factored(nn.Module):
    """Scalars and vectors on all atoms, every pair at once; equivariant to E(3) and to the order of atoms.

    features: number of feature columns. properties: see `Context`. scale: angstrom per unit of x's positions.
    width, vectors: scalar and vector channels of an atom. radial: radial functions; scalar_channels, vector_channels:
    what each of them carries. kept: whether atoms are told that they stay (`cond["keep"]`). Each layer moves the
    positions, and the next one sees the molecule as it is then.
    """

    def __init__(
        self,
        features: int,
        properties: Mapping[str, Sequence[float]] | None = None,
        scale: float = 1.0,
        width: int = 96,
        depth: int = 4,
        vectors: int = 32,
        radial: int = 24,
        scalar_channels: int = 4,
        vector_channels: int = 4,
        kept: bool = False,
    ) -> None:
        super().__init__()
        if depth < 1 or radial < 2 or not scale > 0:
            raise ValueError(f"{depth=}, {radial=}, {scale=}: must be at least 1, at least 2 and above 0")
        self.features, self.scale, self.radial, self.vectors = features, scale, radial, vectors
        self.context = Context(properties)
        self.embed = nn.Linear(features + self.context.width, width)
        self.kept, self.staying = kept, Staying(width) if kept else None
        self.layers = nn.ModuleList(
            Layer(width, vectors, radial, scalar_channels, vector_channels) for _ in range(depth)
        )
        self.moves = nn.ModuleList(nn.Linear(vectors, 1, bias=False) for _ in range(depth))
        self.refine = nn.Sequential(nn.Linear(self.context.width, REFINE), nn.SiLU(), nn.Linear(REFINE, depth - 1))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, features)
        for head in (*self.moves, self.out):
            nn.init.zeros_(head.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Float[Tensor, "b n c"], c_noise: Float[Tensor, " b"], mask: Float[Tensor, "b n 1"], cond: Cond
    ) -> Float[Tensor, "b n c"]:
        start, features, mask = atoms(x, mask, self.features, self.scale)
        context = self.context(c_noise, mask, cond).to(x)
        h = self.embed(torch.cat([features, context[:, None].expand(-1, x.shape[1], -1)], dim=-1))
        h = self.staying(h, cond) if self.staying else h
        v = h.new_zeros(3, *h.shape[:2], self.vectors)
        steps = self.scale * F.pad(self.refine(context), (0, 1))  # after the last layer there is none
        start = start.permute(2, 0, 1).contiguous()
        positions, moved = start, torch.zeros_like(start)
        for layer, move, step in zip(self.layers, self.moves, steps.unbind(1), strict=True):
            h, v, gate = layer(h, v, radial_operators(positions, mask, self.radial), positions)
            moved = moved + move(v * gate).squeeze(-1)
            positions = start + step[:, None] * moved
        return torch.cat([moved.permute(1, 2, 0), self.out(self.norm(h))], dim=-1) * mask
