"""The command line: a first line at once, and errors that say in one line what to do, with exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from runs import ROOT, Outcome

SHORT = ("training.steps=1", "n=0", "trainer=cpu")  # should something not be refused

LEARNED = ["learned_variance={_target_:core.denoiser.LearnedVariance,num_steps:50}", "network.learned_variance=true"]


def refused(outcome: Outcome, *said: str) -> None:
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err + outcome.out
    for text in said:
        assert text in outcome.err, outcome.err


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["schedule=cosin"], ["schedule/cosin", "cosine", "linear_beta"]),
        (["modality=smell"], ["modality/smell", "image"]),
        (["experiment=ddpm"], ["experiment/ddpm", "ddpm_cifar10"]),
        (["schedul=cosine"], ["unknown key schedul", "did you mean schedule?"]),
        (["training.step=3"], ["unknown key training.step", "did you mean training.steps?"]),
        (["trainig.steps=3"], ["unknown key trainig", "did you mean training?"]),
        (["network.width=[8]"], ["unknown key network.width", "did you mean network.widths?"]),
        (["guidance.scael=2"], ["ClassifierFree has no key 'scael' (did you mean 'scale'?)"]),
        (["sampler.ordr=2"], ["UniPC has no key 'ordr' (did you mean 'order'?)"]),
        (["nonsense"], ["nonsense"]),
        (["+="], ["cannot be composed", "+="]),
        (["=null"], ["cannot be composed", "must be a string or a list", "=null"]),
        (["schedule=[null]"], ["cannot be composed", "schedule=[null]"]),
        (["training.steps=two"], ["training.steps=two", "whole number of at least 1"]),
        (["training.batch_size=0"], ["training.batch_size=0", "whole number of at least 1"]),
        (["optimisation.lr=fast"], ["optimisation.lr=fast", "positive number"]),
        (["training.drop_rate=1.5"], ["training.drop_rate=1.5", "from 0 to 1"]),
        (["seed=null"], ["seed=null", "whole number"]),
        (["schedule.log_snr_min=5", "schedule.log_snr_max=4"], ["schedule:", "5", "4"]),
        (["cond.label=77", "n=4"], ["unknown label 77"]),
        (["times=quadratic", "steps=2000"], ["times:", "2000", "1000"]),
        (["resume=/nowhere"], ["no last checkpoint in /nowhere"]),
        (["init_from=/nowhere"], ["no last checkpoint in /nowhere"]),
        (["data=folder"], ["path, size"]),
        (["data=folder", "data.path=/nowhere", "data.size=8"], ["/nowhere", "no such folder"]),
        (["network._target_=os.system"], ["os.system", "may name only classes defined in the packages"]),
        (["network._target_=core.layers.unet.Nothing"], ["Nothing"]),
        (["network.widths=[8,8,8]", "network.groups=4"], ["the network cannot take a sample of 1x28x28", "28"]),
        (["network.channels=3"], ["the network cannot take a sample of 1x28x28", "3"]),
        ([*LEARNED, "levels=uniform"], ["learned_variance needs levels=discrete levels.num_steps=50"]),
        ([*LEARNED, "levels=discrete"], ["learned_variance needs levels=discrete levels.num_steps=50"]),
        (LEARNED[:1], ["the network returns (1, 1, 28, 28)"]),
        (["guidance=none", "guidance.scale=2"], ["guidance.scale=2", "choose guidance=classifier_free"]),
        (["clip=none", "clip.quantile=0.9"], ["clip.quantile=0.9", "choose clip=range or clip=dynamic"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_training_refuses(arguments: list[str], said: list[str], command: Callable[..., Outcome]) -> None:
    refused(command("train", *SHORT, *arguments), *said)
    assert not Path("runs").exists()  # no empty run folder is left behind


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cond.label=77"], ["unknown label 77", "allowed: 0, 1"]),
        (["cond.label=cat"], ["unknown label 'cat'"]),
        (["cond.label=[1,2]"], ["2 entries", "n=4"]),
        (["cond.lable=7"], ["unknown condition", "lable", "label"]),
        (["guidance.scael=2"], ["did you mean 'scale'?"]),
        (["sampler=ddpn"], ["sampler/ddpn", "ddim", "ddpm"]),
        (["sampler.order=-1"], ["sampler:", "order=-1"]),
        (["steps=0"], ["steps=0", "whole number of at least 1"]),
        (["n=-2"], ["n=-2"]),
        (["n=0"], ["n=0"]),
        (["n=abc"], ["n=abc"]),
        (["micro_batch=0"], ["micro_batch=0"]),
        (["which=worst"], ["which=worst", "last or best"]),
        (["device=tpu"], ["device=tpu", "cpu"]),
        (["times=quadratic", "steps=2000"], ["2000", "1000"]),
        (["chekpoint=x"], ["did you mean checkpoint?"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_sampling_refuses(
    arguments: list[str], said: list[str], trained: Path, command: Callable[..., Outcome]
) -> None:
    tiny = [f"checkpoint={trained}", "n=4", "steps=2", "device=cpu"]
    keys = {argument.split("=")[0] for argument in arguments}
    refused(command("sample", *(t for t in tiny if t.split("=")[0] not in keys), *arguments), *said)


def test_a_folder_that_hydra_takes_for_a_group(command: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    refused(command("evaluate", "--config-dir", ".", "samples=a"), "--config-dir has a folder samples/")


def test_a_missing_checkpoint(command: Callable[..., Outcome]) -> None:
    refused(command("sample"), "checkpoint= is not set")
    refused(command("sample", "checkpoint=/nowhere"), "no last checkpoint in /nowhere")


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, command: Callable[..., Outcome]) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    refused(command("train", "data=torchvision", "data.name=MNIST", "trainer=cpu"), "torchvision", "pip install")


def test_debug_shows_the_traceback(command: Callable[..., Outcome]) -> None:
    from core.errors import UserError

    with pytest.raises(UserError):
        command("sample", "debug=true", "checkpoint=/nowhere")


def test_an_error_of_the_program_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, command: Callable[..., Outcome]
) -> None:
    def breaks(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("core.fit.fit", breaks)
    with pytest.raises(RuntimeError, match="a bug"):
        command("train")


def test_the_first_line_comes_before_torch(tmp_path: Path) -> None:
    """Where torch and Lightning cannot even be imported, the command has said what it does."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('torch', 'lightning', 'hydra', 'numpy', 'rich'):\n    sys.modules[name] = None\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    for name in ("train", "sample", "evaluate"):
        call = [sys.executable, "-m", f"core.{name}", "seed=1"]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert done.stdout == f"polydiffusion: core.{name} seed=1\n"


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from core.cli import say

    for rank, said in (("0", "hello\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        say("hello")
        assert capsys.readouterr().out == said


def test_a_checkpoint_without_guidance_says_how_to_choose_one(own_run: Path, command: Callable[..., Outcome]) -> None:
    for config in own_run.glob("checkpoints/*/config.yaml"):
        config.with_name("digests.json").unlink()  # changed on purpose
        tree = OmegaConf.load(config)
        tree.guidance = {}
        OmegaConf.save(tree, config)
    refused(command("sample", f"checkpoint={own_run}", "guidance.scale=2"), "choose guidance=classifier_free")


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ("guidance=none", "guidance", {"_target_": None}),
        ("clip=none", "clip", {"_target_": None}),
        ("clip=dynamic", "clip", {"_target_": "core.guidance.DynamicThreshold", "quantile": 0.995}),
        ("guidance.scale=3", "guidance", {"_target_": "core.guidance.ClassifierFree", "scale": 3}),
    ],
)
def test_guidance_and_clipping_are_chosen_like_every_part(
    given: str, key: str, value: dict, trained: Path, command: Callable[..., Outcome]
) -> None:
    arguments = (f"checkpoint={trained}", "n=4", "steps=2", "device=cpu")
    for name in ("sample", "evaluate"):
        outcome = command(name, *arguments, given, f"out={name}")
        assert outcome.code == 0, outcome.err
        manifest = json.loads(Path(name, "manifest.json").read_text())
        assert manifest["request"][key] == value
        assert manifest["nfe"] == (2 if given == "guidance=none" else 4)
