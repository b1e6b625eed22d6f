"""A transformer over atoms: that turning a molecule changes nothing, it must learn from turned ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.batch import is_full
from core.denoiser import Cond
from core.layers.attention import SelfAttention
from core.layers.embedding import frequencies
from core.layers.init import glorot, zero
from modalities.molecules.context import Context, Staying
from modalities.molecules.inputs import atoms
from modalities.molecules.radial import distances, gaussians

LONGEST, SHORTEST = 16.0, 1.0  # wavelengths of the coordinates' sinusoids, angstrom

Tokens = Float[Tensor, "b n width"]
Bias = Float[Tensor, "b heads n n"]


class SwiGLU(nn.Module):
    """W (SiLU(U x) * V x): the gated perceptron of Shazeer (2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tokens) -> Tokens:
        gate, value = self.inner(x).chunk(2, -1)
        return self.outer(F.silu(gate) * value)


class Modulated(nn.Module):
    """x + gate * branch(norm(x) (1 + scale) + shift), these three from the context; the gate starts at 0."""

    def __init__(self, width: int, context: int, branch: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.branch = branch
        self.modulation = zero(nn.Linear(context, 3 * width))

    def forward(self, x: Tokens, context: Float[Tensor, "b context"], *told: Tensor | None) -> Tokens:
        shift, scale, gate = self.modulation(context)[:, None].chunk(3, -1)
        return torch.addcmul(x, gate, self.branch(torch.addcmul(shift, self.norm(x), 1 + scale), *told))


class Block(nn.Module):
    """Attention, then a perceptron, both modulated by the context (adaLN-zero: Peebles & Xie 2023)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, context: int) -> None:
        super().__init__()
        self.attention = Modulated(width, context, SelfAttention(width, heads))
        self.mlp = Modulated(width, context, SwiGLU(width, int(mlp_ratio * width)))

    def forward(
        self, x: Tokens, context: Float[Tensor, "b context"], real: Bool[Tensor, "b n"] | None, bias: Bias | None
    ) -> Tokens:
        return self.mlp(self.attention(x, context, real, bias), context)


class MoleculeTransformer(nn.Module):
    """Atoms (B, N, 3 + features) to the velocities of their positions and features. Not equivariant: turn the data.

    features:    columns after the position
    properties:  conditions, see `Context`
    scale:       angstrom for one unit of x's positions
    width, depth, heads, mlp_ratio: of the transformer; `heads` must divide `width`
    waves:       sinusoids of each coordinate, wavelengths from 16 to 1 angstrom, beside the coordinate itself
    radial:      radial functions of the distances that bias each head's attention, see `gaussians`; 0: no bias
    kept:        whether atoms are told that they stay (`cond["keep"]`)
    """

    waves: Tensor

    def __init__(
        self,
        features: int,
        properties: Mapping[str, Sequence[float]] | None = None,
        *,
        scale: float = 1.0,
        width: int = 128,
        depth: int = 8,
        heads: int = 8,
        mlp_ratio: float = 2.5,
        waves: int = 8,
        radial: int = 16,
        kept: bool = False,
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"{scale=}: must be above 0")
        if depth < 1 or waves < 0 or radial < 0 or radial == 1:
            raise ValueError(f"{depth=}, {waves=}, {radial=}: must be at least 1, at least 0, and 0 or at least 2")
        self.features, self.scale, self.depth, self.radial = features, scale, depth, radial
        self.context = Context(properties)
        self.told = nn.Sequential(nn.Linear(self.context.width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.register_buffer(
            "waves", frequencies(waves, 2 * math.pi / SHORTEST, 2 * math.pi / LONGEST), persistent=False
        )
        self.embed = nn.Linear(3 * (1 + 2 * waves) + features, width)
        self.kept, self.staying = kept, Staying(width) if kept else None
        self.bias = nn.Linear(radial, depth * heads, bias=False) if radial else None
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.out = zero(nn.Linear(width, 3 + features))
        glorot(self)

    def forward(
        self, x: Float[Tensor, "b n columns"], c_noise: Float[Tensor, " b"], mask: Float[Tensor, "b _ 1"], cond: Cond
    ) -> Float[Tensor, "b n columns"]:
        real = None if is_full(mask) else mask[..., 0] > 0
        positions, features, mask = atoms(x, mask, self.features, self.scale)
        told = self.told(self.context(c_noise, mask, cond).to(x.dtype))
        tokens = self.embed(torch.cat([positions, self._waves(positions), features], -1))
        tokens = self.staying(tokens, cond) if self.staying else tokens
        for block, bias in zip(self.blocks, self._biases(positions), strict=True):
            tokens = block(tokens, told, real, bias)
        shift, scale = self.modulation(told)[:, None].chunk(2, -1)
        return self.out(torch.addcmul(shift, self.norm(tokens), 1 + scale)) * mask

    def _waves(self, positions: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n waves"]:
        angle = (positions[..., None] * self.waves).flatten(2)
        return torch.cat([angle.sin(), angle.cos()], -1)

    def _biases(self, positions: Float[Tensor, "b n 3"]) -> Sequence[Bias | None]:
        """The bias of each block's attention."""
        if self.bias is None:
            return [None] * self.depth
        d = distances(positions[:, :, None] - positions[:, None])
        return self.bias(gaussians(d, self.radial)).permute(0, 3, 1, 2).chunk(self.depth, 1)
