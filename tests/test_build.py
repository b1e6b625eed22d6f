"""From a config to its objects: what a codec measures becomes part of the config, and so of the model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from runs import compose, train

import core
from core import build, checkpoint
from core.batch import Batch
from core.codec import Affine, Codec
from core.data import ArraySource
from core.denoiser import Denoiser
from core.errors import UserError
from core.fit import fit
from core.modality import Modality
from core.model import Model
from core.prediction import Velocity
from core.schedules import Cosine


class Measured(Affine):
    """z = x / scale with the data's own spread; it counts the batches that it was shown."""

    seen: list[int] = []  # noqa: RUF012 (the test empties it)

    def __init__(self, scale: float = 1.0, highest: Mapping[str, object] | None = None) -> None:
        super().__init__(scale=scale)
        self.highest = dict(highest or {})

    def fit(self, batch: Batch) -> Mapping[str, object]:
        self.seen.append(len(batch))
        return {"scale": float(batch.x.float().std()), "highest": {"value": float(batch.x.max())}}


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of somebody's own, with a codec that is fitted; the override that chooses it."""
    package = ModuleType("theirs")
    package.Measured = type("Measured", (Measured,), {"__module__": "theirs"})
    monkeypatch.setitem(sys.modules, "theirs", package)
    Measured.seen.clear()
    return "+codec.highest={unit:grey,value:null}"


def measured(folder: Path, *overrides: str) -> Path:
    return train(folder, "codec=identity", "codec._target_=theirs.Measured", "allow=[theirs]", *overrides)


def codec_of(run: Path) -> Measured:
    return core.load(run, device="cpu", allow=["theirs"]).codec


def test_what_is_measured_joins_the_config_and_every_checkpoint(
    measuring: str, tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FIT_SAMPLES", 300)
    run = measured(tmp_path / "run", measuring)
    assert Measured.seen == [300]  # once, on so much of the training data
    found = OmegaConf.load(run / "config.yaml").codec
    assert 60 < found.scale < 100
    assert found.highest == {"unit": "grey", "value": 255}  # what is not measured stays
    (step,) = run.glob("checkpoints/step-*")
    assert OmegaConf.create(checkpoint.load_config_text(step)).codec == found

    codec = codec_of(run)
    assert (codec.scale, codec.highest) == (found.scale, dict(found.highest))
    codec_of(fit(compose("train", f"resume={run}", "allow=[theirs]")))
    assert len(Measured.seen) == 1  # neither loading nor resuming measures again
    assert codec_of(run).scale == codec.scale


def test_what_the_config_sets_itself_stays(measuring: str) -> None:
    config = compose("train", "codec=identity", "codec._target_=theirs.Measured", "allow=[theirs]", "+codec.scale=3")
    source = ArraySource(np.linspace(-1, 1, 50, dtype=np.float32)[:, None])
    codec = build.fitted_codec(config, source)
    assert codec.scale == config.codec.scale == 3
    assert codec.highest == config.codec.highest == {"value": 1}


def test_a_codec_that_measures_nothing_leaves_the_config_alone() -> None:
    config = compose("train", "codec=affine", "codec.scale=3")
    before = config.codec.copy()
    assert build.fitted_codec(config, ArraySource(np.zeros((4, 1)))).scale == 3
    assert config.codec == before


# Conditions that only data has


class Doubled(Codec):
    """The first half of the data is the condition of the second."""

    conditions = ("first",)

    def encode(self, batch: Batch) -> Batch:
        first, second = batch.x.chunk(2, dim=1)
        return Batch.full(second, {**batch.cond, "first": first})

    def decode(self, batch: Batch) -> Batch:
        return Batch.full(torch.cat([batch.cond["first"], batch.x], dim=1))


class Twins(Modality):
    def template(self, n: int, cond: Mapping[str, object] | None = None) -> Batch:
        filled = float((cond or {}).get("filled", 0))
        return Batch.full(torch.full((n, 4), filled))


class Copies(torch.nn.Module):
    """Answers with its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, c_noise, mask, cond):
        return self.one * cond["first"]


def model(codec: Codec) -> Model:
    config = OmegaConf.create({"guidance": None, "clip": None, "steps": 1, "allow": []})
    return Model(Denoiser(Copies(), Cosine(), Velocity()), codec, Twins((4,)), config)


HELD_OUT = ArraySource(np.arange(12, dtype=np.float32).reshape(3, 4))


def test_conditions_come_from_held_out_data_unless_others_are_asked_for() -> None:
    template = model(Doubled()).template(2, source=HELD_OUT)
    assert template.cond["first"].tolist() == [[0, 1], [4, 5]]
    assert template.x.shape == (2, 2)
    assert not template.x.any()
    asked = model(Doubled()).template(2, {"filled": 7}, HELD_OUT)
    assert asked.cond["first"].tolist() == [[7, 7], [7, 7]]
    with pytest.raises(UserError, match=r"n=4: the conditions come from held-out data, and there are only 3"):
        model(Doubled()).template(4, source=HELD_OUT)


def test_a_codec_without_conditions_of_its_own_does_not_look_at_data() -> None:
    template = model(Affine()).template(5, source=HELD_OUT)
    assert template.x.shape == (5, 4)
    assert template.cond == {}


def test_a_grid_that_the_schedule_has_no_room_for_is_one_line() -> None:
    config = compose("train", "times.log_snr_shift=-2", "schedule=linear_beta", "steps=10")
    denoiser = Denoiser(Copies(), build.part(config, "schedule"), Velocity())
    with pytest.raises(UserError, match=r"times: log_snr_shift=-2: beyond the ends of this schedule for n=10"):
        build.build_sampler(config, denoiser)
