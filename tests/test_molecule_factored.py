"""The default network of molecules: its laws, and its messages against plain loops over pairs."""

from __future__ import annotations

import pytest
import torch
from molecule_laws import DTYPES, EQUIVARIANCE, FEATURES, LAWS, PROPERTIES, Law

from modalities.molecules.factored import SOFTENING, Factored, Layer, radial_operators
from modalities.molecules.radial import FIRST, LAST


def small() -> Factored:
    return Factored(FEATURES, PROPERTIES, scale=1.4, width=16, depth=3, vectors=8, radial=6, kept=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", LAWS + EQUIVARIANCE, ids=lambda law: law.__name__)
def test_law(law: Law, dtype: torch.dtype) -> None:
    law(small, dtype)


def test_messages_are_sums_over_the_other_atoms() -> None:
    torch.manual_seed(0)
    k, s, c, n = 5, 3, 2, 4
    layer = Layer(8, 6, k, s, c).double()
    positions, mask = torch.randn(1, n, 3).double(), torch.ones(1, n, 1).double()
    h, v = torch.randn(1, n, 8).double(), torch.randn(1, n, 3, 6).double()
    first = positions.permute(2, 0, 1)  # the coordinates' axis
    heard, pointed, passed = layer._messages(h, v.permute(2, 0, 1, 3), radial_operators(first, mask, k), first)
    sent, transported = layer.send(h).reshape(n, k, s + c), layer.transport(v).reshape(n, 3, k, c)
    centres, width = torch.linspace(FIRST, LAST, k, dtype=torch.float64), (LAST - FIRST) / (k - 1)
    for i in range(n):
        a, w, t = (torch.zeros(*shape).double() for shape in ((k, s), (3, k, c), (3, k, c)))
        for j in range(n):
            if i == j:
                continue
            apart = positions[0, i] - positions[0, j]
            d = apart.norm()
            g = torch.exp(-0.5 * ((d.sqrt() - centres) / width) ** 2)
            g = g * (centres**2 + SOFTENING) / (d + SOFTENING)
            a += g[:, None] * sent[j, :, :s]
            w += apart[:, None, None] * (g[:, None] * sent[j, :, s:])
            t += g[:, None] * transported[j]
        torch.testing.assert_close(heard[0, i], a.flatten(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(pointed[:, 0, i], w.flatten(1), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(passed[:, 0, i], t.flatten(1), atol=1e-6, rtol=1e-5)


def test_the_derivative_of_the_radial_operators() -> None:
    """Its closed form, and that of the second derivative, against differences."""
    positions = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.float64)[..., None]
    assert torch.autograd.gradcheck(lambda x: radial_operators(x, mask, 5), positions)
    assert torch.autograd.gradgradcheck(lambda x: radial_operators(x, mask, 5), positions)


def test_it_begins_at_zero() -> None:
    x, mask = torch.randn(2, 5, 3 + FEATURES), torch.ones(2, 5, 1)
    assert not small()(x, torch.zeros(2), mask, {}).any()


def test_layers_see_the_molecule_where_the_last_ones_moved_it() -> None:
    """What the first layer adds to the positions changes what the later ones do, through the geometry too."""
    torch.manual_seed(1)
    network = small()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, mask, level = torch.randn(1, 5, 3 + FEATURES), torch.ones(1, 5, 1), torch.zeros(1)
    before = network(x, level, mask, {})
    with torch.no_grad():
        network.refine[-1].weight.zero_()
        network.refine[-1].bias.zero_()
    assert (network(x, level, mask, {}) - before).abs().max() > 1e-4
