"""Every file in configs/ composes, trains two steps and samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import NETWORK, ROOT, TINY, compose, train

import core
from core.fit import fit

CONFIGS = ROOT / "configs"
# what an option needs beside it
NEEDS = {
    "schedule/beta_table": ["levels=discrete", "levels.num_steps=6"],
    "schedule/variance_exploding": ["prediction=karras", "levels=log_normal"],
    "prediction/flow": ["schedule=linear_path"],
    "weighting/variational_bound": ["levels=discrete"],
    "codec/affine": ["codec.shift=128", "codec.scale=128"],
    "network/dit": ["network.width=16", "network.depth=1", "network.heads=2"],
    "clip/dynamic": ["guidance.scale=3"],
}
SEPARATE = {
    "data/folder": "test_data_folder",
    "data/torchvision": "test_torchvision",
    "network/ddpm_cifar10": "tests/test_presets.py",
    "network/iddpm_cifar10": "tests/test_presets.py",
    "trainer/gpu": "needs a GPU",
    "trainer/ddp": "needs several GPUs",
    "space/zero_centre_of_mass": "test_zero_centre_of_mass",
}
OPTIONS = [
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in sorted(CONFIGS.glob("*/*.yaml"))
    if path.parent.name != "experiment"
]


def trains_and_samples(run: Path) -> None:
    samples = core.load(run, device="cpu").sample(n=2, steps=2)
    assert torch.isfinite(samples.x).all()
    assert len(samples) == 2


@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in SEPARATE])
def test_option(option: str, tmp_path: Path, cache: Path, no_plots: None) -> None:
    group, name = option.split("/")
    network = [] if group == "network" and name != "unet2d" else NETWORK
    choice = [] if option == "modality/image" else [f"{group}={name}"]
    more = NEEDS.get(option, [])
    run = fit(compose("train", *choice, *TINY, *network, *more, f"out={tmp_path}", "trainer.devices=1"))
    trains_and_samples(run)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.split("/")[0] in ("sampler", "times")])
def test_sampling_option(option: str, trained: Path, tmp_path: Path) -> None:
    from runs import sample

    sample(trained, tmp_path, option.replace("/", "="))
    assert (tmp_path / "00003.png").exists()


def test_data_folder(pictures: Path, tmp_path: Path, no_plots: None) -> None:
    run = train(tmp_path, "data=folder", f"data.path={pictures}", "data.size=8", "data.val=0.2", "data.test=0.2")
    samples = core.load(run, device="cpu").sample(n=2, steps=2, label="dog")
    assert samples.x.shape == (2, 3, 8, 8)
    assert samples.cond["label"].tolist() == [1, 1]


def test_torchvision() -> None:
    """It would download: composed only; the data's own tests read a made-up set."""
    assert compose("train", "data=torchvision", "data.name=FashionMNIST").data.name == "FashionMNIST"


def test_zero_centre_of_mass() -> None:
    """A space of point clouds (B, points, columns): pictures have none."""
    from core.config import instantiate

    x = torch.randn(2, 5, 3)
    space = instantiate(compose("train", "space=zero_centre_of_mass").space)
    assert space.project(x, torch.ones(2, 1, 1)).mean(1).abs().max() < 1e-6


def test_gpu_options_compose() -> None:
    assert compose("train", "trainer=gpu").trainer.accelerator == "gpu"
    assert compose("train", "trainer=ddp").trainer.strategy == "ddp"


def test_the_separate_ones_are_still_there() -> None:
    assert set(SEPARATE) <= set(OPTIONS)
    assert set(NEEDS) <= set(OPTIONS)


def test_a_modality_and_an_experiment_override_the_defaults() -> None:
    config = compose("train", "experiment=ddpm_cifar10")
    assert (config.name, config.steps, config.training.batch_size) == ("ddpm_cifar10", 1000, 128)
    assert config.optimisation.lr == pytest.approx(2e-4)
    assert compose("train", "experiment=ddpm_cifar10", "steps=7").steps == 7
