"""Every file in configs/ composes, trains two steps and samples."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from runs import NETWORK, ROOT, TINY, audio, compose, edit, train

import core
from core.errors import UserError
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
    "times/noise_table": ["times.betas=[0.01,0.5]"],
}
WAVEFORM = ["codec=waveform", "network=unet1d", "network.attention=[]"]
# options of sounds, likewise
SOUNDS = {
    "modality/audio": [],
    "network/spectrogram_unet": ["network.attention=[1]"],
    "network/unet1d": ["codec=waveform", "network.attention=[1]"],
    "network/diffwave": ["codec=waveform", "network.layers=2", "network.channels=8", "network.embedding=16"],
    "codec/waveform": WAVEFORM[1:],
    "codec/mdct": ["network.bands=128"],
    "codec/spectrogram": [],
    "codec/vocoding": [*WAVEFORM[1:], "network.local_bands=64"],
    "vocoder/griffin_lim": ["codec.vocoder.iterations=2"],
    "vocoder/diffusion": ["codec.vocoder.steps=1"],
    "schedule/cosine_for_audio": [],
    "extractor/vggish": [],
}
SOUND_DATA = {
    "data/audio_folder": [],
    "data/fsdd": ["n=3"],
    "data/tones": [],
    "data/speech_commands": ["data.words=[yes,no]", *WAVEFORM],
    "data/ljspeech": ["data.max_seconds=0.5", "data.val=0.1", "data.test=0.2", *WAVEFORM],
}
# options of molecules, likewise
MOLECULES = {
    "modality/molecules": [],
    "data/qm9": ["data.properties=[gap,mu]", "data.half=first"],
    "network/factored": ["data.kept=0.5"],
    "network/egnn": ["data.kept=0.5"],
    "network/e3nn": ["network.irreps=8x0e+4x1o", "network.sent=4x0e+4x1o", "network.products=4", "data.kept=0.5"],
    "network/transformer": ["network.heads=2", "data.rotate=true", "data.kept=0.5"],
    "codec/atoms": ["codec.charges=true"],
    "weighting/columns": [],
    "schedule/cosine_for_molecules": [],
    "prediction/karras_by_column": [],
    "levels/log_normal_for_molecules": [],
    "times/karras_for_molecules": [],
    "times/log_snr_for_molecules": [],
}
SMALL_MOLECULES = ("network.depth=2",)
MOLECULE_DATA = {
    "data/sdf": ("a.sdf", ["data.properties=[gap]"]),
    "data/xyz": ("a.xyz", ["data.rotate=true"]),
    "data/smiles": ("a.smi", ["data.workers=1"]),
    "data/qm9_pyg": (".", []),
}
# options of edits, likewise: what stays, or what is measured
EDITS = {
    "method/replace": ["keep=left"],
    "method/pigdm": ["keep=left"],
    "method/dps": ["keep=left"],
    "method/search": ["keep=left"],
    "measurement/downsample": ["degrade=true"],
    "measurement/blur": ["degrade=true"],
}
SEPARATE = {
    **dict.fromkeys(EDITS, "test_option_of_edits"),
    "method/told": "tests/test_molecule_editing.py",
    "measurement/grey": "tests/test_image_editing.py",
    "measurement/lowpass": "tests/test_audio_editing.py",
    "codec/enlarging": "tests/test_image_superres.py",
    **dict.fromkeys(MOLECULES, "test_option_of_molecules"),
    **dict.fromkeys(MOLECULE_DATA, "test_data_of_molecules"),
    "network/edm_qm9": "tests/test_presets.py",
    **dict.fromkeys(SOUNDS, "test_option_of_sounds"),
    **dict.fromkeys(SOUND_DATA, "test_data_of_sounds"),
    "data/folder": "test_data_folder",
    "data/torchvision": "test_torchvision",
    "data/shards": "test_data_shards",
    "network/ddpm_cifar10": "tests/test_presets.py",
    "network/iddpm_cifar10": "tests/test_presets.py",
    "network/diffwave_sc09": "tests/test_presets.py",
    "network/diffwave_ljspeech": "tests/test_presets.py",
    "trainer/gpu": "test_trainer_gpu",
    "trainer/ddp": "test_trainer_ddp",
    "trainer/fsdp": "tests/test_sharding.py",
    "space/zero_centre_of_mass": "test_zero_centre_of_mass",
    "guidance/autoguidance": "tests/test_guidance_configs.py",
    "guidance/property": "tests/test_molecule_steering.py",
}
OPTIONS = [
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in sorted(CONFIGS.glob("*/*.yaml"))
    if path.parent.name not in ("experiment", "for_data")
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


@pytest.mark.parametrize("option", SOUNDS)
def test_option_of_sounds(
    option: str, sounds: Path, tmp_path: Path, no_plots: None, request: pytest.FixtureRequest
) -> None:
    group, name = option.split("/")
    choice = [] if group == "modality" else [f"{group}={name}"]
    if option == "vocoder/diffusion":
        choice.append(f"codec.vocoder.weights={request.getfixturevalue('vocoder')}")
    network = [] if name == "diffwave" else NETWORK
    preview = f"preview.n={2 if group == 'modality' else 0}"  # a picture takes as long as all the rest
    tiny = (*TINY, *network, preview, f"out={tmp_path}")
    run = fit(compose("train", *audio(sounds), *choice, *tiny, *SOUNDS[option]))
    model = core.load(run, device="cpu")
    asked = {"input": str(sounds / "low")} if model.codec.conditions else {}
    samples = model.sample(n=2, steps=2, **asked)
    assert samples.x.shape[:2] == (2, 1)
    assert samples.x.isfinite().all()
    assert samples.x.abs().max() <= 1
    assert not samples.x[samples.mask.expand_as(samples.x) == 0].any()


@pytest.mark.parametrize("option", SOUND_DATA)
def test_data_of_sounds(
    option: str, sounds: Path, tmp_path: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import test_audio_data as stand_ins  # skips where its packages are missing

    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("modalities.audio.tones.SIZES", {"train": 125, "val": 125, "test": 125})
    monkeypatch.setattr("torchaudio.datasets.SPEECHCOMMANDS", stand_ins.Commands)
    monkeypatch.setattr("torchaudio.datasets.LJSPEECH", stand_ins.Sentences)
    where = {
        "data/audio_folder": audio(sounds)[2:],
        "data/fsdd": [f"data.path={stand_ins.zipped(tmp_path / 'digits.zip', stand_ins.recordings(8))}"],
    }
    choice = (option.replace("/", "="), *where.get(option, ()), *SOUND_DATA[option])
    run = train(tmp_path / "run", "modality=audio", "preview.n=0", *choice)
    trains_and_samples(run)
    figures = [json.loads(file.read_text()) for file in run.glob("samples/*/evaluation.json")]
    assert len(figures) == (option == "data/fsdd")
    assert all(figure["samples"] for figure in figures)


@pytest.mark.parametrize("option", EDITS)
def test_option_of_edits(option: str, trained: Path, digit: Path, tmp_path: Path) -> None:
    edit(trained, tmp_path, f"input={digit}", option.replace("/", "="), *EDITS[option])
    with np.load(tmp_path / "samples.npz") as arrays:
        assert np.isfinite(arrays["x"]).all()
    assert (tmp_path / "edit.png").exists()


@pytest.mark.parametrize("option", MOLECULES)
def test_option_of_molecules(option: str, tmp_path: Path, cache: Path, no_plots: None) -> None:
    pytest.importorskip("rdkit")
    group, name = option.split("/")
    choice = [] if group == "modality" else [f"{group}={name}"]
    width = () if name == "e3nn" else ("network.width=16",)
    preview = f"preview.n={2 if group == 'modality' else 0}"
    settings = (*TINY, *SMALL_MOLECULES, *width, preview, *MOLECULES[option], f"out={tmp_path}")
    run = fit(compose("train", "modality=molecules", *choice, *settings))
    samples = core.load(run, device="cpu").sample(n=2, steps=2)
    assert samples.x.isfinite().all()
    assert torch.equal(samples.x[..., 3:].sum(-1), samples.mask[..., 0]), "each atom is one element"


@pytest.mark.parametrize("option", MOLECULE_DATA)
def test_data_of_molecules(option: str, tmp_path: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import test_molecule_files as stand_ins  # skips where its packages are missing

    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(tmp_path / "cache"))
    for name, value in {"MOLECULES": 78, "TRAIN": 40, "VAL": 20}.items():
        monkeypatch.setattr(f"modalities.molecules.qm9.{name}", value)
    smiles = [text for text in stand_ins.LIST for _ in range(10)]
    molecules = list(map(stand_ins.embedded, smiles))
    stand_ins.write(tmp_path / "a.smi", "\n".join(smiles))
    stand_ins.write(tmp_path / "a.xyz", "".join(map(stand_ins.xyz, molecules)))
    stand_ins.write(tmp_path / "a.sdf", "".join(stand_ins.sdf(mol, gap=n) for n, mol in enumerate(molecules)))
    stand_ins.raw_files(tmp_path / "raw", molecules)
    file, more = MOLECULE_DATA[option]
    small = ("network.width=16", "network.depth=1", "preview.n=0", f"out={tmp_path / 'run'}")
    choice = (option.replace("/", "="), f"data.path={tmp_path / file}", *more)
    run = fit(compose("train", *TINY, "modality=molecules", *choice, *small))
    samples = core.load(run, device="cpu").sample(n=2, steps=2)
    assert torch.isfinite(samples.x).all()
    assert len(samples) == 2


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.split("/")[0] in ("sampler", "times")])
def test_sampling_option(option: str, trained: Path, tmp_path: Path) -> None:
    from runs import sample

    sample(trained, tmp_path, option.replace("/", "="), *NEEDS.get(option, []))
    assert (tmp_path / "00003.png").exists()


def test_data_folder(pictures: Path, tmp_path: Path, no_plots: None) -> None:
    run = train(tmp_path, "data=folder", f"data.path={pictures}", "data.size=8", "data.val=0.2", "data.test=0.2")
    samples = core.load(run, device="cpu").sample(n=2, steps=2, label="dog")
    assert samples.x.shape == (2, 3, 8, 8)
    assert samples.cond["label"].tolist() == [1, 1]


def test_data_shards(tmp_path: Path, no_plots: None) -> None:
    rng = np.random.default_rng(0)
    for split, sizes in {"train": (20, 13), "val": (9,), "test": (8, 4)}.items():
        (tmp_path / split).mkdir()
        for i, n in enumerate(sizes):
            np.save(tmp_path / split / f"x-{i}.npy", rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8))
            np.save(tmp_path / split / f"label-{i}.npy", np.arange(n) % 2)
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    run = train(tmp_path / "run", "data=shards", f"data.path={tmp_path}", "data.memory=1")
    trains_and_samples(run)
    assert core.load(run, device="cpu").modality.classes == ["cat", "dog"]


class Sketches:
    """A stand-in for a set of torchvision's."""

    classes = ("cat", "dog")

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        self.n = 40 if train else 20

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.full((8, 8, 3), 10 * (row % 20), dtype=np.uint8)), row % 2


