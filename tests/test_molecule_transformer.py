"""Laws of the transformer over atoms: all but turning, which it learns from turned molecules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from molecule_laws import (
    DTYPES,
    FEATURES,
    LAWS,
    PROPERTIES,
    Molecules,
    assert_same,
    moved,
    orthogonal,
    randomised,
    translation,
)
from omegaconf import OmegaConf
from torch import nn

import configs
from core.layers.attention import SelfAttention
from modalities.molecules.transformer import MoleculeTransformer

BIASES = {"biased": {}, "plain": {"radial": 0}}


def small(**options) -> MoleculeTransformer:
    sizes = {"width": 16, "depth": 2, "heads": 2, "waves": 3, "radial": 4}
    return MoleculeTransformer(FEATURES, PROPERTIES, kept=True, **{**sizes, **options})


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", [*LAWS, translation], ids=lambda law: law.__name__)
@pytest.mark.parametrize("bias", BIASES)
def test_laws(law, bias, dtype):
    law(lambda: small(**BIASES[bias]), dtype)


def test_the_config_builds_a_network_that_starts_at_zero():
    config = OmegaConf.load(Path(next(iter(configs.__path__))) / "network" / "transformer.yaml")
    network = instantiate(OmegaConf.merge(config, {"features": FEATURES, "properties": {}, "scale": 1.4, "kept": True}))
    assert count(network) < 3e6
    assert not Molecules(torch.float32).through(network).any()


@pytest.mark.parametrize("bias", BIASES)
def test_every_parameter_learns(bias):
    network, molecules = randomised(lambda: small(**BIASES[bias]), torch.float64), Molecules(torch.float64)
    molecules.through(network, cond={**molecules.cond, "keep": molecules.mask}).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_at_first_the_output_alone_learns():
    network, molecules = small(), Molecules(torch.float32)
    molecules.through(network, cond={"keep": molecules.mask}).add(1).square().sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad.any()} == {"out.weight", "out.bias"}


def test_turning_is_not_built_in():
    network, molecules, q = randomised(small, torch.float64), Molecules(torch.float64), orthogonal(1)
    turned = molecules.through(network, moved(molecules.x, lambda r: r @ q.T))
    expected = moved(molecules.through(network), lambda r: r @ q.T)
    assert (turned - expected).abs().max() > 1e-3 * expected.abs().max()


def test_the_scale_is_that_of_its_waves_and_distances():
    """The positions enter in angstrom: one unit of scale 2 is two of scale 1."""
    network, molecules = randomised(small, torch.float64), Molecules(torch.float64)
    out = molecules.through(network)
    network.scale = 2.0
    halved = molecules.through(network, moved(molecules.x, lambda r: r / 2))
    assert_same(halved, out, torch.float64)


def test_the_bias_is_of_a_head_and_a_pair_and_adds_to_the_hiding_of_padding():
    torch.manual_seed(0)
    attention, x = SelfAttention(8, 2).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(attention(x, bias=torch.zeros(2, 2, 5, 5, dtype=torch.float64)), attention(x))
    real, bias = torch.arange(5) < 3, torch.zeros(2, 2, 5, 5, dtype=torch.float64)
    hiding = bias.masked_fill(~real, -torch.inf)
    torch.testing.assert_close(attention(x, bias=hiding)[:, :3], attention(x[:, :3]))
    torch.testing.assert_close(attention(x, real.expand(2, -1), bias), attention(x, real.expand(2, -1)))


@pytest.mark.parametrize(
    "wrong", [{"depth": 0}, {"waves": -1}, {"radial": 1}, {"scale": 0.0}, {"heads": 3}], ids=lambda w: next(iter(w))
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        small(**wrong)
