"""Guidance from configs: one inside another, away from a weaker run, away from a named class; and safe ones only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from runs import Outcome, sample
from torch import Tensor, nn

import core
from core import checkpoint
from core.batch import Batch
from core.build import guided
from core.codec import Identity
from core.denoiser import Denoiser
from core.errors import UserError
from core.guidance import Autoguided, ClassifierFree, Interval, Rescaled
from core.output import read_arrays
from core.prediction import Velocity
from core.samplers import DDIM
from core.samplers import sample as draw
from core.schedules import Cosine
from core.times import Uniform

FREE = {"_target_": "core.guidance.ClassifierFree"}
INTERVAL = {"_target_": "core.guidance.Interval"}


class Labelled(nn.Module):
    """Answers with the label, or -1 where it is dropped or absent."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.rows = 0

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        self.rows += len(x)
        label = cond.get("label", -torch.ones(len(x)))
        drop = cond.get("drop", torch.zeros(len(x), dtype=torch.bool))
        return self.one * torch.where(drop, -1, label).to(x.dtype)[:, None] + 0 * x


def built(guidance: object, classes: tuple[str, ...] = ("cat", "dog", "cow")) -> nn.Module:
    modality = {"_target_": "core.modality.Modality", "shape": [2], "classes": list(classes)}
    config = OmegaConf.create({"guidance": guidance, "clip": None, "allow": [], "modality": modality, "steps": 3})
    return guided(config, Denoiser(Labelled(), Cosine(), Velocity()), Identity())


def test_guidance_stands_within_guidance() -> None:
    inner = {"_target_": "core.guidance.Rescaled", "scale": "${steps}", "share": 0.5}
    outer = built({**INTERVAL, "sigma_max": 5, "denoiser": {**INTERVAL, "sigma_min": 0.5, "denoiser": inner}})
    assert isinstance(outer, Interval)
    assert isinstance(outer.denoiser, Interval)
    assert isinstance(rescaled := outer.denoiser.denoiser, Rescaled)
    assert isinstance(rescaled.denoiser, Denoiser)
    assert (outer.sigma_max, outer.denoiser.sigma_min, rescaled.scale, rescaled.share) == (5, 0.5, 3, 0.5)


def test_building_leaves_the_config_as_it_is() -> None:
    config = OmegaConf.create(
        {"guidance": {**INTERVAL, "denoiser": {**FREE, "scale": 2}}, "clip": None, "allow": []}, flags={"struct": True}
    )
    before = OmegaConf.to_yaml(config)
    for _ in range(2):
        guided(config, Denoiser(Labelled(), Cosine(), Velocity()), Identity())
    assert OmegaConf.to_yaml(config) == before


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ({**INTERVAL}, "guidance: an interval needs guidance within it, such as ClassifierFree, not Denoiser"),
        ({**INTERVAL, "denoiser": None}, r"guidance\.denoiser must be guidance, with a _target_ of its own"),
        ({**INTERVAL, "denoiser": "x"}, r"guidance\.denoiser must be guidance"),
        ({**INTERVAL, "denoiser": "${guidance}"}, r"guidance\.denoiser must be guidance"),
        ({**INTERVAL, "denoiser": {**INTERVAL, "denoiser": "${guidance}"}}, r"guidance\.denoiser\.denoiser must be"),
        ({**INTERVAL, "denoiser": {"scale": 2}}, "the config has no _target_, but only the keys scale"),
        ({**INTERVAL, "denoiser": {**FREE, "scael": 2}}, "did you mean 'scale'"),
        ({**INTERVAL, "sigma_min": 3, "sigma_max": 2, "denoiser": FREE}, "^guidance: sigma_min=3, sigma_max=2"),
        ({**INTERVAL, "denoiser": {"_target_": "os.system", "command": "x"}}, "only classes defined in the packages"),
        ({**INTERVAL, "denoiser": {"_target_": "core.guidance.wrapper.torch"}}, "_target_"),
        ({**INTERVAL, "denoiser": {"_target_": "core.samplers.DDIM"}}, "cannot stand here: it is no BaseDenoiser"),
        ({**FREE, "denoiser": {**FREE, "scale": r"\${oc.env:HOME}"}}, "interpolation within an interpolation"),
        ({"_target_": "core.guidance.Autoguided"}, "needs a value for weaker"),
        ({"_target_": "core.guidance.Autoguided", "weaker": "nowhere"}, "no last checkpoint in nowhere"),
        ({**FREE, "negative": {"label": "bird"}}, "unknown label 'bird'; allowed: cat, dog, cow"),
        ({**FREE, "negative": {"speaker": "theo"}}, r"unknown condition \['speaker'\]; this model's conditions: label"),
    ],
)
def test_what_cannot_be_built_is_one_line(guidance: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        built(guidance)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "number"), [("cow", 2), (2, 2), ("cat", 0)])
def test_a_negative_class_goes_by_its_name(name: object, number: int) -> None:
    wrapped = built({**INTERVAL, "denoiser": {**FREE, "scale": 3, "negative": {"label": name}}})
    free = wrapped.denoiser
    assert isinstance(free, ClassifierFree)
    assert free.negative == {"label": number}
    assert isinstance(free.negative["label"], int)


