"""The laws of every network on molecules, as checks of a factory: `law(make, dtype)` for a law of `LAWS`.

make: gives a network for `FEATURES` feature columns and `PROPERTIES`, of any small width and depth. Networks that turn
with their molecules keep those of `EQUIVARIANCE` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

FEATURES = 5
PROPERTIES = {"gap": [6.8, 1.3], "alpha": [75.0, 8.0]}
DTYPES = [torch.float32, torch.float64]
SIZES = [7, 1, 4, 2]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}

Make = Callable[[], nn.Module]
Law = Callable[[Make, torch.dtype], None]


def randomised(make: Make, dtype: torch.dtype) -> nn.Module:
    """The network in that precision, every parameter moved by noise: no output is zero because it starts so."""
    torch.manual_seed(0)
    network = make().to(dtype).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter += 0.1 / math.sqrt(fan_in) * torch.randn_like(parameter)
    return network


class Molecules:
    """Noised molecules of the given sizes, their padding zero, and what a network is told of them."""

    def __init__(self, dtype: torch.dtype, sizes: list[int] = SIZES, padding: int = 0) -> None:
        generator = torch.Generator().manual_seed(1)
        values = torch.randn(len(sizes), max(sizes), 3 + FEATURES, dtype=torch.float64, generator=generator)
        rows = torch.arange(max(sizes) + padding)
        self.mask = (rows < torch.tensor(sizes)[:, None]).to(dtype)[..., None]
        values = torch.cat([values, values.new_zeros(len(sizes), padding, 3 + FEATURES)], 1)
        self.x = values.to(dtype) * self.mask
        self.c_noise = torch.linspace(-3, 4, len(sizes), dtype=dtype)
        self.cond: dict[str, Tensor] = {
            "gap": 6.8 + torch.linspace(-2, 2, len(sizes), dtype=dtype),
            "alpha": 75 + torch.linspace(9, -9, len(sizes), dtype=dtype),
        }

    def through(self, network: nn.Module, x: Tensor | None = None, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        x, cond = self.x if x is None else x, self.cond if cond is None else cond
        return network(x, self.c_noise, self.mask, cond)


def moved(x: Tensor, positions: Callable[[Tensor], Tensor]) -> Tensor:
    """x with its positions mapped, in float64."""
    return torch.cat([positions(x[..., :3].double()).to(x.dtype), x[..., 3:]], -1)


def assert_same(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal relative to the largest value, positions and features each for itself; neither may be all but zero."""
    for part in (slice(0, 3), slice(3, None)):
        a, b = actual[..., part], expected[..., part]
        assert b.abs().max() > 1e-3, "an output of zeros says nothing"
        assert (a - b).abs().max() < TOLERANCE[dtype] * b.abs().max()


def orthogonal(determinant: int) -> Tensor:
    """A rotation (1), or one with a reflection (-1), about no special axis, in float64."""
    generator = torch.Generator().manual_seed(2)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    return q * torch.sign(torch.linalg.det(q)) * determinant


def _turns(make: Make, dtype: torch.dtype, determinant: int) -> None:
    network, molecules, q = randomised(make, dtype), Molecules(dtype), orthogonal(determinant)
    with torch.no_grad():
        turned = molecules.through(network, moved(molecules.x, lambda r: r @ q.T))
        assert_same(turned, moved(molecules.through(network), lambda r: r @ q.T), dtype)


def rotation(make: Make, dtype: torch.dtype) -> None:
    """F(Q x) = Q F(x)."""
    _turns(make, dtype, 1)


def reflection(make: Make, dtype: torch.dtype) -> None:
    _turns(make, dtype, -1)


def translation(make: Make, dtype: torch.dtype) -> None:
    """F(x + r) = F(x): the output is a velocity."""
    network, molecules = randomised(make, dtype), Molecules(dtype)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        shifted = molecules.through(network, moved(molecules.x, lambda r: r + shift) * molecules.mask)
        assert_same(shifted, molecules.through(network), dtype)


def permutation(make: Make, dtype: torch.dtype) -> None:
    """Atoms in another order give the same outputs in that order."""
    network, molecules = randomised(make, dtype), Molecules(dtype, [6, 6])
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    with torch.no_grad():
        assert_same(molecules.through(network, molecules.x[:, order]), molecules.through(network)[:, order], dtype)


