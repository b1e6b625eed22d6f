"""What a run survives: being told to stop, a full disk, another run that wants its folder."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import TINY_IMAGES, Outcome, assert_same_weights, compose, train
from test_cli import refused
from test_train import FOUR, resume

from core import checkpoint, tensor_files
from core.module import DiffusionModule
from core.runs import in_use, new_folder


def test_a_run_that_is_told_to_stop_saves_and_says_so_to_the_scheduler(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM, as from a scheduler that wants the machine: nothing is lost, and the exit code asks to be requeued."""
    step = DiffusionModule.training_step

    def told(self: DiffusionModule, *arguments: object) -> object:
        if self.trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModule, "training_step", told)
        with pytest.raises(SystemExit) as end:
            train(tmp_path / "run", *FOUR)
    assert end.value.code == 143
    assert checkpoint.find(tmp_path / "run").name == "step-00000003"
    assert "told to stop at step 3; resume=" in " ".join((tmp_path / "run" / "log.txt").read_text().split())
    straight = train(tmp_path / "straight", *FOUR)
    resume(tmp_path / "run")
    assert_same_weights(tmp_path / "run", straight)


def test_a_folder_in_use_is_left_alone(own_run: Path, command: Callable[..., Outcome]) -> None:
    before = sorted(path for path in own_run.rglob("*") if path.name != ".lock")
    with in_use(own_run):
        refused(command("train", f"resume={own_run}", "training.steps=6"), f"{own_run} is in use by another process")
    assert sorted(path for path in own_run.rglob("*") if path.name != ".lock") == before
    assert command("train", f"resume={own_run}", "training.steps=5", "n=0").code == 0


def test_two_runs_of_one_second_have_folders_of_their_own(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("core.runs._moment", lambda: "20260101-120000")
    config = compose("train", *TINY_IMAGES)
    folders = [new_folder(config) for _ in range(3)]
    assert [str(folder) for folder in folders] == [f"runs/image-20260101-120000{end}" for end in ("", "--2", "--3")]


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, cache: Path, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    outcome = command("train", *TINY_IMAGES, f"out={tmp_path / 'file' / 'run'}")
    refused(outcome, "cannot be written: Not a directory")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(
    code: int, own_run: Path, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a disk that has become read-only: the run stops, and what was saved can be resumed."""

    def full(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "save", full)
        outcome = command("train", f"resume={own_run}", "training.steps=6", "n=0")
    refused(outcome, f"{own_run} cannot be written: {os.strerror(code)}")
    assert checkpoint.find(own_run).name == "step-00000004"
    assert command("train", f"resume={own_run}", "training.steps=6", "n=0").code == 0
    assert checkpoint.find(own_run).name == "step-00000006"
