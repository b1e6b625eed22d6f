"""A tensor-product network on spherical harmonics (Thomas et al. 2018), with edges between all or only near atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser import Cond
from core.layers.init import zero
from modalities.molecules.context import Context, Staying
from modalities.molecules.inputs import atoms
from modalities.molecules.neighbours import Neighbours, find
from modalities.molecules.radial import distances, gaussians
from modalities.molecules.spherical import Convolution, Linear, Parts, Square, concatenated


class Geometry:
    """The operators R_k(d) Y_m(r) of all edges, at positions that may move while the edges and their weights stay.

    R_k: radial functions. Y: real spherical harmonics up to lmax of r / (|r| + 1), smooth where two atoms meet.
    """

    def __init__(self, neighbours: Neighbours, positions: Float[Tensor, "n 3"], radial: int, lmax: int) -> None:
        self.senders, self.edge_index = neighbours.senders, neighbours.edge_index
        self.radial, self.degrees = radial, list(range(lmax + 1))
        self.weights = neighbours.weights(distances(self._apart(positions)))

    def _apart(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n slots 3"]:
        return positions[self.senders] - positions[:, None]

    def operators(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n slots functions"]:
        """The radial functions k innermost."""
        r = self._apart(positions)
        d = distances(r)
        radial = gaussians(d, self.radial) * self.weights[..., None]
        direction = r / (d[..., None] + 1)
        harmonics = o3.spherical_harmonics(self.degrees, direction, normalize=False, normalization="component")
        return (harmonics[..., None] * radial[..., None, :]).flatten(2)


class Layer(nn.Module):
    """Messages from the neighbours, products of what an atom knows then, and an update that scalars gate.

    inputs, received, outputs: representations of an atom before, of what it hears, and of an atom afterwards.
    """

    def __init__(
        self, inputs: o3.Irreps, sent: o3.Irreps, received: o3.Irreps, outputs: o3.Irreps, radial: int, products: int
    ) -> None:
        super().__init__()
        width = inputs.count("0e")
        self.norm = nn.LayerNorm(width)
        sent = o3.Irreps([(channels, ir) for channels, ir in sent if inputs.count(ir)])
        self.send = Linear(inputs, sent)
        self.convolution = Convolution(sent, received, received.lmax, radial)
        self.square = Square(inputs + received, products, received)
        self.gated = {str(ir): channels for channels, ir in outputs if str(ir) != "0e"}
        known = inputs + received + self.square.outputs
        self.update = Linear(known, o3.Irreps([(2 * width, "0e"), *((c, ir) for ir, c in self.gated.items())]))
        self.gates = nn.Linear(2 * width, width + sum(self.gated.values()))
        self.shift = zero(nn.Linear(outputs.count("1o"), 2, bias=False))

    def forward(self, h: Parts, geometry: Geometry, operators: Tensor) -> tuple[Parts, Float[Tensor, "n 3 2"]]:
        """The features, and two vectors of each atom."""
        normed = h | {"0e": self.norm(h["0e"])}
        known = concatenated(normed, self.convolution(self.send(normed), geometry.edge_index, operators))
        update = self.update(concatenated(known, self.square(known)))
        scalars, *gates = self.gates(F.silu(update["0e"])).split([h["0e"].shape[-1], *self.gated.values()], -1)
        after = {"0e": h["0e"] + scalars}
        for name, gate in zip(self.gated, gates, strict=True):
            after[name] = h[name] + update[name] * gate if name in h else update[name] * gate
        return after, self.shift(after["1o"])


class TensorProductNetwork(nn.Module):
    """Atoms (B, N, 3 + features) to the velocities of their positions and features.

    features:   columns after the position
    properties: conditions, see `Context`
    scale:      angstrom for one unit of x's positions
    irreps:     the features of an atom, as e3nn writes them: channels x degree and parity. Scalars "0e" and vectors
                "1o" must be among them; the harmonics go up to the highest degree.
    sent:       what an atom sends to its neighbours, of these representations
    depth:      layers; each moves the positions, and the next one sees the molecule as it is then
    radial:     radial functions of the distance
    products:   channels of the products in each layer
    cutoff:     edges within this radius, in angstrom; None: at any distance
    neighbours: edges from this many nearest atoms; None: from all. Where the list ends, an edge's weight falls to 0.
    kept:       whether atoms are told that they stay (`cond["keep"]`)
    """

    def __init__(
        self,
        features: int,
        properties: Mapping[str, Sequence[float]] | None = None,
        *,
        scale: float = 1.0,
        irreps: str = "64x0e + 16x1o + 8x2e",
        sent: str = "16x0e + 6x1o + 2x2e",
        depth: int = 4,
        radial: int = 12,
        products: int = 8,
        cutoff: float | None = None,
        neighbours: int | None = None,
        kept: bool = False,
    ) -> None:
        super().__init__()
        inner, outer = (o3.Irreps(written).sort().irreps.simplify() for written in (irreps, sent))
        if not inner.count("0e") or not inner.count("1o"):
            raise ValueError(f"{irreps=}: scalars 0e and vectors 1o must be among them")
        if any(not inner.count(ir) for _, ir in outer):
            raise ValueError(f"{sent=}: must be of the representations of {irreps=}")
        if depth < 1 or radial < 2 or products < 1 or not scale > 0:
            raise ValueError(f"{depth=}, {radial=}, {products=}, {scale=}: must be at least 1, 2, 1 and above 0")
        if (cutoff is not None and not cutoff > 0) or (neighbours is not None and neighbours < 1):
            raise ValueError(f"{cutoff=}, {neighbours=}: must be above 0 and at least 1, or None")
        self.features, self.scale, self.radial, self.lmax = features, scale, radial, inner.lmax
        self.cutoff, self.neighbours = cutoff, neighbours
        self.context = Context(properties)
        width = inner.count("0e")
        self.embed = nn.Linear(features + self.context.width, width)
        self.kept, self.staying = kept, Staying(width) if kept else None
        # at first atoms have scalars alone, and of the last layer nothing is read but scalars and vectors
        scalars, vectors = o3.Irreps([(width, "0e")]), o3.Irreps([(inner.count("1o"), "1o")])
        before, after = [scalars] + [inner] * (depth - 1), [inner] * (depth - 1) + [scalars + vectors]
        self.layers = nn.ModuleList(
            Layer(inputs, outer, inner, outputs, radial, products)
            for inputs, outputs in zip(before, after, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.out = zero(nn.Linear(width, features))

    def forward(
        self, x: Float[Tensor, "b n columns"], c_noise: Float[Tensor, " b"], mask: Float[Tensor, "b _ 1"], cond: Cond
    ) -> Float[Tensor, "b n columns"]:
        dense, features, mask = atoms(x, mask, self.features, self.scale)
        real = mask[..., 0] > 0
        told = self.context(c_noise, mask, cond).to(x.dtype)[:, None].expand(-1, x.shape[1], -1)
        h = self.embed(torch.cat([features, told], -1))
        h = self.staying(h, cond) if self.staying else h
        velocity, changes = self._atoms(h[real], dense[real], find(dense, real, self.cutoff, self.neighbours))
        out = torch.zeros_like(x)
        out[real] = torch.cat([velocity, changes], -1).to(out.dtype)
        return out

    def _atoms(
        self, scalars: Float[Tensor, "n width"], positions: Float[Tensor, "n 3"], neighbours: Neighbours
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n features"]]:
        """What comes out for the real atoms of all molecules: one graph without edges between molecules."""
        h = {"0e": scalars[:, None]}
        velocity = torch.zeros_like(positions)
        geometry = Geometry(neighbours, positions, self.radial, self.lmax)
        for layer in self.layers:
            h, vectors = layer(h, geometry, geometry.operators(positions))
            velocity, positions = velocity + vectors[..., 0], positions + vectors[..., 1]
        return velocity, self.out(self.norm(h["0e"][:, 0]))
