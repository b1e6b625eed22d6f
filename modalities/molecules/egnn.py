"""The E(3)-equivariant graph network (Satorras et al. 2021) on all pairs of atoms, as Hoogeboom et al. (2022) use it.

Dense: pairs are (B, N, N), and the first layer on a pair is the sum of two layers on its atoms and one on its
distances. So the largest matrix product of the usual arrangement, on the concatenated pair, is done once per atom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser import Cond
from modalities.molecules.context import Context, Staying
from modalities.molecules.inputs import atoms
from modalities.molecules.radial import distances, gaussians

Nodes = Float[Tensor, "b n width"]
Pairs = Float[Tensor, "b n n"]
PairFeatures = Float[Tensor, "b n n features"]
Positions = Float[Tensor, "b n 3"]


class StepTime(nn.Module):
    """What the reference network is told in the place of `Context`: t = (step + 1) / T alone, (B, 1).

    c_noise must be the paper's 0-based step, as `prediction.num_steps=T` hands it.
    """

    width = 1

    def __init__(self, num_steps: int = 1000) -> None:
        super().__init__()
        self.num_steps = num_steps

    def forward(self, c_noise: Float[Tensor, " b"], mask: Float[Tensor, "b n 1"], cond: Cond) -> Float[Tensor, "b 1"]:
        return ((c_noise + 1) / self.num_steps)[:, None]


class Geometry:
    """All pairs of atoms at some positions (angstrom): directions (B, N, N, 3) and features of the distances.

    radial: the number of radial functions, see `gaussians`; 0 for the one feature d^2.
    """

    def __init__(self, positions: Positions, radial: int) -> None:
        difference = positions[:, :, None] - positions[:, None]
        d = distances(difference)
        self.direction = difference / (d[..., None] + 1)
        self.features: PairFeatures = gaussians(d, radial) if radial else difference.square().sum(-1, keepdim=True)


class PairLinear(nn.Linear):
    """Linear(2 * width + features, width) of (h_i, h_j, features_ij), which are never put side by side."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__(2 * width + features, width)
        self.parts = (width, width, features)

    def forward(self, h: Nodes, features: PairFeatures) -> PairFeatures:  # type: ignore[override]
        w_i, w_j, w_d = self.weight.split(self.parts, 1)
        return F.linear(h, w_i, self.bias)[:, :, None] + F.linear(h, w_j)[:, None] + F.linear(features, w_d)


class EdgeNetwork(nn.Module):
    """(h_i, h_j, features_ij) -> (B, N, N, width): two layers."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.first, self.second = PairLinear(width, features), nn.Linear(width, width)

    def forward(self, h: Nodes, features: PairFeatures) -> PairFeatures:
        return F.silu(self.second(F.silu(self.first(h, features))))


class Layer(nn.Module):
    """Messages between all pairs change the features of each atom, and then its position.

    features: of a pair. attention: each message is weighed by a gate of its own. reach: how far one other atom can move
    an atom in this layer, in angstrom; None for any distance. norm: layer norms before both networks of pairs.
    """

    def __init__(self, width: int, features: int, attention: bool, reach: float | None, norm: bool) -> None:
        super().__init__()
        self.reach = reach
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))
        self.message = EdgeNetwork(width, features)
        self.gate = nn.Linear(width, 1) if attention else None
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.pull = EdgeNetwork(width, features)
        self.strength = nn.Linear(width, 1, bias=False)
        nn.init.xavier_uniform_(self.strength.weight, gain=0.001)  # positions hardly move at first

    def forward(
        self, h: Nodes, positions: Positions, direction: Tensor, features: PairFeatures, weight: Pairs
    ) -> tuple[Nodes, Positions]:
        """weight: of each pair in the sums over the second atom, 0 for an atom with itself and in the padding."""
        normed = self.norms[0](h)
        messages = self.message(normed, features)
        weights = weight if self.gate is None else weight * self.gate(messages)[..., 0].sigmoid()
        received = (weights[:, :, None] @ messages)[:, :, 0]
        h = h + self.node(torch.cat([normed, received], -1))
        strength = self.strength(self.pull(self.norms[1](h), features))[..., 0]
        if self.reach is not None:
            strength = self.reach * strength.tanh()
        return h, positions + ((weight * strength)[..., None] * direction).sum(2)


class Egnn(nn.Module):
    """Atoms (B, N, 3 + features) to their velocities in space and the change of their features, both at unit scale.

    features:      columns after the position
    properties:    conditions, see `Context`; none of them with a `context` of one's own
    scale:         angstrom for one unit of x's positions
    width, depth:  of the features of atoms and pairs, and layers
    radial:        the number of radial functions of the distances, see `Geometry`; 0 for the squares of the distances
                   now and in the input, as the reference network has them
    norm:          layer norms before each layer's networks and before the output
    attention:     see `Layer`
    reach:         how far another atom can move an atom in all layers together, in angstrom; None for any distance
    neighbours:    sums over the other atoms are divided by this number
    context:       what each atom is told of the whole: a module with a `width`, called as `Context` is, the default
    kept:          whether atoms are told that they stay (`cond["keep"]`)
    spare:         columns of the last layer that nothing reads: the reference network has one, for its time column
    """

    def __init__(
        self,
        features: int,
        properties: Mapping[str, Sequence[float]] | None = None,
        *,
        scale: float = 1.0,
        width: int = 64,
        depth: int = 4,
        radial: int = 16,
        norm: bool = True,
        attention: bool = True,
        reach: float | None = None,
        neighbours: float = 1.0,
        context: nn.Module | None = None,
        spare: int = 0,
        kept: bool = False,
    ) -> None:
        super().__init__()
        if depth < 1 or radial < 0 or radial == 1:
            raise ValueError(f"{depth=}, {radial=}: must be at least 1, and 0 or at least 2")
        if not (scale > 0 and neighbours > 0):
            raise ValueError(f"{scale=}, {neighbours=}: both must be above 0")
        if context is not None and properties:
            raise ValueError(f"properties={list(properties)}: must be none beside a context of one's own")
        self.features, self.scale, self.radial, self.neighbours = features, scale, radial, neighbours
        self.context = context or Context(properties)
        self.embed = nn.Linear(features + self.context.width, width)
        self.kept, self.staying = kept, Staying(width) if kept else None
        step = None if reach is None else reach / depth
        self.layers = nn.ModuleList(Layer(width, radial or 2, attention, step, norm) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.out = nn.Linear(width, features + spare)

    def forward(
        self,
        x: Float[Tensor, "b n columns"],
        c_noise: Float[Tensor, " b"],
        mask: Float[Tensor, "b n_or_1 1"],
        cond: Cond,
    ) -> Float[Tensor, "b n columns"]:
        start, features, mask = atoms(x, mask, self.features, self.scale)
        told = self.context(c_noise, mask, cond).to(x.dtype)[:, None].expand(-1, x.shape[1], -1)
        h, positions = self.embed(torch.cat([features, told], -1)), start
        h = self.staying(h, cond) if self.staying else h
        others = 1 - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weight = mask * mask.mT * others / self.neighbours
        initial = None if self.radial else Geometry(start, 0).features
        for layer in self.layers:
            pairs = Geometry(positions, self.radial)
            features = pairs.features if initial is None else torch.cat([pairs.features, initial], -1)
            h, positions = layer(h, positions, pairs.direction, features, weight)
        velocity = (positions - start) / self.scale
        return torch.cat([velocity, self.out(self.norm(h))[..., : self.features]], -1) * mask