def test_torchvision(tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("torchvision")
    package.datasets = SimpleNamespace(Sketches=Sketches, __all__=["Sketches"])
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(tmp_path / "cache"))
    run = train(tmp_path / "run", "data=torchvision", "data.name=Sketches")
    trains_and_samples(run)
    assert core.load(run, device="cpu").modality.classes == ["cat", "dog"]


POINT_CLOUDS = """
import numpy as np
from PIL import Image
from torch import nn
from core.data import ArraySource
from core.modality import Modality

class Cloud(Modality):
    def grid(self, batch, path):
        Image.new("L", (4, 4)).save(path)

class Clouds:
    name, classes = "clouds", []

    def __init__(self):
        x = np.random.default_rng(0).normal(size=(24, 5, 3)).astype(np.float32)
        self.train = self.val = self.test = ArraySource(x - x.mean(1, keepdims=True))
        self.facts = {"shape": [5, 3], "classes": []}

    def describe(self):
        return "clouds of five points"

    def augment(self, batch, u):
        return batch

class PointNetwork(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 3))

    def forward(self, x, c_noise, mask, cond):
        return self.body(x) + c_noise[:, None, None]
"""


def test_zero_centre_of_mass(tmp_path: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A space of point clouds (B, points, columns), with a data set and a network of the user's own."""
    clouds = ModuleType("clouds")
    exec(POINT_CLOUDS, clouds.__dict__)
    monkeypatch.setitem(sys.modules, "clouds", clouds)
    config = compose("train", *TINY, "space=zero_centre_of_mass", "codec=identity", "allow=[clouds]", f"out={tmp_path}")
    OmegaConf.set_struct(config, False)
    config.data = {"_target_": "clouds.Clouds"}
    config.network = {"_target_": "clouds.PointNetwork", "width": 8}
    config.modality = {"_target_": "clouds.Cloud", "shape": "???", "classes": "???"}
    samples = core.load(fit(config), device="cpu", allow=["clouds"]).sample(n=2, steps=2)
    assert samples.x.shape == (2, 5, 3)
    assert samples.x.mean(1).abs().max() < 1e-5


ON_CPU = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.workers=1")


def test_trainer_gpu(tmp_path: Path, cache: Path, no_plots: None) -> None:
    """As it stands, but for the device and its compiler."""
    assert compose("train", "trainer=gpu").trainer.accelerator == "gpu"
    run = fit(compose("train", *TINY, *NETWORK, "trainer=gpu", *ON_CPU, "trainer.compile=false", f"out={tmp_path}"))
    trains_and_samples(run)


@pytest.mark.parametrize(("graphs", "mode"), [("false", None), ("true", "reduce-overhead")])
def test_the_compiler_is_told_of_graphs(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch, graphs: str, mode: str | None
) -> None:
    modes: list[str | None] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode: modes.append(mode))
    switches = ("trainer.compile=true", f"trainer.cuda_graphs={graphs}")
    fit(compose("train", *TINY, *NETWORK, *switches, f"out={tmp_path}"))
    assert modes == [mode]


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (("trainer.compile=false",), r"needs trainer\.compile=true"),
        (("trainer.compile=true", "training.accumulate=2"), r"needs training\.accumulate=1, not 2"),
    ],
)
def test_graphs_are_refused_where_they_would_be_wrong(
    tmp_path: Path, cache: Path, switches: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=r"trainer\.cuda_graphs=true: " + message):
        fit(compose("train", *TINY, *NETWORK, "trainer.cuda_graphs=true", *switches, f"out={tmp_path}"))


