"""Enlarging: the condition is the picture's own means over squares, and a folder of small pictures is one too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from runs import Outcome, evaluate, sample, train
from test_cli import refused
from torch import Tensor

import core
from core.batch import Batch
from core.denoiser import Denoiser
from core.editable import EditRequest
from core.errors import UserError
from core.prediction import Velocity
from core.schedules import Cosine
from modalities.image.codec import Pixels
from modalities.image.metrics import evaluate as figures_of
from modalities.image.metrics import psnr
from modalities.image.modality import Image
from modalities.image.superres import Enlarging
from modalities.image.unet import UNet2d

MODEL = Image([1, 28, 28], paired=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five pictures of 14x14."""
    folder = tmp_path_factory.mktemp("small")
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (5, 14, 14), dtype=np.uint8)):
        Pillow.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def enlarging(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run of two steps of experiment=superres. Look, but do not write."""
    return train(tmp_path_factory.mktemp("superres") / "run", "experiment=superres", "n=8")


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# --- the codec ---


@pytest.mark.parametrize("factor", [2, 4])
def test_the_condition_is_the_mean_over_squares(factor: int) -> None:
    pictures = uniform(3, 3, 8, 12)
    codec = Enlarging(factor)
    encoded = codec.encode(Batch.full(pictures, {"label": torch.arange(3)}))
    means = pictures.reshape(3, 3, 8 // factor, factor, 12 // factor, factor).mean((3, 5))
    torch.testing.assert_close(encoded.cond["low"], Pixels().encode(Batch.full(means)).x)
    decoded = codec.decode(encoded)
    torch.testing.assert_close(decoded.x, pictures)
    assert set(decoded.cond) == {"label"}


def test_small_pictures_ask_for_what_they_are(small: Path) -> None:
    """Their template has them as its condition, to the last digit, and nothing else of them."""
    template = Enlarging(2).template(MODEL.template(4, {"input": str(small)}))
    pixels = np.stack([np.asarray(Pillow.open(small / f"{i}.png")) for i in range(4)])[:, None]
    wanted = torch.from_numpy(pixels).float() / 255
    torch.testing.assert_close(template.cond["low"] / 2 + 0.5, wanted, atol=1e-6, rtol=0)
    assert template.x.shape == (4, 1, 28, 28)
    assert not template.x.any()


# --- the network ---


def network(**options: object) -> UNet2d:
    """One whose output and null are not zero."""
    torch.manual_seed(0)
    unet = UNet2d(1, 0, (8, 8), groups=4, patch_size=2, **options)
    with torch.no_grad():
        torch.nn.init.normal_(unet.body.conv_out.weight, std=0.3)
        if unet.null is not None:
            unet.null.fill_(0.3)
    return unet.eval()


def answer(unet: UNet2d, **cond: Tensor) -> Tensor:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return unet(x, torch.zeros(3), torch.ones(3, 1, 1, 1), cond)


def test_a_dropped_picture_is_an_absent_one() -> None:
    unet, low = network(low=True), torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    null, given = answer(unet), answer(unet, low=low)
    assert (null - given).abs().amax((1, 2, 3)).min() > 1e-3, "it looks at the picture"
    torch.testing.assert_close(answer(unet, low=low, drop=torch.ones(3, dtype=torch.bool)), null)
    mixed = answer(unet, low=low, drop=torch.tensor([False, True, False]))
    torch.testing.assert_close(mixed, torch.stack([given[0], null[1], given[2]]))


def test_each_sample_follows_its_own_picture_where_it_stands() -> None:
    unet, low = network(low=True), torch.zeros(3, 1, 4, 4)
    before = answer(unet, low=low)
    low[1, 0, :, 3] = 1
    moved = (answer(unet, low=low) - before).abs()
    assert not moved[[0, 2]].any()
    assert moved[1, 0, :, 6:].min() > 1e-4, "the last column of four lies over the last two of eight"


def test_a_picture_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cond\['low'\] has shape \(3, 1, 3, 4\)"):
        answer(network(low=True), low=torch.zeros(3, 1, 3, 4))


def test_without_it_the_network_is_what_it_was() -> None:
    assert "null" not in network().state_dict()
    torch.testing.assert_close(answer(network(), low=torch.ones(3, 1, 4, 4)), answer(network()))


# --- the experiment ---


def test_it_samples_from_a_folder_and_from_held_out_data(enlarging: Path, small: Path, tmp_path: Path) -> None:
    folder = sample(enlarging, tmp_path / "a", f"cond.input={small}")
    with np.load(folder / "samples.npz") as arrays:
        assert arrays["x"].shape == (4, 1, 28, 28)
        assert set(arrays) == {"x"}
    assert sum(path.stem.isdigit() for path in folder.glob("*.png")) == 4
    table = json.loads((evaluate(tmp_path / "b", f"checkpoint={enlarging}", "n=8") / "evaluation.json").read_text())
    assert table["samples"]["psnr"] > 0
    assert 0 <= table["samples"]["same_class"] <= 1
    assert "psnr" not in table["real"], "other digits are no reconstruction"


def test_guidance_reaches_it(enlarging: Path, small: Path) -> None:
    """Away from the answer without a picture: another sample, since a share of them was dropped in training."""
    model = core.load(enlarging, device="cpu")
    config = model.config.copy()
    config.guidance = {"_target_": "core.guidance.ClassifierFree", "scale": 3.0}
    template = model.template(2, {"input": str(small)})
    guided, plain = (model.draw(template, c, 0, torch.arange(2)).x for c in (config, model.config))
    assert (guided - plain).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["n=4"], ["this model's samples follow the low of data", "cond.input"]),
        (["n=9", "cond.input={small}"], ["n=9", "holds 5 pictures"]),
        (["n=1", "cond.input={odd}"], ["odd.png has 12x12 pixels", "28x28 or a whole factor less"]),
        (["n=1", "cond.input=/nowhere"], ["/nowhere"]),
        (["n=1", "cond.input={small}", "cond.label=3"], ["cond.input stands alone", "label"]),
    ],
)
def test_what_it_cannot_enlarge(
    arguments: list[str], said: list[str], enlarging: Path, small: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    Pillow.new("L", (12, 12)).save(odd / "odd.png")
    filled = [argument.format(small=small, odd=odd) for argument in arguments]
    outcome = command("sample", f"checkpoint={enlarging}", "device=cpu", "steps=2", f"out={tmp_path / 'out'}", *filled)
    refused(outcome, *said)


def test_it_edits_no_pictures_and_draws_no_larger_ones(small: Path) -> None:
    with pytest.raises(UserError, match="edits none"):
        MODEL.known(EditRequest(small / "0.png", keep="left"))
    template = Batch.full(torch.zeros(1, 1, 56, 28), {"low": torch.zeros(1, 1, 28, 14)})
    with pytest.raises(UserError, match="condition low, for pictures of its own size only"):
        MODEL.windowed(Denoiser(network(low=True), Cosine(), Velocity()), template, Pixels())
    with pytest.raises(UserError, match="this model follows no pictures"):
        Image([1, 28, 28]).template(1, {"input": str(small)})


# --- how near it comes ---


def test_psnr_of_a_constant_error() -> None:
    pictures = uniform(2, 1, 8, 8)
    torch.testing.assert_close(psnr(pictures + 0.1, pictures), torch.full((2,), 20.0).double())
    assert psnr(pictures, pictures).tolist() == [100, 100]


def test_pairs_are_compared_only_where_they_are_pairs() -> None:
    batch = Batch.full(uniform(6, 1, 8, 8).float())
    assert figures_of(batch, batch, None, None, paired=True)["psnr"] == pytest.approx(100)
    assert "psnr" not in figures_of(batch, batch, None, None)
