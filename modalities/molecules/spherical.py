"""Features that turn with their molecule, by irreducible representation of O(3), and the maps between them.

Representations are named as in e3nn: "0e" scalars, "1o" vectors, "2e" traceless symmetric tensors; l and the parity.
Linear maps and products of these parts, with Clebsch-Gordan coefficients, are all that commutes with O(3).
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from e3nn import o3
from jaxtyping import Float, Int64
from torch import Tensor, nn

with warnings.catch_warnings():  # of its own TorchScript, which newer PyTorch disapproves of
    warnings.simplefilter("ignore")
    from torch_geometric.nn import MessagePassing

Parts = dict[str, Float[Tensor, "atoms components channels"]]  # representation -> 2l + 1 components


@lru_cache(maxsize=256)
def _coefficients(l1: int, l2: int, l3: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(components of l3, components of l1 x those of l2), scaled to keep unit variance; made in float64."""
    with torch.inference_mode(False):  # kept: training may need it after a validation
        table = o3.wigner_3j(l1, l2, l3, dtype=torch.float64, device="cpu") * (2 * l3 + 1) ** 0.5
        return table.flatten(0, 1).T.contiguous().to(device, dtype)


def couple(pairs: Float[Tensor, "atoms first second channels"], l3: int) -> Float[Tensor, "atoms third channels"]:
    """The part of degree l3 in products of a part of degree l1 with one of degree l2."""
    l1, l2 = pairs.shape[1] // 2, pairs.shape[2] // 2
    return _coefficients(l1, l2, l3, pairs.dtype, pairs.device) @ pairs.flatten(1, 2)


def concatenated(*parts: Parts) -> Parts:
    """The channels of all of them side by side."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part], -1) for name in names}


class Linear(nn.Module):
    """A linear map of the channels of each representation, with a bias for scalars (e3nn's, channels last)."""

    def __init__(self, inputs: o3.Irreps, outputs: o3.Irreps) -> None:
        super().__init__()
        self.maps = nn.ModuleDict(
            {str(ir): nn.Linear(inputs.count(ir), channels, bias=ir.is_scalar()) for channels, ir in outputs}
        )

    def forward(self, x: Parts) -> Parts:
        return {name: layer(x[name]) for name, layer in self.maps.items()}


class Square(nn.Module):
    """Products of two linear maps of the features, channel by channel: `e3nn.o3.TensorProduct` of the mode "uuu".

    `outputs`: for each representation that is kept, the channels of all the ways to it. Products with a scalar are left
    to the gates.
    """

    def __init__(self, inputs: o3.Irreps, channels: int, kept: o3.Irreps) -> None:
        super().__init__()
        factors = list(dict.fromkeys(ir for _, ir in inputs if ir.l > 0))
        self.first, self.second = (Linear(inputs, o3.Irreps([(channels, ir) for ir in factors])) for _ in range(2))
        self.ways = [(a, b, c) for i, a in enumerate(factors) for b in factors[i:] for c in a * b if kept.count(c)]
        self.outputs = o3.Irreps([(channels, c) for _, _, c in self.ways])

    def forward(self, x: Parts) -> Parts:
        first, second = self.first(x), self.second(x)
        pairs = {(a, b): first[str(a)][:, :, None] * second[str(b)][:, None] for a, b, _ in self.ways}
        return concatenated(*({str(c): couple(pairs[a, b], c.l)} for a, b, c in self.ways))


class Convolution(MessagePassing):
    """The tensor product of the neighbours' features with the harmonics of their directions, weighted by distance.

    The message along an edge of length d and direction r is e3nn's `FullyConnectedTensorProduct` of the sender's
    features with Y(r), its weights those of the edge: w_uw(d) = sum_k W_kuw R_k(d) for each way l1 x l2 -> l3. It is
    linear in W, and so the edges' part of it is one matrix product, of the operators R_k(d) Y(r) with the senders'
    features; W and the Clebsch-Gordan coefficients act once an atom, on the sum over its edges.

    inputs, outputs: representations of senders and receivers; lmax: of the harmonics, of parity (-1)^l; radial: the
    number of radial functions.
    """

    def __init__(self, inputs: o3.Irreps, outputs: o3.Irreps, lmax: int, radial: int) -> None:
        super().__init__(aggr=None)
        self.inputs, self.outputs, self.radial = inputs, outputs, radial
        self.harmonics = [ir for _, ir in o3.Irreps.spherical_harmonics(lmax)]
        self.ways = {
            (ir, harmonic): reached
            for _, ir in inputs
            for harmonic in self.harmonics
            if (reached := [out for out in ir * harmonic if outputs.count(out)])
        }
        self.mixes = nn.ModuleDict(
            {
                f"{ir} x {harmonic}": nn.Linear(radial * inputs.count(ir), sum(map(outputs.count, reached)), bias=False)
                for (ir, harmonic), reached in self.ways.items()
            }
        )

    def forward(
        self, x: Parts, edge_index: Int64[Tensor, "2 edges"], operators: Float[Tensor, "atoms slots functions"]
    ) -> Parts:
        """operators: R_k(d) Y_m(r) of each atom's edges, k innermost; 0 in free slots. Edges are sorted by receiver."""
        flat = torch.cat([x[str(ir)].flatten(1) for _, ir in self.inputs], 1)
        sums = self.propagate(edge_index, x=flat, operators=operators)
        received = {str(ir): flat.new_zeros(len(flat), ir.dim, channels) for channels, ir in self.outputs}
        for (ir, harmonic), reached in self.ways.items():
            mixed = self.mixes[f"{ir} x {harmonic}"](sums[ir][harmonic.l])
            for out, pairs in zip(reached, mixed.split([self.outputs.count(out) for out in reached], -1), strict=True):
                received[str(out)] = received[str(out)] + couple(pairs, out.l)
        return received

    def message(self, x_j: Tensor) -> Tensor:
        """The sender's features as they are: what the edge does to them, `aggregate` does for all edges at once."""
        return x_j

    def aggregate(
        self, inputs: Float[Tensor, "edges features"], operators: Float[Tensor, "atoms slots functions"]
    ) -> dict[o3.Irrep, list[Float[Tensor, "atoms first harmonic mixed"]]]:
        """Operators x features summed over each atom's edges, by the senders' representation and the harmonics' l.

        The last axis are the pairs of a radial function and a channel of the senders.
        """
        atoms, slots, _ = operators.shape
        blocks = inputs.view(atoms, slots, inputs.shape[-1]).split(
            [channels * ir.dim for channels, ir in self.inputs], -1
        )
        sums = {}
        for (channels, ir), block in zip(self.inputs, blocks, strict=True):
            products = (operators.mT @ block).view(atoms, -1, self.radial, ir.dim, channels)
            products = products.permute(0, 3, 1, 2, 4).flatten(3)
            sums[ir] = list(products.split([harmonic.dim for harmonic in self.harmonics], 2))
        return sums