def test_trainer_ddp(tmp_path: Path, cache: Path, no_plots: None) -> None:
    """A group of one process over gloo."""
    assert compose("train", "trainer=ddp").trainer.accelerator == "gpu"
    try:
        run = fit(compose("train", *TINY, *NETWORK, "trainer=ddp", *ON_CPU, "trainer.compile=false", f"out={tmp_path}"))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    trains_and_samples(run)


def test_a_network_of_no_classes_makes_a_model_without_labels(tmp_path: Path, cache: Path, no_plots: None) -> None:
    run = train(tmp_path / "run", "network.num_classes=0", "n=4")
    model = core.load(run, device="cpu")
    assert model.modality.classes == []
    assert model.sample(n=2, steps=2).cond == {}
    with np.load(next(run.glob("samples/*/samples.npz"))) as arrays:
        assert "label" not in arrays
    with pytest.raises(UserError, match=r"unknown condition \['label'\]; this model's conditions: none"):
        model.sample(n=2, steps=2, label=3)


def test_figures_that_cannot_be_had_are_named_before_and_after_training(
    pictures: Path, tmp_path: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    run = train(tmp_path, "data=folder", f"data.path={pictures}", "data.size=8", "n=3")
    log = " ".join((run / "log.txt").read_text().split())
    wanted = "figures through Inception-v3 are missing: Inception-v3 needs torch-fidelity: pip install torch-fidelity"
    before, after = log.split("trained 2 steps")
    assert wanted in before
    assert wanted in after
    samples = run / "samples" / "step-00000002"
    assert (samples / "grid.png").exists()
    assert "nearest_training_ratio" in json.loads((samples / "evaluation.json").read_text())["samples"]


def test_the_separate_ones_are_still_there() -> None:
    assert set(SEPARATE) <= set(OPTIONS)
    assert set(NEEDS) <= set(OPTIONS)


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONFIGS.glob("experiment/*.yaml"))])
def test_an_experiment_is_named_as_its_file(name: str) -> None:
    assert compose("train", f"experiment={name}").name == name


def test_a_modality_and_an_experiment_override_the_defaults() -> None:
    config = compose("train", "experiment=ddpm_cifar10")
    assert (config.name, config.steps, config.training.batch_size) == ("ddpm_cifar10", 1000, 128)
    assert config.optimisation.lr == pytest.approx(2e-4)
    assert compose("train", "experiment=ddpm_cifar10", "steps=7").steps == 7