def blindness_to_padding(make: Make, dtype: torch.dtype) -> None:
    """More padding, and the other molecules of the batch, change nothing; outputs in padding are exactly zero."""
    network, molecules, longer = randomised(make, dtype), Molecules(dtype), Molecules(dtype, padding=5)
    with torch.no_grad():
        out, wide = molecules.through(network), longer.through(network)
        assert_same(wide[:, : max(SIZES)], out, dtype)
        assert not wide[longer.mask.expand_as(wide) == 0].any()
        alone = torch.zeros_like(out)
        for i, size in enumerate(SIZES):
            own = slice(i, i + 1)
            cond = {name: value[own] for name, value in molecules.cond.items()}
            x, mask = molecules.x[own, :size], molecules.mask[own, :size]
            alone[own, :size] = network(x, molecules.c_noise[own], mask, cond)
        assert_same(alone, out, dtype)


def full_mask(make: Make, dtype: torch.dtype) -> None:
    """The mask of a batch without padding may be one number a molecule."""
    network, molecules = randomised(make, dtype), Molecules(dtype, [5, 5])
    with torch.no_grad():
        one = network(molecules.x, molecules.c_noise, torch.ones(2, 1, 1, dtype=dtype), molecules.cond)
        assert_same(one, molecules.through(network), dtype)


def smallest(make: Make, dtype: torch.dtype) -> None:
    """One and two atoms are molecules too."""
    network = randomised(make, dtype)
    for size in (1, 2):
        molecules = Molecules(dtype, [size] * 3)
        out = molecules.through(network)
        out.square().sum().backward()
        assert out.shape == molecules.x.shape
        assert out.isfinite().all()
        assert out[..., 3:].abs().max() > 1e-3
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def coincident_atoms(make: Make, dtype: torch.dtype) -> None:
    """Atoms on one place: outputs and gradients stay finite."""
    network, molecules = randomised(make, dtype), Molecules(dtype)
    x = molecules.x.clone()
    x[0, 1, :3] = x[0, 0, :3]
    x[2, ..., :3] = 0
    x.requires_grad_()
    out = molecules.through(network, x)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def dropped_conditions(make: Make, dtype: torch.dtype) -> None:
    """A molecule whose conditions are dropped is one that has none; the others hear theirs."""
    network, molecules = randomised(make, dtype), Molecules(dtype, [5, 5])
    drop = torch.tensor([True, False])
    with torch.no_grad():
        some = molecules.through(network, cond={**molecules.cond, "drop": drop})
        absent, told = molecules.through(network, cond={}), molecules.through(network)
    assert_same(some[:1], absent[:1], dtype)
    assert_same(some[1:], told[1:], dtype)
    for part in (slice(0, 3), slice(3, None)):
        assert (told - absent)[..., part].abs().max() > 1e-3 * told[..., part].abs().max()


def noise_level_and_elements(make: Make, dtype: torch.dtype) -> None:
    """The noise level and the features change both parts of the output."""
    network, molecules = randomised(make, dtype), Molecules(dtype, [5, 5])
    with torch.no_grad():
        out = molecules.through(network)
        noisier = network(molecules.x, molecules.c_noise + 2, molecules.mask, molecules.cond)
        other = molecules.x.clone()
        other[..., 3:] = other[..., 3:].roll(1, -1)
        for changed in (noisier, molecules.through(network, other)):
            for part in (slice(0, 3), slice(3, None)):
                assert (changed - out)[..., part].abs().max() > 1e-3 * out[..., part].abs().max()


def kept_atoms(make: Make, dtype: torch.dtype) -> None:
    """Atoms are told that they stay: each its own flag, in any order; without one kept it is as if nothing was said."""
    network, molecules = randomised(make, dtype), Molecules(dtype, [6, 6])
    keep, order = torch.tensor([1, 1, 0, 0, 0, 1]).to(dtype).repeat(2, 1)[..., None], torch.tensor([4, 1, 5, 0, 3, 2])
    assert network.kept is True
    with torch.no_grad():
        told = molecules.through(network, cond={**molecules.cond, "keep": keep})
        swapped = molecules.through(network, molecules.x[:, order], {**molecules.cond, "keep": keep[:, order]})
        none = molecules.through(network, cond={**molecules.cond, "keep": torch.zeros_like(keep)})
        plain = molecules.through(network)
    assert_same(swapped, told[:, order], dtype)
    assert_same(none, plain, dtype)
    for part in (slice(0, 3), slice(3, None)):
        assert (told - plain)[..., part].abs().max() > 1e-3 * told[..., part].abs().max()


LAWS: list[Law] = [
    kept_atoms,
    permutation,
    blindness_to_padding,
    full_mask,
    smallest,
    coincident_atoms,
    dropped_conditions,
    noise_level_and_elements,
]
EQUIVARIANCE: list[Law] = [rotation, reflection, translation]
