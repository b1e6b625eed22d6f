"""Tiny runs through the project's entry points, in this process; and one trained run that many tests look at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from core import checkpoint, cli
from core.runs import RUN_FOLDER

ROOT = Path(__file__).resolve().parent.parent
NETWORK = ("network.widths=[8,8]", "network.groups=4")
TINY = (
    "trainer=cpu",
    "training.steps=2",
    "training.validate_every=2",
    "training.batch_size=4",
    "training.validate_on=8",
    "preview.n=2",
    "preview.steps=2",
    "steps=2",
    "n=0",
)
TINY_IMAGES = (*TINY, *NETWORK)


def compose(command: str, *overrides: object) -> DictConfig:
    """The config that the command line would give to the work of a command."""
    with hydra.initialize_config_module("configs", version_base="1.3"):
        return hydra.compose(command, [cli.opened(str(override), command) for override in overrides])


def train(folder: Path, *overrides: object) -> Path:
    """Trains a tiny model of images into the folder."""
    from core.fit import fit

    return fit(compose("train", *TINY_IMAGES, f"out={folder}", *overrides))


def sample(run: Path, folder: Path, *overrides: object) -> Path:
    from core import sample as command

    command.sample(compose("sample", "n=4", "steps=2", "device=cpu", f"checkpoint={run}", f"out={folder}", *overrides))
    return folder


def evaluate(folder: Path, *overrides: object) -> Path:
    from core import evaluate as command

    command.evaluate(compose("evaluate", "n=4", "steps=2", "device=cpu", f"out={folder}", *overrides))
    return folder


def edit(run: Path, folder: Path, *overrides: object) -> Path:
    from core import edit as command

    command.edit(compose("edit", "n=4", "steps=2", "device=cpu", f"checkpoint={run}", f"out={folder}", *overrides))
    return folder


LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", RUN_FOLDER)


def in_processes(number: int, folder: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of Python's in so many processes started by torchrun, in the folder, each with one thread."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment = {**kept, "OMP_NUM_THREADS": "1", "POLYDIFFUSION_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}")
    command = [sys.executable, *launcher, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def close(one: Tensor, other: Tensor, atol: float = 1e-5) -> None:
    """Equal but for rounding."""
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def weights(run: Path, averaged: bool = False) -> dict[str, Tensor]:
    return checkpoint.load_weights(checkpoint.find(run), averaged)


def assert_same_weights(one: Path, other: Path, **tolerance: float) -> None:
    """Both the raw and the averaged weights; exactly, unless `atol` and `rtol` are given."""
    for averaged in (False, True):
        a, b = weights(one, averaged), weights(other, averaged)
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance or _EXACT)


_EXACT = {"atol": 0.0, "rtol": 0.0}


@dataclass
class Outcome:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Runs `python -m core.<name> <arguments>` in this process."""
    import core.edit
    import core.evaluate
    import core.export
    import core.sample
    import core.train

    works = {
        "train": core.train.train,
        "sample": core.sample.sample,
        "edit": core.edit.edit,
        "evaluate": core.evaluate.evaluate,
        "export": core.export.export,
    }

    def run(name: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.run(name, works[name])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            forget_hydra()
        return Outcome(code, *capfd.readouterr())

    yield run
    forget_hydra()


def forget_hydra() -> None:
    """Hydra keeps the config of its last command in global state."""
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of data sets that the tests of one session share."""
    before = os.environ.get("POLYDIFFUSION_CACHE")
    folder = Path(before) if before else tmp_path_factory.mktemp("cache")
    os.environ["POLYDIFFUSION_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["POLYDIFFUSION_CACHE"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run of four steps on digits, with the samples and figures at its end. Look, but do not write."""
    options = ("training.steps=4", "n=4", "optimisation.warmup=1")
    return train(tmp_path_factory.mktemp("trained") / "run", *options)


@pytest.fixture
def own_run(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the time of a tiny run goes into its two plots."""
    import core.callbacks

    monkeypatch.setattr(core.callbacks, "level_curve", lambda *_: None)
    monkeypatch.setattr(core.callbacks, "loss_curve", lambda *_: None)


@pytest.fixture(scope="session")
def digit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 28x28 grey pixels, no two rows or columns alike."""
    path = tmp_path_factory.mktemp("digit") / "digit.png"
    pixels = np.random.default_rng(0).integers(0, 255, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Forty 32x32 pictures in two class folders."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for i in range(20):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Forty sounds of .1 to .2 seconds at 8 kHz in two class folders."""
    soundfile = pytest.importorskip("soundfile")
    root = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for name, hertz in (("high", 700), ("low", 200)):
        (root / name).mkdir()
        for i in range(20):
            t = np.arange(800 + 40 * i) / 8000
            x = np.sin(2 * np.pi * (hertz + 5 * i) * t) + 0.1 * rng.normal(size=len(t))
            soundfile.write(root / name / f"{i:02}.wav", 0.4 * x, 8000)
    return root


def audio(sounds: Path) -> tuple[str, ...]:
    """What makes a tiny run one of these sounds."""
    return ("modality=audio", "data=audio_folder", f"data.path={sounds}", "data.val=0.2", "data.test=0.2")


@pytest.fixture(scope="session")
def vocoder(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> Path:
    """A run of two steps whose model makes sound of spectrograms. Look, but do not write."""
    folder = tmp_path_factory.mktemp("vocoder") / "run"
    return train(folder, "experiment=vocoder_fsdd", *audio(sounds)[1:], "preview.n=0")
