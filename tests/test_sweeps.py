"""A sweep (-m): each job in a process and a folder of its own, and what fails is said; commands that start again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from runs import ROOT, TINY_IMAGES, Outcome, assert_same_weights

from core import cli
from core.errors import UserError
from core.resume import begun

SHORT = (*TINY_IMAGES, "preview.n=0")


def run(folder: Path, *arguments: str) -> Outcome:
    """`python -m core.train` in the folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "core.train", *arguments]
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


def seeds(folder: Path) -> dict[str, int]:
    return {path.parent.name: OmegaConf.load(path).seed for path in folder.glob("*/config.yaml")}


@pytest.mark.slow
def test_a_job_that_fails_stops_no_other_and_is_named_at_the_end(tmp_path: Path, cache: Path) -> None:
    outcome = run(tmp_path, "-m", "seed=0,x,1", *SHORT)
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "error: seed=x: must be a whole number",
        "error: failed, for the reasons above: 1-seed-x",
    ]
    (folder,) = (tmp_path / "runs").iterdir()  # of the sweep; nothing is left beside it
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert seeds(folder) == {"0-seed-0": 0, "2-seed-1": 1}


@pytest.mark.slow
def test_the_same_sweep_again_does_what_is_left(tmp_path: Path, cache: Path) -> None:
    """With resume=auto, as a scheduler starts it again; the last run is the one that nobody stopped."""
    sweep = ("-m", "hydra.sweep.dir=mine", "resume=auto", "seed=0,1", *SHORT, "training.validate_every=1")
    assert run(tmp_path, *sweep).code == 0
    straight = tmp_path / "straight"
    shutil.copytree(tmp_path / "mine/1-seed-1", straight)
    shutil.rmtree(tmp_path / "mine/1-seed-1/checkpoints/step-00000002")
    shutil.rmtree(tmp_path / "mine/0-seed-0")
    again = run(tmp_path, *sweep)
    assert again.code == 0, again.err
    assert seeds(tmp_path / "mine") == {"0-seed-0": 0, "1-seed-1": 1}
    assert_same_weights(tmp_path / "mine/1-seed-1", straight)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("submitit"), reason="hydra-submitit-launcher is not installed")
def test_an_error_in_a_launchers_process_comes_back(tmp_path: Path, cache: Path) -> None:
    outcome = run(tmp_path, "-m", "hydra/launcher=submitit_local", "hydra.sweep.dir=mine", "seed=0,x", *SHORT)
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1] == "error: seed=x: must be a whole number"
    assert seeds(tmp_path / "mine") == {"0-seed-0": 0}


@pytest.mark.skipif(not find_spec("submitit"), reason="hydra-submitit-launcher is not installed")
def test_the_slurm_launcher_composes() -> None:
    import hydra

    asked = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=8"]
    more = ["hydra.launcher.tasks_per_node=8", "hydra.launcher.nodes=2", "hydra.launcher.max_num_timeout=20"]
    with hydra.initialize_config_module("configs", version_base="1.3"):
        config = hydra.compose("train", [*asked, *more, "trainer=ddp"], return_hydra_config=True)
    assert config.hydra.launcher.nodes == 2


@pytest.mark.parametrize(("code", "ends"), [(0, None), (2, None), (130, KeyboardInterrupt), (143, SystemExit)])
def test_what_stops_a_job_stops_the_sweep(code: int, ends: type[BaseException] | None) -> None:
    call = [sys.executable, "-c", f"raise SystemExit({code})"]
    if ends is None:
        assert cli._in_own_process(call) == code
    else:
        with pytest.raises(ends):
            cli._in_own_process(call)


def test_what_stops_the_sweep_stops_its_job() -> None:
    """SIGTERM is handed on, and the exit code is the scheduler's."""
    kills = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    code = f"import sys; from core import cli; cli._in_own_process([sys.executable, '-c', {kills!r}])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=50).returncode == cli.TERMINATED


def test_begun(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs out="):
        begun(None)
    assert begun(str(tmp_path)) is None
    (tmp_path / "checkpoints/step-00000003").mkdir(parents=True)
    assert begun(str(tmp_path)) == str(tmp_path)
