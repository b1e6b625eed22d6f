"""Laws of the shared blocks: masks change nothing real, attention is attention, patches come back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.layers.attention import SelfAttention, SpatialAttention
from core.layers.blocks import Style
from core.layers.embedding import ConditionEmbedding, Conditions, LogSnrFeatures, StepFeatures
from core.layers.init import glorot, zero
from core.layers.masks import masked, pool_mask, spatial_mask
from core.layers.norm import GroupNorm
from core.layers.patches import patchify, unpatchify
from core.layers.unet import UNet

SIZES = {1: (16,), 2: (8, 12)}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights away from their zeros, so that every branch shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def full(x: torch.Tensor) -> torch.Tensor:
    return x.new_ones(x.shape[0], *[1] * (x.ndim - 1))


def padded(x: torch.Tensor, amount: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x in a canvas larger by `amount` at the end of each spatial axis, junk in the padding, and its mask."""
    size = [length + amount for length in x.shape[2:]]
    canvas, mask = 5 + torch.randn(*x.shape[:2], *size), torch.zeros(x.shape[0], 1, *size)
    real = (..., *(slice(length) for length in x.shape[2:]))
    canvas[real], mask[real] = x, 1
    return canvas, mask


def crop(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return x[(..., *(slice(length) for length in like.shape[2:]))]


def body(dims: int, **options) -> UNet:
    style = {name: options.pop(name) for name in ("film", "asymmetric", "dropout") if name in options}
    options = {"blocks": 1, "attention": (1,), **options}
    return UNet(3, 3, (8, 16), Style(dims, embedding=8, groups=4, **style), **options)


@pytest.mark.parametrize("dims", [1, 2])
def test_masked_group_norm_is_group_norm_of_the_real_part(dims):
    torch.manual_seed(0)
    norm = randomise(GroupNorm(4, 8))
    x = 3 + torch.randn(2, 8, *SIZES[dims])
    canvas, mask = padded(x, 4)
    torch.testing.assert_close(crop(norm(canvas, mask), x), norm(x, full(x)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm(x, torch.ones_like(x[:, :1])), norm(x, full(x)), atol=1e-5, rtol=1e-5)
    reference = nn.functional.group_norm(x, 4, norm.weight, norm.bias)
    assert torch.equal(norm(x, full(x)), reference)


def test_masked_group_norm_in_half_precision_keeps_dtype_and_stays_close():
    x = 3 + torch.randn(2, 8, 64)
    norm, mask = GroupNorm(4, 8), torch.ones(2, 1, 64)
    half = norm(x.bfloat16(), mask)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), norm(x, mask), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("heads", [{"heads": 2}, {"head_width": 4}])
def test_attention_is_an_explicit_softmax(heads):
    torch.manual_seed(0)
    attention = SelfAttention(8, **heads).eval()
    x, real = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]]).bool()
    query, key, value = attention.qkv(x).reshape(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    logits = (query @ key.transpose(-1, -2) / 4**0.5).masked_fill(~real[:, None, None], -torch.inf)
    expected = attention.out((logits.softmax(-1) @ value).transpose(1, 2).reshape(2, 5, 8))
    torch.testing.assert_close(attention(x, real), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention(x, torch.ones_like(real)), attention(x), atol=1e-5, rtol=1e-5)


def test_spatial_attention_does_not_attend_to_padding():
    torch.manual_seed(0)
    attention, x = randomise(SpatialAttention(8, 4, 1e-5, heads=2)), torch.randn(2, 8, 4, 4)
    canvas, mask = padded(x, 3)
    torch.testing.assert_close(crop(attention(canvas, mask), x), attention(x, full(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_are_pixel_unshuffle_and_come_back(patch):
    x = torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(patchify(x, patch), nn.functional.pixel_unshuffle(x, patch), atol=0, rtol=0)
    for data in (x, torch.randn(2, 3, 16)):
        assert torch.equal(unpatchify(patchify(data, patch), patch), data)


def test_a_cell_is_real_if_any_of_its_positions_is():
    mask = torch.tensor([[[1.0, 1, 1, 0, 0, 0]]])
    assert pool_mask(mask, 2).tolist() == [[[1, 1, 0]]]
    assert pool_mask(torch.ones(1, 1, 1), 2).shape == (1, 1, 1)


def test_spatial_mask_broadcasts_over_positions_but_refuses_channels():
    x = torch.randn(2, 3, 4, 6)
    assert spatial_mask(torch.ones(2, 1, 1, 6), x).shape == (2, 1, 4, 6)
    with pytest.raises(ValueError, match="every channel"):
        spatial_mask(torch.ones(2, 3, 4, 6), x)
    assert masked(x, full(x)) is x


def test_step_features_are_ho_et_als():
    step = torch.tensor([0.0, 1, 999])
    features = StepFeatures(128)(step)
    frequencies = torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(64) / 63)
    angle = step[:, None] * frequencies
    torch.testing.assert_close(features, torch.cat((angle.sin(), angle.cos()), 1), atol=1e-3, rtol=0)
    torch.testing.assert_close(StepFeatures(128, scale=0.25)(4 * step), features, atol=1e-3, rtol=0)


def test_log_snr_features_tell_all_levels_apart():
    features = LogSnrFeatures(32)(torch.linspace(-20, 20, 401))
    distance = torch.cdist(features, features) + 10 * torch.eye(401)
    assert features.isfinite().all()
    assert distance.min() > 0.1


def test_dropped_labels_are_missing_labels():
    table = Conditions({"label": 10}, 4)
    label = torch.tensor([3, 9])
    null, dropped = table({}, 2), table({"label": label, "drop": torch.tensor([True, False])}, 2)
    assert torch.equal(dropped[0], null[0])
    assert torch.equal(dropped[1], table({"label": label}, 2)[1])
    assert not torch.equal(dropped[1], null[1])
    with pytest.raises(ValueError, match="must be a whole number"):
        table({"label": torch.tensor([10])}, 1)


def test_without_classes_conditions_are_ignored():
    embed = ConditionEmbedding(LogSnrFeatures(8), 16)
    level = torch.randn(2)
    assert torch.equal(embed(level, {"label": torch.tensor([1, 2])}), embed(level, {}))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("options", [{}, {"film": False, "asymmetric": True, "patch_size": 2, "blocks": 2}])
class TestUNet:
    def test_starts_at_zero(self, dims, options):
        x = torch.randn(2, 3, *SIZES[dims])
        assert body(dims, **options)(x, torch.randn(2, 8), full(x)).abs().max() == 0

    def test_padding_changes_nothing(self, dims, options):
        torch.manual_seed(0)
        unet, x, embedding = randomise(body(dims, **options)), torch.randn(2, 3, *SIZES[dims]), torch.randn(2, 8)
        expected = unet(x, embedding, full(x))
        assert expected.std() > 0.1
        canvas, mask = padded(x, 2 * unet.stride)
        out = unet(canvas, embedding, mask)
        torch.testing.assert_close(crop(out, x), expected, atol=1e-5, rtol=1e-5)
        assert (out * (1 - mask)).abs().max() == 0
        torch.testing.assert_close(unet(x, embedding, torch.ones_like(x[:, :1])), expected, atol=1e-5, rtol=1e-5)

    def test_padding_of_a_part_of_a_cell_does_not_leak(self, dims, options):
        torch.manual_seed(0)
        unet, x, embedding = randomise(body(dims, **options)), torch.randn(2, 3, *SIZES[dims]), torch.randn(2, 8)
        mask = torch.ones_like(x[:, :1])
        mask[..., -3:] = 0
        junk = torch.where(mask > 0, x, 100.0)
        torch.testing.assert_close(unet(junk, embedding, mask), unet(x, embedding, mask), atol=0, rtol=0)

    def test_activation_checkpointing_gives_the_same_gradients(self, dims, options):
        torch.manual_seed(0)
        unet, x, embedding = (
            randomise(body(dims, dropout=0.2, **options)),
            torch.randn(2, 3, *SIZES[dims]),
            torch.randn(2, 8),
        )
        unet.train()
        gradients = []
        for unet.checkpoint in (False, True):
            torch.manual_seed(1)
            loss = unet(x, embedding, full(x)).square().mean()
            gradients.append(torch.autograd.grad(loss, list(unet.parameters())))
        for plain, recomputed in zip(*gradients, strict=True):
            torch.testing.assert_close(recomputed, plain, atol=0, rtol=0)


def test_glorot_scales_each_map_and_keeps_zeros_zero():
    torch.manual_seed(0)
    attention = glorot(SpatialAttention(64, 4, 1e-5))
    assert attention.attention.out.weight.abs().max() == 0
    assert attention.attention.qkv.bias.abs().max() == 0
    for part in attention.attention.qkv.weight.chunk(3):
        assert part.var().item() == pytest.approx(1 / 64, rel=0.1)
    assert glorot(zero(nn.Conv1d(4, 4, 3))).weight.abs().max() == 0


def test_refusals_say_what_is_allowed():
    unet = body(2)
    with pytest.raises(ValueError, match=r"\(9, 8\) is not a multiple of the network's stride 2.*\(10, 8\)"):
        unet(torch.randn(1, 3, 9, 8), torch.randn(1, 8), torch.ones(1, 1, 1, 1))
    with pytest.raises(ValueError, match="2 spatial axes"):
        unet(torch.randn(1, 3, 8), torch.randn(1, 8), torch.ones(1, 1, 1))
    with pytest.raises(ValueError, match="levels"):
        body(2, attention=(2,))
    with pytest.raises(ValueError, match="must divide"):
        SelfAttention(8, heads=3)
    with pytest.raises(ValueError, match="groups"):
        GroupNorm(3, 8)
