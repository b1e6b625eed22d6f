"""Laws of the denoisers of waveforms, and the sizes of the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from runs import close
from torch import Tensor, nn

import configs
from modalities.audio.diffwave import DiffWave, TabledStepFeatures, Upsampler

CONDITIONS = {"label": ["zero", "one", "two"], "speaker": 4}
HOP = 12
SIZES = [5 * HOP, 2 * HOP]  # of the two clips


def small(**options) -> DiffWave:
    options = {"bands": 5, "strides": (4, 3), **options}
    return DiffWave(CONDITIONS, layers=6, cycle=3, channels=8, embedding=16, **options)


def build(name: str, **facts) -> nn.Module:
    config = OmegaConf.load(Path(next(iter(configs.__path__))) / "network" / f"{name}.yaml")
    return instantiate(OmegaConf.merge(config, facts), _convert_="all")


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def randomise(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(frames: int = 5) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Two clips of the same length."""
    cond = {
        "label": torch.tensor([0, 2]),
        "speaker": torch.tensor([3, 1]),
        "spectrogram": normal(2, 1, frames, 5, seed=1),
    }
    return normal(2, 1, frames * HOP), torch.tensor([-9.0, 9.0]), torch.ones(2, 1, 1), cond


@pytest.mark.parametrize(("name", "expected"), [("diffwave_sc09", 24_034_305), ("diffwave_ljspeech", 2_619_971)])
def test_published_networks_have_the_published_size(name, expected):
    network = build(name)
    assert count(network) == expected
    x, step = normal(1, 1, 1024), torch.tensor([49.0])
    with torch.inference_mode():
        out = network(x, step, torch.ones(1, 1, 1), {"spectrogram": normal(1, 1, 4, 80)})
    assert out.shape == x.shape
    assert out.abs().max() == 0


def test_defaults_are_small_take_the_datas_conditions_and_start_at_zero():
    network = build("diffwave", conditions=CONDITIONS)
    x, c_noise, mask, cond = inputs()
    assert count(network) < 1e6
    out = network(x, c_noise, mask, cond)
    assert out.shape == x.shape
    assert out.abs().max() == 0


