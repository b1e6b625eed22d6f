"""Laws of the image denoisers, and the sizes of the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import configs
from modalities.image.dit import DiT, positions
from modalities.image.unet import UNet2d

MNIST = {"channels": 1, "num_classes": 10}
SMALL = {
    "unet2d": lambda **options: UNet2d(1, 10, (8, 16), patch_size=2, groups=4, **options),
    "dit": lambda **options: DiT(1, 10, width=16, depth=2, heads=2, patch_size=4, **options),
}


def build(name: str, **facts) -> nn.Module:
    config = OmegaConf.load(Path(next(iter(configs.__path__))) / "network" / f"{name}.yaml")
    return instantiate(OmegaConf.merge(config, facts))


def randomise(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def inputs(size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, size, size, generator=generator)
    return x, torch.tensor([-20.0, 20.0]), torch.ones(2, 1, 1, 1), {"label": torch.tensor([3, 9])}


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "expected"), [("ddpm_cifar10", 35_746_307), ("iddpm_cifar10", 52_546_438)])
def test_published_networks_have_the_published_size(name, expected):
    network = build(name)
    assert size(network) == expected
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        out = network(x, torch.tensor([999.0]), torch.ones(1, 1, 1, 1), {})
    assert out.shape == (1, 6 if name == "iddpm_cifar10" else 3, 32, 32)
    assert out.abs().max() == 0
    assert network.body.stride == 8


def test_dit_s_2_has_the_published_size():
    # Table 1 of Peebles & Xie: 33 million; 1000 classes, 4 latent channels, learned variance
    dit = build("dit", channels=4, num_classes=1000, width=384, depth=12, heads=6, patch_size=2, learned_variance=True)
    assert round(size(dit) / 1e6) == 33


@pytest.mark.parametrize("name", ["unet2d", "dit"])
def test_defaults_are_small_take_mnist_and_start_at_zero(name):
    network = build(name, **MNIST)
    x, c_noise, mask, cond = inputs(28)
    assert 5e5 < size(network) < 1.5e6
    assert network(x, c_noise, mask, cond).shape == x.shape
    assert network(x, c_noise, mask, cond).abs().max() == 0


@pytest.mark.parametrize("name", SMALL)
class TestNetwork:
    def test_full_masks_are_equal_however_written(self, name):
        network, (x, c_noise, mask, cond) = randomise(SMALL[name]()), inputs()
        expected = network(x, c_noise, mask, cond)
        assert expected.std() > 0.01
        torch.testing.assert_close(network(x, c_noise, torch.ones_like(x), cond), expected, atol=1e-5, rtol=1e-5)

    def test_padding_changes_nothing(self, name):
        network, (x, c_noise, mask, cond) = randomise(SMALL[name]()), inputs()
        canvas, real = 5 * torch.ones(2, 1, 16, 12), torch.zeros(2, 1, 16, 12)
        canvas[..., :8, :8], real[..., :8, :8] = x, 1
        out = network(canvas, c_noise, real, cond)
        torch.testing.assert_close(out[..., :8, :8], network(x, c_noise, mask, cond), atol=1e-5, rtol=1e-5)

    def test_dropped_labels_are_missing_labels(self, name):
        network, (x, c_noise, mask, cond) = randomise(SMALL[name]()), inputs()
        dropped = network(x, c_noise, mask, {**cond, "drop": torch.tensor([True, True])})
        missing, labelled = network(x, c_noise, mask, {}), network(x, c_noise, mask, cond)
        assert torch.equal(dropped, missing)
        assert (labelled - missing).abs().max() > 1e-3

    def test_samples_do_not_see_each_other(self, name):
        network, (x, c_noise, mask, cond) = randomise(SMALL[name]()), inputs()
        alone = network(x[:1], c_noise[:1], mask[:1], {"label": cond["label"][:1]})
        torch.testing.assert_close(network(x, c_noise, mask, cond)[:1], alone, atol=1e-5, rtol=1e-5)

    def test_learned_variance_doubles_the_channels(self, name):
        x, c_noise, mask, cond = inputs()
        assert SMALL[name](learned_variance=True)(x, c_noise, mask, cond).shape == (2, 2, 8, 8)

    def test_activation_checkpointing_gives_the_same_gradients(self, name):
        network, batch = randomise(SMALL[name]()).train(), inputs()
        gradients = []
        for checkpoint in (False, True):
            getattr(network, "body", network).checkpoint = checkpoint
            gradients.append(torch.autograd.grad(network(*batch).square().mean(), list(network.parameters())))
        for plain, recomputed in zip(*gradients, strict=True):
            torch.testing.assert_close(recomputed, plain, atol=0, rtol=0)

    def test_size_that_does_not_divide_is_refused(self, name):
        _, c_noise, mask, cond = inputs()
        with pytest.raises(ValueError, match="not a multiple of the network's stride 4"):
            SMALL[name]()(torch.randn(2, 1, 10, 8), c_noise, mask, cond)


def test_positions_of_the_transformer_are_distinct_and_stay_when_the_grid_grows():
    small, large = positions(4, 5, 16), positions(6, 7, 16)
    assert torch.cdist(small, small).add(10 * torch.eye(20)).min() > 0.1
    torch.testing.assert_close(large.unflatten(0, (6, 7))[:4, :5].flatten(0, 1), small)
