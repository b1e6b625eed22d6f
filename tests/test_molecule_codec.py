"""Molecules <-> diffusion coordinates, and the decoder's likelihood of elements and positions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from core.batch import Batch
from core.space import ZeroCentreOfMass
from modalities.molecules.codec import Atoms

ELEMENTS = ["H", "C", "O"]


def molecules(sizes: tuple[int, ...] = (4, 2, 1), dtype: torch.dtype = torch.float32) -> Batch:
    torch.manual_seed(0)
    n = max(sizes)
    mask = (torch.arange(n) < torch.tensor(sizes)[:, None]).to(dtype)[..., None]
    one_hot = torch.nn.functional.one_hot(torch.randint(3, (len(sizes), n)), 3).to(dtype)
    x = torch.cat([torch.randn(len(sizes), n, 3, dtype=dtype) + 5, one_hot], -1)
    return Batch(x * mask, mask)


@pytest.mark.parametrize("charges", [False, True])
def test_decode_inverts_encode_but_for_the_place(charges: bool) -> None:
    batch, codec = molecules(), Atoms(ELEMENTS, charges=charges)
    z = codec.encode(batch)
    assert z.x.shape[-1] == 6 + charges
    torch.testing.assert_close(ZeroCentreOfMass(3).project(z.x, z.mask), z.x, atol=1e-5, rtol=0)
    back = codec.decode(z)
    assert torch.equal(back.x[..., 3:], batch.x[..., 3:])
    centre = batch.x[..., :3].sum(1, keepdim=True) / batch.mask.sum(1, keepdim=True)
    torch.testing.assert_close(back.x[..., :3], (batch.x[..., :3] - centre) * batch.mask, atol=1e-5, rtol=0)


def test_the_last_column_is_a_tenth_of_the_atomic_number() -> None:
    z = Atoms(ELEMENTS, charges=True).encode(molecules())
    tenth = torch.tensor([0.1, 0.6, 0.8])[z.x[..., 3:6].argmax(-1)] * z.mask[..., 0]
    torch.testing.assert_close(z.x[..., -1], tenth)


def test_noise_decodes_to_some_element_and_padding_to_none() -> None:
    batch, codec = molecules(), Atoms(ELEMENTS)
    y = codec.decode(batch.with_x(torch.randn_like(batch.x)))
    assert torch.equal(y.x[..., 3:].sum(-1), batch.mask[..., 0])
    assert not y.x[(batch.mask == 0).expand_as(y.x)].any()


@pytest.mark.parametrize("std", [0.02, 0.1, 0.6])
def test_the_elements_of_an_atom_have_a_distribution(std: float) -> None:
    """A single atom has no free position: its likelihood is that of its element, which sums to one."""
    codec, mask = Atoms(ELEMENTS), torch.ones(3, 1, 1, dtype=torch.float64)
    x = torch.cat([torch.zeros(3, 1, 3), torch.eye(3)[:, None]], -1).double()
    z = codec.encode(Batch(x, mask))
    mean = torch.tensor([0, 0, 0, 0.1, 0.2, -0.05], dtype=torch.float64).expand(3, 1, 6)
    log_p = codec.log_prob(z, mean, torch.tensor(std**2), torch.full((3,), 3.0))
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-9)
    assert log_p[1] == log_p.max(), "the element with the highest score is the likeliest"


def test_positions_have_the_density_of_their_subspace() -> None:
    """Against a multivariate normal in an orthonormal basis of the positions without a centre."""
    codec, batch, n, var = Atoms(["C"]), molecules((4,), torch.float64), 4, 0.3
    x = torch.cat([batch.x[..., :3], torch.ones(1, n, 1, dtype=torch.float64)], -1)
    z = codec.encode(Batch(x, batch.mask))
    mean = ZeroCentreOfMass(3).project(z.x + 0.2 * torch.randn_like(z.x), z.mask)
    log_p = codec.log_prob(z, mean, torch.tensor(var, dtype=torch.float64), torch.zeros(1))
    basis = torch.linalg.svd(torch.eye(n, dtype=torch.float64) - 1 / n)[0][:, : n - 1]
    offset = (basis.T @ (z.x - mean)[0, :, :3]).flatten()
    normal = MultivariateNormal(torch.zeros(9, dtype=torch.float64), var * torch.eye(9, dtype=torch.float64))
    assert float(log_p) == pytest.approx(float(normal.log_prob(offset)), abs=1e-9)


def test_padding_has_no_part_in_the_likelihood() -> None:
    codec, batch = Atoms(ELEMENTS, charges=True), molecules((3,), torch.float64)
    wide = Batch(*(torch.cat([value, value.new_zeros(1, 2, value.shape[-1])], 1) for value in (batch.x, batch.mask)))
    one, other = codec.encode(batch), codec.encode(wide)
    noise = 0.1 * torch.randn_like(one.x)
    padded_noise = torch.cat([noise, noise.new_zeros(1, 2, noise.shape[-1])], 1)
    var, dim = torch.tensor(0.05), torch.zeros(1)
    a, b = codec.log_prob(one, one.x + noise, var, dim), codec.log_prob(other, other.x + padded_noise, var, dim)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", [{}, {"scale": 0.5}, {"charges": True}])
def test_other_parts_are_told_its_columns(options: dict[str, object]) -> None:
    """Their number, and their standard deviations where all elements are as frequent and positions have unit ones."""
    torch.manual_seed(0)
    one_hot = torch.eye(3)[torch.arange(3000) % 3].reshape(100, 30, 3)
    codec = Atoms(ELEMENTS, **options)
    z = codec.encode(Batch(torch.cat([torch.randn(100, 30, 3), one_hot], -1), torch.ones(100, 30, 1))).x
    facts = codec.facts({"scale": 1.0})
    assert z.shape[-1] == 3 + facts["features"] == len(facts["sigma_data"]) == len(facts["factors"])
    rms = z.square().mean((0, 1)).sqrt()
    torch.testing.assert_close(rms, torch.tensor(facts["sigma_data"]), atol=0.02, rtol=0.02)


def test_trimming_cuts_what_is_padding_in_all() -> None:
    batch, codec = molecules((2, 3)), Atoms(ELEMENTS)
    wide = Batch(torch.cat([batch.x, torch.zeros(2, 4, 6)], 1), torch.cat([batch.mask, torch.zeros(2, 4, 1)], 1))
    trimmed = codec.trim(wide)
    assert torch.equal(trimmed.x, batch.x)
    assert torch.equal(trimmed.mask, batch.mask)


def test_wrong_elements_are_named() -> None:
    from core.errors import UserError

    with pytest.raises(UserError, match="unknown element 'Xx'"):
        Atoms(["C", "Xx"])
    with pytest.raises(UserError, match="each once"):
        Atoms(["C", "C"])
    with pytest.raises(ValueError, match="scale=0"):
        Atoms(["C"], scale=0)
