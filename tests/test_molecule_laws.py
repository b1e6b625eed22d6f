"""The laws of networks on molecules can fail: each catches a network that breaks it, in both precisions."""

from __future__ import annotations

from collections.abc import Callable

import molecule_laws as laws
import pytest
import torch
from molecule_laws import DTYPES, FEATURES, PROPERTIES, Law
from torch import Tensor, nn

from modalities.molecules.factored import Factored

Break = Callable[[Callable[..., Tensor], Tensor, Tensor, Tensor, dict[str, Tensor]], Tensor]


class Broken(nn.Module):
    def __init__(self, wrong: Break) -> None:
        super().__init__()
        self.network = Factored(FEATURES, PROPERTIES, width=8, depth=2, vectors=4, radial=4, kept=True)
        self.wrong, self.kept = wrong, True

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.wrong(self.network, x, c_noise, mask, cond)


def sees_an_axis(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, cond) + 1e-3 * x[..., :1] * mask


def sees_a_hand(network, x, c_noise, mask, cond):
    """A sign that only a reflection changes, of the first three atoms."""
    out = network(x, c_noise, mask, cond)
    side = torch.linalg.det(x[:, 1:4, :3] - x[:, :1, :3]) if x.shape[1] > 3 else x.new_zeros(len(x))
    return out + 1e-3 * side[:, None, None].tanh() * mask


def sees_the_place(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, cond) + 1e-3 * x[..., :3].norm(dim=-1, keepdim=True) * mask


def sees_the_order(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, cond) + 1e-3 * torch.arange(x.shape[1])[:, None] * mask


def sees_the_padding(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, cond) + 1e-3 * x.shape[1] * mask


def fills_the_padding(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, cond) + 1e-3


def counts_the_mask(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, cond) + 1e-3 * mask.sum((1, 2), keepdim=True) * mask


def divides_by_the_others(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, cond) / (mask.sum(1, keepdim=True) - 1)


def divides_by_distances(network, x, c_noise, mask, cond):
    others = torch.eye(x.shape[1]) == 0
    nearest = torch.cdist(x[..., :3], x[..., :3])[:, others].reshape(*x.shape[:2], -1).amin(-1)
    return network(x, c_noise, mask, cond) / nearest[..., None]


def never_drops(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, {name: value for name, value in cond.items() if name != "drop"})


def hears_not_what_is_kept(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, {name: value for name, value in cond.items() if name != "keep"})


def hears_no_condition(network, x, c_noise, mask, cond):
    return network(x, c_noise, mask, {})


def hears_no_noise_level(network, x, c_noise, mask, cond):
    return network(x, torch.zeros_like(c_noise), mask, cond)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("law", "wrong"),
    [
        (laws.rotation, sees_an_axis),
        (laws.reflection, sees_a_hand),
        (laws.translation, sees_the_place),
        (laws.permutation, sees_the_order),
        (laws.blindness_to_padding, sees_the_padding),
        (laws.blindness_to_padding, fills_the_padding),
        (laws.full_mask, counts_the_mask),
        (laws.smallest, divides_by_the_others),
        (laws.coincident_atoms, divides_by_distances),
        (laws.kept_atoms, hears_not_what_is_kept),
        (laws.kept_atoms, sees_the_order),
        (laws.dropped_conditions, never_drops),
        (laws.dropped_conditions, hears_no_condition),
        (laws.noise_level_and_elements, hears_no_noise_level),
    ],
)
def test_a_broken_network_is_caught(law: Law, wrong: Break, dtype: torch.dtype) -> None:
    with pytest.raises(AssertionError):
        law(lambda: Broken(wrong), dtype)


def test_every_law_is_among_them() -> None:
    marks = next(mark for mark in test_a_broken_network_is_caught.pytestmark if mark.args[0] == ("law", "wrong"))
    assert {law for law, _ in marks.args[1]} == {*laws.LAWS, *laws.EQUIVARIANCE}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", laws.LAWS + laws.EQUIVARIANCE, ids=lambda law: law.__name__)
def test_the_same_network_unbroken_keeps_them(law: Law, dtype: torch.dtype) -> None:
    law(lambda: Broken(lambda network, *arguments: network(*arguments)), dtype)
