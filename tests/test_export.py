"""A model to pass on: half of the bytes, the same samples, and no trace of the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from runs import Outcome, weights

import core
from core.checkpoint import find


def test_an_exported_model_draws_what_the_run_draws(
    trained: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    out = tmp_path / "mine"
    assert command("export", f"checkpoint={trained}", f"out={out}").code == 0
    assert {file.name for file in out.iterdir()} == {"model.safetensors", "config.yaml", "digests.json"}
    ema, half = weights(trained, averaged=True), weights(out)
    assert all(value.dtype == torch.float16 for value in half.values() if value.is_floating_point())
    for name in ema:
        torch.testing.assert_close(half[name].float(), ema[name].float(), rtol=1e-3, atol=1e-4)
    one, other = (core.load(path, device="cpu").sample(n=2, steps=2) for path in (trained, out))
    torch.testing.assert_close(one.x, other.x, rtol=0, atol=2e-2)
    assert (out / "model.safetensors").stat().st_size < 0.6 * (find(trained) / "ema.safetensors").stat().st_size


def test_it_forgets_the_machine(trained: Path, tmp_path: Path, command: Callable[..., Outcome]) -> None:
    out = tmp_path / "mine"
    assert command("export", f"checkpoint={trained}", f"out={out}", "forget=[out,seed]").code == 0
    config = OmegaConf.load(out / "config.yaml")
    assert config.out is None
    assert config.seed is None
    assert str(trained) not in (out / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=x"], "checkpoint= is not set"),
        (["checkpoint=nowhere", "out=x"], "no last checkpoint in nowhere"),
    ],
)
def test_what_is_missing_is_named(command: Callable[..., Outcome], arguments: list[str], message: str) -> None:
    outcome = command("export", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_nothing_is_overwritten(trained: Path, tmp_path: Path, command: Callable[..., Outcome]) -> None:
    outcome = command("export", f"checkpoint={trained}", f"out={tmp_path}")
    assert outcome.code == 2
    assert "is there already" in outcome.err


def test_what_is_written_has_the_permissions_of_any_new_file(own_run: Path, tmp_path: Path) -> None:
    """Others of the group may read a run, where the umask says so."""
    fresh = tmp_path / "fresh"
    fresh.touch()
    files = [file for file in find(own_run).iterdir() if file.is_file()]
    assert {file.suffix for file in files} >= {".safetensors", ".json", ".yaml"}
    assert {file.stat().st_mode for file in files} == {fresh.stat().st_mode}
