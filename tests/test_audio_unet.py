"""Laws of the U-Nets of sound: over waveforms, alone or following a spectrogram, and over time and frequency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from runs import close
from torch import Tensor, nn

import configs
from core.batch import Batch
from core.codec import Codec
from core.denoiser import Denoiser
from core.guidance import ClassifierFree, Clipped
from core.prediction import Velocity
from core.samplers import DDIM, DDPM, Sampler, sample
from core.schedules import Cosine
from core.times import Uniform
from modalities.audio.mdct import MDCT
from modalities.audio.spectrogram import Spectrogram
from modalities.audio.unet import SpectrogramUNet, UNet1d
from modalities.audio.vocoding import Vocoding
from modalities.audio.waveform import Waveform

CONDITIONS = {"label": ["zero", "one", "two"], "speaker": 4}
SMALL: dict[str, Callable[..., nn.Module]] = {
    "waveform": lambda **o: UNet1d(CONDITIONS, (8, 16), **{"patch_size": 4, "groups": 4, **o}),
    "following": lambda **o: UNet1d(
        CONDITIONS, (8, 16), **{"patch_size": 4, "groups": 4, "local_bands": 5, "hop": 8, "local_channels": 2, **o}
    ),
    "spectrogram": lambda **o: SpectrogramUNet(8, CONDITIONS, (8, 16), **{"patch_size": 2, "groups": 4, **o}),
}
STRIDE = {"waveform": 8, "following": 8, "spectrogram": 4}
each_network = pytest.mark.parametrize("name", SMALL)


def build(name: str, **facts) -> nn.Module:
    config = OmegaConf.load(Path(next(iter(configs.__path__))) / "network" / f"{name}.yaml")
    return instantiate(OmegaConf.merge(config, facts), _convert_="all")


def randomise(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(name: str, cells: int = 4) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Two clips of so many strides."""
    length = cells * STRIDE[name]
    x = normal(2, 1, length, 8) if name == "spectrogram" else normal(2, 1, length)
    cond = {"label": torch.tensor([0, 2]), "speaker": torch.tensor([3, 1])}
    if name == "following":
        cond["spectrogram"] = normal(2, 1, length // 8, 5, seed=1)
    return x, torch.tensor([-9.0, 9.0]), torch.ones(2, 1, *[1] * (x.ndim - 2)), cond


@pytest.mark.parametrize(
    ("network", "shape"),
    [("unet1d", (1, 1, 640)), ("spectrogram_unet", (1, 1, 8, 64))],
)
def test_defaults_take_the_datas_conditions_and_start_at_zero(network: str, shape: tuple[int, ...]) -> None:
    built, cond = build(network, conditions=CONDITIONS), {"label": torch.tensor([1]), "speaker": torch.tensor([0])}
    with torch.inference_mode():
        out = built(normal(*shape), torch.zeros(1), torch.ones(1, 1, *[1] * (len(shape) - 2)), cond)
    assert out.shape == shape
    assert not out.any()
    assert 5e5 < sum(parameter.numel() for parameter in built.parameters()) < 6e6


@each_network
class TestNetwork:
    def test_full_masks_are_equal_however_written(self, name):
        network, (x, c_noise, mask, cond) = randomise(SMALL[name]()), inputs(name)
        expected = network(x, c_noise, mask, cond)
        assert expected.shape == x.shape
        assert expected.std() > 0.01
        ones = torch.ones_like(x) if name != "spectrogram" else torch.ones(2, 1, x.shape[2], 1)
        close(network(x, c_noise, ones, cond), expected)

    @pytest.mark.parametrize("more", [0, 1, 5])
    @pytest.mark.parametrize("options", [{}, {"attention": [0, 1], "blocks": 2}], ids=["plain", "attention"])
    def test_padding_changes_nothing(self, name, options, more):
        network, (x, c_noise, _, cond) = randomise(SMALL[name](**options)), inputs(name)
        stride, real = STRIDE[name], [x.shape[2], x.shape[2] // 2 - 1]  # the second ends within a cell
        longest = x.shape[2] + more * stride
        mask = (torch.arange(longest) < torch.tensor(real)[:, None]).float()[:, None]
        canvas = 5 * normal(2, 1, longest, *x.shape[3:], seed=2)
        if name == "spectrogram":
            mask = mask[..., None]
        canvas[:, :, : x.shape[2]] = torch.where(mask[:, :, : x.shape[2]] > 0, x, canvas[:, :, : x.shape[2]])
        if "spectrogram" in cond:
            frames = 5 * normal(2, 1, longest // 8, 5, seed=3)
            for row in range(2):
                kept = -(-real[row] // 8)
                frames[row, :, :kept] = cond["spectrogram"][row, :, :kept]
            cond["spectrogram"] = frames
        out = network(canvas, c_noise, mask, cond)
        assert not out[mask.expand_as(out) == 0].any()
        for row, size in enumerate(real):
            cells = -(-size // stride) * stride
            of_clip = {key: value[row : row + 1] for key, value in cond.items()}
            if "spectrogram" in cond:
                of_clip["spectrogram"] = of_clip["spectrogram"][:, :, : cells // 8]
            one = slice(row, row + 1)
            alone = network(canvas[one, :, :cells], c_noise[one], mask[one, :, :cells], of_clip)
            close(out[one, :, :cells], alone)

    def test_dropped_conditions_are_missing_conditions(self, name):
        network, (x, c_noise, mask, cond) = randomise(SMALL[name]()), inputs(name)
        missing = {"spectrogram": 0 * cond["spectrogram"]} if "spectrogram" in cond else {}
        given, none = network(x, c_noise, mask, cond), network(x, c_noise, mask, missing)
        close(network(x, c_noise, mask, {**cond, "drop": torch.tensor([True, True])}), none)
        half = network(x, c_noise, mask, {**cond, "drop": torch.tensor([False, True])})
        close(half[0], given[0])
        close(half[1], none[1])

    def test_each_condition_matters(self, name):
        network, (x, c_noise, mask, cond) = randomise(SMALL[name]()), inputs(name)
        for key in cond:
            swapped = network(x, c_noise, mask, {**cond, key: cond[key].flip(0)})
            assert (swapped - network(x, c_noise, mask, cond)).flatten(1).abs().amax(1).min() > 1e-3, key

    def test_samples_do_not_see_each_other(self, name):
        network, (x, c_noise, mask, cond) = randomise(SMALL[name]()), inputs(name)
        alone = network(x[:1], c_noise[:1], mask[:1], {key: value[:1] for key, value in cond.items()})
        close(network(x, c_noise, mask, cond)[:1], alone)

    def test_every_parameter_learns(self, name):
        network, batch = randomise(SMALL[name]()), inputs(name)
        gradients = torch.autograd.grad(network(*batch).square().mean(), list(network.parameters()))
        for (key, _), gradient in zip(network.named_parameters(), gradients, strict=True):
            assert gradient.abs().max() > 0, key

    def test_activation_checkpointing_gives_the_same_gradients(self, name):
        network, batch = randomise(SMALL[name]()).train(), inputs(name)
        gradients = []
        for checkpoint in (False, True):
            network.body.checkpoint = checkpoint
            gradients.append(torch.autograd.grad(network(*batch).square().mean(), list(network.parameters())))
        for plain, recomputed in zip(*gradients, strict=True):
            torch.testing.assert_close(recomputed, plain, atol=0, rtol=0)

    def test_learned_variance_doubles_the_channels(self, name):
        x, *rest = inputs(name)
        assert SMALL[name](learned_variance=True)(x, *rest).shape == (2, 2, *x.shape[2:])

    def test_a_size_that_does_not_divide_is_refused(self, name):
        x, c_noise, mask, cond = inputs(name)
        with pytest.raises(ValueError, match=f"not a multiple of the network's stride {STRIDE[name]}"):
            SMALL[name]()(x[:, :, :-1], c_noise, mask, cond)


class TestFollowing:
    def test_a_sample_follows_the_frames_around_it(self):
        network, (x, _, mask, cond) = randomise(SMALL["following"]()), inputs("following")
        cond["spectrogram"].requires_grad_()
        followed = network.local(x, mask, cond)
        assert followed.shape == (2, 2 * 4, 4)
        (gradient,) = torch.autograd.grad(followed[0, :, 0].sum(), cond["spectrogram"])
        assert gradient.sum((1, 3)).nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]

    def test_jitter_is_of_training_alone(self):
        batch = inputs("following")
        with_jitter = randomise(SMALL["following"](jitter=0.5))
        without = SMALL["following"]().eval()
        without.load_state_dict(with_jitter.state_dict())
        expected = without(*batch)
        assert torch.equal(with_jitter(*batch), expected)
        assert torch.equal(without.train()(*batch), expected)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, second = (with_jitter.train()(*batch) for _ in range(2))
            torch.manual_seed(0)
            assert torch.equal(with_jitter(*batch), first)
        assert (first - second).abs().max() > 1e-3
        assert (first - expected).abs().max() > 1e-3

    def test_what_does_not_fit_is_refused(self):
        x, c_noise, mask, cond = inputs("following")
        network = SMALL["following"]()
        for shape in [(2, 1, 4, 6), (2, 1, 3, 5), (2, 4, 5), (1, 1, 4, 5)]:
            with pytest.raises(ValueError, match=r"32 samples need \(2, 1, 4, 5\), a frame for every 8"):
                network(x, c_noise, mask, {**cond, "spectrogram": torch.zeros(shape)})
        with pytest.raises(ValueError, match=r"cond\['spectrogram'\] is missing"):
            network(x, c_noise, mask, {})
        with pytest.raises(ValueError, match="hop=10: must be a multiple of patch_size=4"):
            SMALL["following"](hop=10)


class TestSpectrogramUNet:
    def test_it_knows_where_in_frequency_and_in_time_it_is(self):
        network, (_, c_noise, mask, cond) = randomise(SMALL["spectrogram"]()), inputs("spectrogram")
        out = network(torch.ones(2, 1, 64, 8), c_noise, mask, cond)
        assert (out - out.flip(3)).abs().max() > 1e-3
        inner = out[:, :, 16:48]  # far from both ends
        assert (inner[:, :, ::2].diff(dim=2)).abs().min() > 0
        shorter = (torch.arange(64) < 60).float().expand(2, 1, 64)[..., None]
        cut = network(torch.ones(2, 1, 64, 8), c_noise, shorter, cond)
        assert (out - cut)[:, :, 16:32].abs().max() > 1e-4  # also how long it will last

    def test_another_number_of_bands_is_refused(self):
        _, c_noise, mask, cond = inputs("spectrogram")
        with pytest.raises(ValueError, match="bands=8, but the codec's frames have 16"):
            SMALL["spectrogram"]()(torch.zeros(2, 1, 8, 16), c_noise, mask, cond)


# Whole runs of sampling

LENGTHS, SPECTROGRAM = [1280, 640, 900], {"low": [-4.0] * 64, "high": [4.0] * 64}
CODECS: dict[str, tuple[Codec, Callable[[], nn.Module]]] = {
    "waveform": (Waveform(0.2), lambda: UNet1d(CONDITIONS, (8, 16), patch_size=16, groups=4)),
    "mdct": (MDCT(64, 0.5, multiple=8, bound=8.0), lambda: SpectrogramUNet(64, CONDITIONS, (8, 16), groups=4)),
    "spectrogram": (Spectrogram(**SPECTROGRAM), lambda: SpectrogramUNet(64, CONDITIONS, (8, 16), groups=4)),
    "vocoding": (
        Vocoding(Spectrogram(), bound=8.0),
        lambda: UNet1d(CONDITIONS, (8, 16), patch_size=16, groups=4, local_bands=64, hop=80),
    ),
}


def request(longest: int) -> Batch:
    n = torch.tensor(LENGTHS)
    mask = (torch.arange(longest) < n[:, None, None]).float()
    x = F.pad(0.3 * normal(3, 1, max(LENGTHS)), (0, longest - max(LENGTHS)))
    return Batch(x * mask, mask, {"label": torch.tensor([0, 1, 2]), "speaker": torch.tensor([3, 0, 1])})


@pytest.mark.parametrize("sampler", [DDIM(), DDPM()], ids=["ddim", "ddpm"])
@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_a_sample_does_not_depend_on_how_far_it_is_padded(name: str, sampler: Sampler) -> None:
    codec, make = CODECS[name]
    denoiser = Denoiser(randomise(make()), Cosine(), Velocity())
    guided = Clipped(ClassifierFree(denoiser, 2.0), *codec.range)
    drawn = []
    for longest in (1280, 1920, 3200):
        template = codec.template(request(longest))
        x = sample(guided, sampler, template, Uniform(3)(Cosine()))
        assert x.std() > 0.1
        drawn.append((x, codec.decode(template.with_x(x)).x))
    for z, x in drawn[1:]:
        frames, length = drawn[0][0].shape[2], drawn[0][1].shape[2]
        if name == "mdct":  # its last frame of the shortest reaches beyond
            length = 1280
        close(z[:, :, :frames], drawn[0][0])
        assert not z[:, :, frames:].any()
        if name != "spectrogram":  # iterated phases magnify the last digits
            close(x[:, :, :length], drawn[0][1][:, :, :length])
