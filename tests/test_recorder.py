"""The flight recorder: a step that is no number changes nothing, is written down, and breaks again when taken again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import Outcome, train, weights
from test_cli import refused
from torch import Tensor, nn

from core import checkpoint, random, recorder
from core.batch import Batch
from core.codec import Affine
from core.denoiser import Denoiser
from core.diagnosis import diagnose
from core.errors import UserError
from core.levels import Uniform
from core.objective import Objective, Taken
from core.prediction import Velocity
from core.recorder import Spikes
from core.schedules import Cosine

FOUR = ("training.steps=4", "training.validate_every=1", "optimisation.warmup=1", "training.keep=9", "preview.n=0")


def spoil(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """The second sample of these batches of training is no number."""
    encode, calls = Affine.encode, iter(range(10_000))

    def spoiled(self: Affine, batch: Batch) -> Batch:
        encoded = encode(self, batch)
        if len(batch) == 4 and torch.is_grad_enabled() and next(calls) in steps:
            encoded.x[1] = math.nan
        return encoded

    monkeypatch.setattr(Affine, "encode", spoiled)


@pytest.fixture
def spoiled(tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose third step cannot be applied."""
    with monkeypatch.context() as patch:
        spoil(patch, 2)
        return train(tmp_path / "run", *FOUR)


def test_the_step_changes_nothing_and_the_next_ones_go_on(spoiled: Path) -> None:
    """Neither weights nor the optimiser's state: not its moments, not its count of steps."""
    folders = [spoiled / "checkpoints" / checkpoint.step_name(step) for step in (2, 3, 4)]
    raw = [checkpoint.load_weights(folder, averaged=False) for folder in folders]
    assert all(torch.equal(raw[0][name], raw[1][name]) for name in raw[0])
    assert any(not torch.equal(raw[1][name], raw[2][name]) for name in raw[0])
    moments = [checkpoint.load_state(folder)["optimizer_states"][0]["state"] for folder in folders]
    for number, before in moments[0].items():
        for name, value in before.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][number][name]))
    assert all(value.isfinite().all() for value in weights(spoiled, averaged=True).values())


def test_it_is_written_down_and_breaks_again(spoiled: Path, command: Callable[..., Outcome]) -> None:
    folder = spoiled / "flight" / "step-00000002"
    found = json.loads((folder / "record.json").read_text())["found"]
    assert found["culprit"] == "the data of the samples [1] of the batch are no numbers"
    assert [math.isfinite(float(loss)) for loss in found["losses"]] == [True, False, True, True]
    log = " ".join((spoiled / "log.txt").read_text().split())
    assert "step 2 is not applied: the data of the samples [1]" in log
    outcome = command("train", f"replay={folder}")
    assert outcome.code == 0
    assert "now: the data of the samples [1] of the batch are no numbers" in " ".join(outcome.out.split())
    assert "nan" in outcome.out


def test_the_losses_taken_again_are_those_of_training(spoiled: Path) -> None:
    """Nothing but the record is needed: times, noise and dropped conditions follow from it."""
    from core.build import build_codec, build_denoiser, build_levels
    from core.config import load_yaml

    folder = spoiled / "flight" / "step-00000002"
    taken, record = recorder.read(folder)
    config = load_yaml(checkpoint.load_config_text(folder))
    denoiser = build_denoiser(config, build_codec(config)).train()
    denoiser.load_state_dict(checkpoint.load_weights(folder, averaged=False))
    again = diagnose(denoiser, Objective(build_levels(config), config.training.drop_rate, config.seed), taken)
    assert [str(loss) for loss in again.losses] == record["found"]["losses"]


def test_after_some_in_a_row_it_stops(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 1, 2, 3)
    with pytest.raises(UserError, match=r"3 steps in a row, up to 3, .* no number: .*replay=") as error:
        train(tmp_path / "run", *FOUR, "training.patience=3")
    assert "\n" not in str(error.value)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_step_that_is_not_applied_is_no_norm_of_recent_clipping(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradients have been taken away: as a norm of 0 it would draw the bound down for all steps after it."""
    spoil(monkeypatch, 1, 2)
    run = train(tmp_path / "run", *FOUR, "optimisation.clip_recent=2", "optimisation.clip_norm=null")
    norms = checkpoint.load_state(checkpoint.find(run))["callbacks"]["RecentClipping"]["norms"]
    assert len(norms) == 2
    assert min(norms) > 0


def test_every_step_that_is_not_applied_is_said(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those after the first ones, which alone are written down."""
    monkeypatch.setattr(recorder, "MOST", 1)
    spoil(monkeypatch, 1, 3)
    run = train(tmp_path / "run", *FOUR)
    log = " ".join((run / "log.txt").read_text().split())
    assert "step 1 is not applied: the data of the samples [1]" in log
    assert "step 3 is not applied: its loss or gradient is no number" in log
    assert [folder.name for folder in (run / "flight").iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("harm", ["no json", "no batches", "no record"])
def test_what_is_no_record_is_refused(
    harm: str, spoiled: Path, command: Callable[..., Outcome], tmp_path: Path
) -> None:
    folder = spoiled / "flight" / "step-00000002"
    if harm == "no json":
        (folder / "record.json").write_text("{")
    elif harm == "no batches":
        (folder / "batches.safetensors").write_bytes(b"\0" * 9)
    else:
        folder = tmp_path
    refused(command("train", f"replay={folder}"), "cannot be read")


class Root(nn.Module):
    """Its slope at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt()


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 100).log()


class Fragile(nn.Module):
    """Its middle part may fail on the way forward, or only on the way back."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 3), middle, nn.Linear(3, 3)

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        return self.last(self.middle(self.first(x)))


@pytest.mark.parametrize(
    ("middle", "culprit"),
    [
        (Log(), "the output of network.middle (Log) is no number"),
        (Root(), "the gradient after network.first (Linear) is no number"),
        (nn.Tanh(), "taken again, all is finite"),
    ],
)
def test_the_culprit_is_the_first_module(middle: nn.Module, culprit: str) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(Fragile(middle), Cosine(), Velocity())
    if isinstance(middle, Root):
        nn.init.zeros_(denoiser.network.first.weight)
        nn.init.zeros_(denoiser.network.first.bias)
    batch = Batch.full(random.normal(random.keys(0, torch.arange(4)), (3,)))
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    generator = torch.get_rng_state()
    found = diagnose(denoiser, Objective(Uniform()), [Taken(batch, 5, torch.arange(4), 4, 7)])
    assert found.culprit.startswith(culprit)
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks for module in denoiser.modules())


def test_broken_weights_are_named_before_what_they_break() -> None:
    denoiser = Denoiser(Fragile(nn.Tanh()), Cosine(), Velocity())
    with torch.no_grad():
        denoiser.network.last.bias[1] = math.inf
    batch = Batch.full(torch.zeros(2, 3))
    found = diagnose(denoiser, Objective(Uniform()), [Taken(batch, 0, torch.arange(2), 2, 0)])
    assert found.culprit == "the weights network.last.bias are no numbers"


def test_spikes_are_losses_far_above_the_recent_ones() -> None:
    spikes, generator = Spikes(), torch.Generator().manual_seed(0)
    noisy = torch.exp(0.1 * torch.randn(400, generator=generator) - 0.002 * torch.arange(400)).tolist()
    assert [spikes(loss) for loss in noisy] == [None] * 400, "a noisy loss that falls has none"
    usual = spikes(5.0)
    assert usual == pytest.approx(noisy[-1], rel=0.5)
    assert spikes(5.0) is None, "one report is enough for a while"
    assert Spikes()(100.0) is None, "at the start everything is new"