class TestDiffWave:
    def test_full_masks_are_equal_however_written(self):
        network, (x, c_noise, mask, cond) = randomise(small()), inputs()
        expected = network(x, c_noise, mask, cond)
        assert expected.std() > 0.01
        close(network(x, c_noise, torch.ones_like(x), cond), expected)

    @pytest.mark.parametrize("more", [0, 1, HOP, 5 * HOP])
    def test_padding_changes_nothing(self, more):
        network, (x, c_noise, _, cond) = randomise(small()), inputs()
        length = max(SIZES) + more
        canvas, real = 5 * normal(2, 1, length, seed=2), torch.zeros(2, 1, length)
        spectrogram = 5 * normal(2, 1, -(-length // HOP), 5, seed=3)
        for i, size in enumerate(SIZES):
            canvas[i, :, :size], real[i, :, :size] = x[i, :, :size], 1
            spectrogram[i, :, : size // HOP] = cond["spectrogram"][i, :, : size // HOP]
        out = network(canvas, c_noise, real, {**cond, "spectrogram": spectrogram})
        assert not out[real == 0].any()
        for i, size in enumerate(SIZES):
            of_clip = {name: value[i : i + 1] for name, value in cond.items()}
            of_clip["spectrogram"] = of_clip["spectrogram"][:, :, : size // HOP]
            alone = network(x[i : i + 1, :, :size], c_noise[i : i + 1], torch.ones(1, 1, 1), of_clip)
            close(out[i : i + 1, :, :size], alone)

    def test_the_end_of_a_clip_need_be_no_whole_frame(self):
        network, (x, c_noise, mask, cond) = randomise(small()), inputs()
        size = 4 * HOP + 5
        real = (torch.arange(x.shape[-1]) < size).float().expand(2, 1, -1)
        cut = network(x[..., :size], c_noise, mask, cond)
        close(network(x, c_noise, real, cond)[..., :size], cut)

    def test_receptive_field(self):
        network = randomise(small()).double()
        x, mask = normal(1, 1, 101).double().requires_grad_(), torch.ones(1, 1, 1)
        (gradient,) = torch.autograd.grad(network(x, torch.zeros(1), mask, {})[0, 0, 50], x)
        reach = 2 * (1 + 2 + 4)
        assert gradient[0, 0].nonzero().flatten().tolist() == list(range(50 - reach, 50 + reach + 1))

    def test_every_parameter_learns(self):
        network, batch = randomise(small()), inputs()
        gradients = torch.autograd.grad(network(*batch).square().mean(), list(network.parameters()))
        for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
            assert gradient.abs().max() > 0, name

    def test_at_first_the_output_alone_learns(self):
        network, batch = small(), inputs()
        network(*batch).add(1).square().mean().backward()
        assert {name for name, p in network.named_parameters() if p.grad.any()} == {"out.weight", "out.bias"}

    def test_dropped_conditions_are_missing_conditions(self):
        network, (x, c_noise, mask, cond) = randomise(small()), inputs()
        given, missing = network(x, c_noise, mask, cond), network(x, c_noise, mask, {})
        close(network(x, c_noise, mask, {**cond, "drop": torch.tensor([True, True])}), missing)
        half = network(x, c_noise, mask, {**cond, "drop": torch.tensor([False, True])})
        close(half[0], given[0])
        close(half[1], missing[1])

    @pytest.mark.parametrize("name", ["label", "speaker", "spectrogram"])
    def test_each_condition_matters(self, name):
        network, (x, c_noise, mask, cond) = randomise(small()), inputs()
        swapped = network(x, c_noise, mask, {**cond, name: cond[name].flip(0)})
        assert (swapped - network(x, c_noise, mask, cond)).abs().amax((1, 2)).min() > 1e-3

    def test_what_it_has_no_input_for_is_ignored(self):
        network, (x, c_noise, mask, cond) = randomise(small(bands=0)), inputs()
        without = {name: value for name, value in cond.items() if name != "spectrogram"}
        assert torch.equal(network(x, c_noise, mask, cond), network(x, c_noise, mask, without))

    def test_samples_do_not_see_each_other(self):
        network, (x, c_noise, mask, cond) = randomise(small()), inputs()
        alone = network(x[:1], c_noise[:1], mask[:1], {name: value[:1] for name, value in cond.items()})
        close(network(x, c_noise, mask, cond)[:1], alone)

    def test_the_same_twice(self):
        with torch.random.fork_rng():
            networks = [small() for seed in (0, 0) if torch.manual_seed(seed)]
        one, two = (randomise(network).train()(*inputs()) for network in networks)
        assert torch.equal(one, two)

    def test_activation_checkpointing_gives_the_same_gradients(self):
        network, batch = randomise(small()).train(), inputs()
        gradients = []
        for checkpoint in (False, True):
            network.checkpoint = checkpoint
            gradients.append(torch.autograd.grad(network(*batch).square().mean(), list(network.parameters())))
        for plain, recomputed in zip(*gradients, strict=True):
            torch.testing.assert_close(recomputed, plain, atol=0, rtol=0)

    def test_autocast_stays_close(self):
        network, batch = randomise(small()), inputs()
        expected = network(*batch)
        with torch.autocast("cpu", torch.bfloat16):
            out = network(*batch)
        assert (out.float() - expected).std() < 0.05 * expected.std()

    def test_what_does_not_fit_is_refused(self):
        x, c_noise, mask, cond = inputs()
        with pytest.raises(ValueError, match=r"x has shape \(2, 2, 60\); this network wants waveforms"):
            small()(x.expand(-1, 2, -1), c_noise, mask, cond)
        for shape in [(2, 1, 4, 5), (2, 1, 5, 6), (1, 1, 5, 5), (2, 5, 5)]:
            with pytest.raises(ValueError, match=r"60 samples need \(2, 1, 5, 5\), a frame for every 12"):
                small()(x, c_noise, mask, {**cond, "spectrogram": torch.zeros(shape)})
        with pytest.raises(ValueError, match="cycle=0"):
            DiffWave(cycle=0)


class TestTabledStepFeatures:
    def test_whole_steps_are_eq_5(self):
        steps = torch.tensor([0.0, 1.0, 2.0])  # float32 loses the fastest angles of later ones
        angles = steps.double()[:, None] * 10 ** (torch.arange(64).double() * 4 / 63)
        expected = torch.cat([angles.flip(1).sin(), angles.flip(1).cos()], dim=1).float()
        torch.testing.assert_close(TabledStepFeatures()(steps), expected, atol=2e-3, rtol=0)

    def test_in_between_they_are_interpolated(self):
        features = TabledStepFeatures()
        table = features(torch.arange(200.0))
        torch.testing.assert_close(features(torch.tensor([41.25]))[0], 0.75 * table[41] + 0.25 * table[42])
        torch.testing.assert_close(features(torch.tensor([199 - 1e-5]))[0], table[199], atol=1e-3, rtol=0)
        assert torch.equal(features(torch.tensor([-0.9]))[0], table[0])

    def test_no_two_steps_look_alike(self):
        table = TabledStepFeatures()(torch.arange(200.0))
        assert torch.cdist(table, table).add(10 * torch.eye(200)).min() > 1


@pytest.mark.parametrize("strides", [(8,), (16, 16), (3, 5)])
class TestUpsampler:
    def test_each_frame_has_its_samples(self, strides):
        upsample, frames = Upsampler(strides), normal(1, 1, 9, 4)
        assert upsample(frames, torch.ones(1, 1, 1)).shape == (1, 4, 9 * upsample.hop)

    def test_a_sample_depends_on_its_own_frame_and_its_neighbours(self, strides):
        upsample, frames = Upsampler(strides), normal(1, 1, 9, 4).requires_grad_()
        out = upsample(frames, torch.ones(1, 1, 1))
        (gradient,) = torch.autograd.grad(out[..., 4 * upsample.hop : 5 * upsample.hop].sum(), frames)
        assert gradient.sum((0, 1, 3)).nonzero().flatten().tolist() == [3, 4, 5]