# ---- through a trained run and the command line


def test_an_interval_from_the_command_line(trained: Path, tmp_path: Path, command: Callable[..., Outcome]) -> None:
    """Four steps, of which the interval has some: one row of the network outside and two inside."""
    chosen = ["guidance=interval", "guidance.denoiser.scale=3", "guidance.sigma_max=5"]
    where = (f"checkpoint={trained}", "n=2", "steps=4", "device=cpu")
    nfe = {}
    for name, choice in {"free": ["guidance.scale=3"], "none": ["guidance.scale=1"], "interval": chosen}.items():
        outcome = command("sample", *where, f"out={tmp_path / name}", *choice)
        assert outcome.code == 0, outcome.err
        nfe[name] = json.loads((tmp_path / name / "manifest.json").read_text())["nfe"]
    assert nfe["free"] == 8
    assert nfe["none"] == 4
    assert 4 < nfe["interval"] < 8
    outcome = command("sample", *where, f"out={tmp_path / 'wrong'}", *chosen, "guidance.denoiser.scael=2")
    assert (outcome.code, "did you mean 'scale'?" in outcome.err) == (2, True)
    assert not (tmp_path / "wrong").exists(), "a folder is taken by a request that cannot be drawn"


def test_a_run_guided_away_from_itself_is_itself(trained: Path, tmp_path: Path) -> None:
    plain = read_arrays(sample(trained, tmp_path / "plain", "guidance.scale=1") / "samples.npz")
    chosen = ("guidance=autoguidance", f"guidance.weaker={trained}", "guidance.scale=3")
    guided_by_itself = read_arrays(sample(trained, tmp_path / "auto", *chosen) / "samples.npz")
    # pixels are whole numbers: a rounding may fall to the other side
    torch.testing.assert_close(plain.x.float(), guided_by_itself.x.float(), atol=1.0, rtol=0)


def test_an_earlier_checkpoint_leads_away_from_itself(trained: Path) -> None:
    """Karras et al. 2024: w + scale (d - w)."""
    earlier, later = sorted(trained.glob("checkpoints/step-*"))
    model = core.load(later, device="cpu")
    config = model.config.copy()
    guidance = {"_target_": "core.guidance.Autoguided", "weaker": str(earlier), "scale": 3}
    OmegaConf.update(config, "guidance", guidance, merge=False)
    config.clip = None
    wrapped = guided(config, model.denoiser, model.codec)
    assert isinstance(wrapped, Autoguided)
    template, weaker = model.template(3), core.load(earlier, device="cpu").denoiser
    x_t, t = torch.randn(template.x.shape, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.5)
    with torch.no_grad():
        found, d, w = (one(x_t, t, template.mask, template.cond).x0 for one in (wrapped, model.denoiser, weaker))
    assert float((d - w).abs().max()) > 1e-4
    torch.testing.assert_close(found, w + 3 * (d - w))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"schedule": {"_target_": "core.schedules.Cosine", "log_snr_min": -5, "log_snr_max": 9}}, "schedule"),
        ({"codec": {"_target_": "core.codec.Affine", "shift": 0.5}}, "codec"),
        ({"modality.classes": [str(n) for n in range(1, 11)]}, "conditions"),
    ],
)
def test_a_weaker_run_of_another_task_is_refused(trained: Path, own_run: Path, changed: dict, named: str) -> None:
    file = checkpoint.find(own_run) / checkpoint.CONFIG
    file.with_name("digests.json").unlink()  # changed on purpose
    tree = OmegaConf.load(file)
    for key, value in changed.items():
        OmegaConf.update(tree, key, value, merge=False)
    OmegaConf.save(tree, file)
    model = core.load(trained, device="cpu")
    config = model.config.copy()
    guidance = {"_target_": "core.guidance.Autoguided", "weaker": str(own_run)}
    OmegaConf.update(config, "guidance", guidance, merge=False)
    with pytest.raises(UserError, match=f"guidance.weaker=.*: its {named} is another; to guide, a weaker model must"):
        guided(config, model.denoiser, model.codec)


def test_a_negative_class_leads_away_from_it() -> None:
    """On a network that answers with the label, the answer is u + scale (c - u) with u the negative label."""
    wrapped = built({**FREE, "scale": 3, "negative": {"label": "cow"}})
    template = Batch.full(torch.zeros(3, 2), {"label": torch.tensor([0, 1, 2])})
    t = torch.full((3,), 0.5)
    with torch.no_grad():
        # velocity at t = 1/2, from x_t = 0: x_0 = -sigma F
        found = wrapped(template.x, t, template.mask, template.cond).x0 / -(0.5**0.5)
        alone = wrapped(template.x, t, template.mask, {}).x0 / -(0.5**0.5)
    torch.testing.assert_close(found[:, 0], torch.tensor([2 + 3 * (0 - 2.0), 2 + 3 * (1 - 2.0), 2.0]))
    torch.testing.assert_close(alone[:, 0], torch.full((3,), 2 + 3 * (-1 - 2.0)))
    draw(wrapped, DDIM(), template, Uniform(2)(Cosine()))
    assert wrapped.denoiser.network.rows == 2 * 3 * 4
