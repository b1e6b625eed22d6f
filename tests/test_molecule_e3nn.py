"""Laws of the tensor-product network, of its edges, and of the parts that turn with the molecule."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from molecule_laws import DTYPES, EQUIVARIANCE, FEATURES, LAWS, PROPERTIES, TOLERANCE, Molecules, randomised
from omegaconf import OmegaConf
from torch import Tensor, nn

import configs

o3 = pytest.importorskip("e3nn.o3")
pytest.importorskip("torch_geometric")

from modalities.molecules.neighbours import Neighbours, find  # noqa: E402
from modalities.molecules.spherical import Convolution, Linear, Parts, Square  # noqa: E402
from modalities.molecules.tensor_product import Geometry, TensorProductNetwork  # noqa: E402

ANGLES = [0.3, 1.1, -2.0]  # Euler's, of a rotation about no special axis
FAR = 1e3  # angstrom, beyond every pair
INNER = o3.Irreps("8x0e + 4x1o + 3x2e + 2x1e + 1x0o")  # pseudovectors and pseudoscalars too
SENT = o3.Irreps("4x0e + 2x1o + 2x2e + 1x1e")
EDGES = {"all": {}, "radius": {"cutoff": 3.0}, "nearest": {"neighbours": 3}, "both": {"cutoff": 4.0, "neighbours": 3}}


def small(**options) -> TensorProductNetwork:
    sizes = {"irreps": "16x0e + 8x1o + 4x2e", "sent": "8x0e + 4x1o + 2x2e", "depth": 2, "radial": 6, "products": 4}
    return TensorProductNetwork(FEATURES, PROPERTIES, kept=True, **{**sizes, **options})


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edge_set(neighbours: Neighbours) -> set[tuple[int, int]]:
    return set(map(tuple, neighbours.edge_index[:, neighbours.real.flatten()].T.tolist()))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", LAWS + EQUIVARIANCE, ids=lambda law: law.__name__)
@pytest.mark.parametrize("edges", EDGES)
def test_laws(law, edges, dtype):
    law(lambda: small(**EDGES[edges]), dtype)


@pytest.mark.parametrize("irreps", ["12x0e + 6x1o", "8x0e + 4x1o + 2x2e + 1x3o", "8x0e + 4x1o + 2x1e + 2x0o"])
def test_other_representations_keep_the_laws(irreps):
    for law in EQUIVARIANCE:
        law(lambda: small(irreps=irreps, sent=irreps), torch.float64)


def test_the_config_builds_a_small_network_that_starts_at_zero():
    config = OmegaConf.load(Path(next(iter(configs.__path__))) / "network" / "e3nn.yaml")
    network = instantiate(
        OmegaConf.merge(config, {"features": FEATURES, "properties": {}, "scale": 1.4, "kept": True}), _convert_="all"
    )
    molecules = Molecules(torch.float32)
    assert count(network) < 4e5
    assert not molecules.through(network).any()


def test_every_parameter_learns():
    network, molecules = randomised(lambda: small(depth=3), torch.float64), Molecules(torch.float64)
    molecules.through(network, cond={**molecules.cond, "keep": molecules.mask}).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "wrong",
    [
        {"irreps": "8x1o"},
        {"irreps": "8x0e"},
        {"sent": "2x3o"},
        {"depth": 0},
        {"radial": 1},
        {"products": 0},
        {"scale": 0.0},
        {"cutoff": 0.0},
        {"neighbours": 0},
    ],
    ids=str,
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        small(**wrong)


class TestCopies:
    def test_a_copy_is_equal_and_separate(self):
        network, molecules = randomised(small, torch.float32), Molecules(torch.float32)
        out, other = molecules.through(network), copy.deepcopy(network)
        assert torch.equal(molecules.through(other), out)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert torch.equal(molecules.through(network), out)

    def test_state_and_pickle_restore_it(self):
        network, molecules = randomised(small, torch.float32), Molecules(torch.float32)
        out, fresh, file = molecules.through(network), small(), io.BytesIO()
        fresh.load_state_dict(network.state_dict())
        assert torch.equal(molecules.through(fresh), out)
        torch.save(network, file)
        file.seek(0)
        assert torch.equal(molecules.through(torch.load(file, weights_only=False)), out)


class TestEdges:
    """Which edges there are, and that nothing jumps where they begin and end."""

    def setup_method(self) -> None:
        self.positions = 2 * normal(3, 9, 3)
        self.real = torch.arange(9) < torch.tensor([9, 1, 6])[:, None]

    def by_hand(self, cutoff: float = math.inf, nearest: int = 99) -> set[tuple[int, int]]:
        first, edges = 0, set()
        for molecule, size in zip(self.positions, self.real.sum(1).tolist(), strict=True):
            for i in range(size):
                d = (molecule[:size] - molecule[i]).norm(dim=-1)
                near = [j for j in d.argsort().tolist() if j != i and d[j] < cutoff][:nearest]
                edges |= {(first + j, first + i) for j in near}
            first += size
        return edges

    def test_all_pairs(self):
        assert edge_set(find(self.positions, self.real)) == self.by_hand()

    def test_radius(self):
        edges = edge_set(find(self.positions, self.real, cutoff=3.5))
        assert edges == self.by_hand(3.5)
        assert 0 < len(edges) < len(self.by_hand())

    @pytest.mark.parametrize("cutoff", [None, 3.5])
    def test_nearest_and_the_next_one_that_weighs_nothing(self, cutoff):
        neighbours = find(self.positions, self.real, cutoff, nearest=3)
        assert edge_set(neighbours) == self.by_hand(cutoff or math.inf, 3 + 1)
        atoms = self.positions[self.real]
        weights = neighbours.weights((atoms[neighbours.senders] - atoms[:, None]).norm(dim=-1))
        weighing = neighbours.edge_index[:, weights.flatten() > 0]
        assert set(map(tuple, weighing.T.tolist())) <= self.by_hand(cutoff or math.inf, 3)

    @pytest.mark.parametrize("options", [{"cutoff": 3.5}, {"nearest": 2}, {"cutoff": 3.5, "nearest": 2}], ids=str)
    @pytest.mark.parametrize("at_once", [1, 50, 100])
    def test_a_few_rows_at_a_time_change_nothing(self, options, at_once):
        expected = find(self.positions, self.real, **options)
        chunked = find(self.positions, self.real, **options, at_once=at_once)
        assert torch.equal(chunked.senders, expected.senders)
        assert torch.equal(chunked.real, expected.real)

    def test_far_radius_many_neighbours_and_all_pairs_agree(self):
        molecules = Molecules(torch.float64)
        network = randomised(small, torch.float64)
        out = molecules.through(network)
        for cutoff, neighbours in [(FAR, None), (None, 6), (None, 99), (FAR, 6)]:
            network.cutoff, network.neighbours = cutoff, neighbours
            torch.testing.assert_close(molecules.through(network), out, atol=1e-12, rtol=1e-12)
        network.cutoff = 2.0
        assert (molecules.through(network) - out).abs().max() > 1e-3

    @pytest.mark.parametrize("edges", ["radius", "nearest", "both"])
    def test_the_output_is_continuous_where_edges_come_and_go(self, edges):
        network, molecules = randomised(lambda: small(**EDGES[edges]), torch.float64), Molecules(torch.float64, [7])
        steps = torch.linspace(0, 1, 1501, dtype=torch.float64)
        x = molecules.x.repeat(len(steps), 1, 1)
        x[:, 0, :3] += 4 * steps[:, None] * torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)  # past the others
        bounds = {"cutoff": network.cutoff, "nearest": network.neighbours}
        whole = torch.ones(1, 7, dtype=torch.bool)
        lists = {frozenset(edge_set(find(part[None, :, :3], whole, **bounds))) for part in x[::50]}
        assert len(lists) > 3, "no edge came or went"
        with torch.no_grad():
            out = network(x, molecules.c_noise.expand(len(x)), torch.ones(len(x), 1, 1), {})
        slope = out.diff(dim=0)
        assert slope.abs().max() < 0.02 * out.abs().max()
        if (
            edges == "radius"
        ):  # the distance of the first that is not among the nearest has kinks, and so has the output
            assert slope.diff(dim=0).abs().max() < 0.1 * slope.abs().max()

    def test_two_thousand_atoms(self):
        """Distances are never all held at once, and a list is as long as the most crowded neighbourhood."""
        positions = 30 * torch.rand(1, 2000, 3, generator=torch.Generator().manual_seed(0))
        real = torch.ones(1, 2000, dtype=torch.bool)
        neighbours = find(positions, real, cutoff=4.0, at_once=100_000)
        d = torch.cdist(positions[0].double(), positions[0].double())
        expected = ((d < 4) & (d > 0)).sum(1)
        assert torch.equal(neighbours.real.sum(1), expected)
        assert neighbours.senders.shape == (2000, int(expected.max()))
        network = randomised(lambda: small(cutoff=4.0), torch.float32)
        x = torch.cat([positions, normal(1, 2000, FEATURES).float()], -1)
        with torch.no_grad():
            out = network(x, torch.zeros(1), torch.ones(1, 1, 1), {})
            # an atom hears only those within two layers' reach
            near = (d[0] < 8.5).nonzero()[:, 0]
            part = network(x[:, near], torch.zeros(1), torch.ones(1, 1, 1), {})
        assert out.isfinite().all()
        assert len(near) < 400
        assert part.shape[1] == len(near)


class TestTurning:
    """Intermediate features under Wigner's matrices, made from the same Euler angles as the rotation."""

    @pytest.fixture(autouse=True)
    def double(self):
        """e3nn makes its generators in the default precision."""
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)

    def turn(self, parts: Parts, inverted: bool) -> Parts:
        angles = torch.tensor(ANGLES)
        k = torch.tensor(int(inverted))
        return {ir: o3.Irrep(ir).D_from_angles(*angles, k).to(x) @ x for ir, x in parts.items()}

    def rotation(self, inverted: bool) -> Tensor:
        return o3.angles_to_matrix(*torch.tensor(ANGLES)) * (-1 if inverted else 1)

    def parts(self, irreps, atoms: int, dtype: torch.dtype) -> Parts:
        return {str(ir): normal(atoms, ir.dim, c, seed=i).to(dtype) for i, (c, ir) in enumerate(irreps)}

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("inverted", [False, True], ids=["rotation", "reflection"])
    @pytest.mark.parametrize("kind", ["linear", "square", "convolution"])
    def test_parts_turn(self, kind, inverted, dtype):
        torch.manual_seed(0)
        positions = normal(5, 3).to(dtype)
        x = self.parts(SENT, 5, dtype)
        neighbours = find(positions[None], torch.ones(1, 5, dtype=torch.bool), cutoff=3.0)
        if kind == "convolution":
            layer = Convolution(SENT, INNER, 2, 6).to(dtype)

            def apply(x: Parts, positions: Tensor) -> Parts:
                geometry = Geometry(neighbours, positions, 6, 2)
                return layer(x, geometry.edge_index, geometry.operators(positions))
        else:
            layer = (Linear(SENT, SENT) if kind == "linear" else Square(SENT, 3, INNER)).to(dtype)

            def apply(x: Parts, positions: Tensor) -> Parts:
                return layer(x)

        turned = apply(self.turn(x, inverted), positions @ self.rotation(inverted).to(dtype).T)
        expected = self.turn(apply(x, positions), inverted)
        assert set(expected) == {"linear": {"0e", "1o", "2e", "1e"}}.get(kind, {str(ir) for _, ir in INNER})
        for ir, value in expected.items():
            assert value.abs().max() > 1e-2, ir
            assert (turned[ir] - value).abs().max() < TOLERANCE[dtype] * value.abs().max(), ir

    def test_messages_are_e3nns_tensor_products_edge_by_edge(self):
        """The sum over edges first and the weights afterwards, against `FullyConnectedTensorProduct` on every edge."""
        torch.manual_seed(0)
        irreps, radial, lmax, atoms = o3.Irreps("3x0e + 2x1o + 2x2e"), 5, 2, 6
        harmonics = o3.Irreps.spherical_harmonics(lmax)
        layer = Convolution(irreps, irreps, lmax, radial)
        positions, x = normal(atoms, 3), self.parts(irreps, atoms, torch.float64)
        neighbours = find(positions[None], torch.ones(1, atoms, dtype=torch.bool))
        operators = Geometry(neighbours, positions, radial, lmax).operators(positions)
        found = layer(x, neighbours.edge_index, operators)

        product = o3.FullyConnectedTensorProduct(
            irreps, harmonics, irreps, shared_weights=False, irrep_normalization="component", path_normalization="none"
        )
        functions = operators.unflatten(-1, (-1, radial)).flatten(0, 1)  # (edges, harmonics, radial), Y_0 = 1
        weights = []
        for way in product.instructions:
            (c1, ir1), (_, ir2), (c3, ir3) = irreps[way.i_in1], harmonics[way.i_in2], irreps[way.i_out]
            reached = layer.ways[ir1, ir2]
            start = sum(irreps.count(ir) for ir in reached[: reached.index(ir3)])
            w = layer.mixes[f"{ir1} x {ir2}"].weight[start : start + c3].unflatten(1, (radial, c1))
            weights.append(torch.einsum("ek,wku->euw", functions[:, 0], w).flatten(1))
        senders, receivers = neighbours.edge_index
        flat = torch.cat([x[str(ir)].transpose(1, 2).flatten(1) for _, ir in irreps], 1)  # e3nn: components last
        # Y itself, from functions = R_k Y of the largest R_k
        largest = functions[:, 0].argmax(-1)
        rows = torch.arange(len(functions))
        y = functions[rows, :, largest] / functions[rows, 0, largest][:, None]
        messages = product(flat[senders], y, torch.cat(weights, 1))
        expected = torch.zeros(atoms, irreps.dim).index_add(0, receivers, messages)
        for (c, ir), block in zip(irreps, expected.split([c * ir.dim for c, ir in irreps], 1), strict=True):
            torch.testing.assert_close(
                found[str(ir)].transpose(1, 2).flatten(1), block.reshape(atoms, c * ir.dim), atol=1e-12, rtol=1e-12
            )
