"""The graph network on all pairs: its laws, its factored layer, and the reference network of E(3) diffusion."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from molecule_laws import (
    DTYPES,
    EQUIVARIANCE,
    FEATURES,
    LAWS,
    PROPERTIES,
    Law,
    Molecules,
    dropped_conditions,
    randomised,
)
from omegaconf import OmegaConf
from runs import ROOT
from torch import nn

from core.config import instantiate
from modalities.molecules.egnn import Egnn, Geometry, PairLinear, StepTime


def default() -> Egnn:
    return Egnn(FEATURES, PROPERTIES, width=32, depth=2, kept=True)


def reference() -> Egnn:
    """E(3) diffusion's, smaller, and of ten steps."""
    settings = {"radial": 0, "norm": False, "reach": 15, "context": StepTime(10), "spare": 1}
    return Egnn(FEATURES, {}, width=32, depth=3, kept=True, **settings)


def other() -> Egnn:
    """The other value of each option."""
    settings = {"scale": 1.4, "radial": 0, "attention": False, "reach": 8, "neighbours": 18}
    return Egnn(FEATURES, PROPERTIES, width=32, depth=2, kept=True, **settings)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", LAWS + EQUIVARIANCE, ids=lambda law: law.__name__)
@pytest.mark.parametrize("make", [default, reference, other])
def test_law(make, law: Law, dtype: torch.dtype) -> None:
    if law is dropped_conditions and make is reference:
        pytest.skip("it has no conditions")
    law(make, dtype)


def test_the_factored_layer_is_one_on_the_concatenated_pair() -> None:
    torch.manual_seed(0)
    layer, h, features = PairLinear(32, 4), torch.randn(3, 7, 32), torch.randn(3, 7, 7, 4)
    pairs = torch.cat([h[:, :, None].expand(-1, -1, 7, -1), h[:, None].expand(-1, 7, -1, -1), features], -1)
    expected = F.linear(pairs, layer.weight, layer.bias)
    torch.testing.assert_close(layer(h, features), expected, atol=1e-6, rtol=0)


def test_a_layer_is_that_of_the_papers_pair_by_pair() -> None:
    """Hoogeboom et al. 2022, eq. 12 and appendix B: m_ij, e_ij, then h_i and x_i of the sums, each written out."""
    n, width, silu = 5, 8, F.silu
    egnn = randomised(lambda: Egnn(FEATURES, {}, width=width, depth=3, radial=0, norm=False, reach=15), torch.float64)
    layer, h = egnn.layers[0], torch.randn(1, n, width, dtype=torch.float64)
    x, x_0 = torch.randn(2, 1, n, 3, dtype=torch.float64)
    pairs, mask = Geometry(x, 0), torch.tensor([1.0, 1, 1, 1, 0]).double()
    weight = (mask[:, None] * mask * (1 - torch.eye(n)))[None]
    features = torch.cat([pairs.features, Geometry(x_0, 0).features], -1)
    new_h, new_x = layer(h, x, pairs.direction, features, weight)

    def edge(network: nn.Module, h: torch.Tensor, i: int, j: int) -> torch.Tensor:
        square, square_0 = ((y[0, i] - y[0, j]).square().sum() for y in (x, x_0))
        pair = torch.cat([h[i], h[j], torch.stack([square, square_0])])
        return silu(network.second(silu(network.first.weight @ pair + network.first.bias)))

    expected_h, expected_x = h[0].clone(), x[0].clone()
    for i in range(n - 1):
        messages = [edge(layer.message, h[0], i, j) for j in range(n - 1) if j != i]
        received = sum(layer.gate(m).sigmoid() * m for m in messages)
        expected_h[i] += layer.node(torch.cat([h[0, i], received]))
    for i in range(n - 1):
        for j in range(n - 1):
            difference = x[0, i] - x[0, j]
            pull = layer.strength(edge(layer.pull, expected_h, i, j)).tanh() * 15 / 3
            expected_x[i] += difference / (difference.norm() + 1) * pull
    torch.testing.assert_close(new_h[0, :-1], expected_h[:-1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(new_x[0], expected_x, rtol=1e-6, atol=1e-7)  # a distance is the root of d^2 + 1e-8


def network(name: str, **facts: object) -> nn.Module:
    with torch.device("meta"):  # counts without allocating
        return instantiate(OmegaConf.load(ROOT / "configs" / "network" / f"{name}.yaml"), **facts)


def test_the_reference_network_has_the_published_size() -> None:
    assert sum(p.numel() for p in network("edm_qm9").parameters()) == 5_339_920


def test_radial_functions_peak_one_after_the_other() -> None:
    """Function k is 1 where sqrt(d) is its centre, and exp(-1/2) at the two centres beside it."""
    centres = torch.linspace(0.6, 2.8, 16, dtype=torch.float64)
    positions = torch.zeros(16, 2, 3, dtype=torch.float64)
    positions[:, 1, 0] = centres**2
    features = Geometry(positions, 16).features[:, 0, 1]
    torch.testing.assert_close(features.diagonal(), torch.ones_like(centres))
    torch.testing.assert_close(features.diagonal(1), torch.full_like(centres[1:], math.exp(-0.5)), rtol=1e-6, atol=0)
    torch.testing.assert_close(features, features.T, rtol=1e-6, atol=1e-9)


def test_no_atom_is_moved_further_than_its_reach() -> None:
    torch.manual_seed(0)
    egnn, molecules = Egnn(FEATURES, depth=3, reach=6, neighbours=2), Molecules(torch.float32, [2, 2])
    with torch.no_grad():
        for layer in egnn.layers:
            layer.strength.weight += 1e4 * torch.randn_like(layer.strength.weight)
    moves = molecules.through(egnn, cond={})[..., :3].norm(dim=-1)
    assert 0.2 < moves.max() <= 6 / 2


def test_the_scale_is_that_of_distances() -> None:
    """Twice the scale on half the positions is the same molecule: its velocity is halved, its features are not."""
    molecules, outputs = Molecules(torch.float64), []
    for scale, factor in ((1.5, 1.0), (3.0, 0.5)):
        egnn = randomised(lambda scale=scale: Egnn(FEATURES, PROPERTIES, width=16, scale=scale), torch.float64)
        x = torch.cat([molecules.x[..., :3] * factor, molecules.x[..., 3:]], -1)
        out = molecules.through(egnn, x)
        outputs.append(torch.cat([out[..., :3] / factor, out[..., 3:]], -1))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)


def test_the_step_becomes_the_time_of_the_paper() -> None:
    told = StepTime(1000)(torch.tensor([0.0, 499.0, 999.0]), torch.ones(3, 1, 1), {})
    torch.testing.assert_close(told, torch.tensor([[0.001], [0.5], [1.0]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "depth=0"),
        ({"radial": 1}, "radial=1"),
        ({"scale": 0.0}, r"scale=0\.0"),
        ({"neighbours": -1.0}, r"neighbours=-1\.0"),
        ({"properties": PROPERTIES, "context": StepTime()}, r"properties=\['gap', 'alpha'\]"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Egnn(FEATURES, **settings)


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 7\); this network wants \(batch, atoms, 8\)"):
        Egnn(FEATURES)(torch.zeros(2, 4, 7), torch.zeros(2), torch.ones(2, 4, 1), {})
