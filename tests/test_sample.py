"""core.sample: what it writes, that micro-batches and interruptions change nothing, and that requests do not mix."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from runs import Outcome, sample

import core
from core.errors import UserError
from core.output import ALL, Share, request, write_samples
from modalities.image.modality import Image as Images


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz", allow_pickle=False) as file:
        return dict(file)


def pixels(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("[0-9]*.png"))]


def test_files(trained: Path, tmp_path: Path) -> None:
    folder = sample(trained, tmp_path / "samples", "n=5", "micro_batch=2")
    content = arrays(folder)
    assert content["x"].shape == (5, 1, 28, 28)
    assert content["x"].dtype == np.float32
    assert 0 <= content["x"].min() <= content["x"].max() <= 1
    assert content["label"].tolist() == [0, 1, 2, 3, 4]
    for i, x in enumerate(content["x"]):
        picture = np.asarray(Image.open(folder / f"{i:05d}.png"))
        np.testing.assert_allclose(picture / 255, x[0], atol=0.51 / 255)
    assert (folder / "grid.png").exists()
    assert not (folder / ".parts").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["done"]
    assert manifest["nfe"] == 4  # two steps, each with and without the condition
    assert manifest["n"] == 5
    assert manifest["seconds"] >= 0
    assert manifest["request"]["checkpoint"] == str(trained / "checkpoints" / "step-00000004")
    assert manifest["request"]["seed"] == 0
    assert manifest["request"]["sampler"]["_target_"] == "core.samplers.UniPC"


def test_a_sample_does_not_depend_on_the_others(trained: Path, tmp_path: Path) -> None:
    folders = [
        sample(trained, tmp_path / str(size), "n=5", f"micro_batch={size}", "sampler=ddpm") for size in (1, 3, 5)
    ]
    one, *others = (arrays(folder)["x"] for folder in folders)
    for other in others:
        np.testing.assert_allclose(other, one, atol=1e-5)
    fewer = arrays(sample(trained, tmp_path / "fewer", "n=2", "sampler=ddpm"))["x"]
    np.testing.assert_allclose(fewer, one[:2], atol=1e-5)
    another = arrays(sample(trained, tmp_path / "seed", "n=5", "seed=1", "sampler=ddpm"))["x"]
    assert np.abs(another - one).max() > 0.1


def test_interrupted_sampling_continues(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("n=6", "micro_batch=2")
    whole = sample(trained, tmp_path / "whole", *options)
    write, firsts = Images.write, []

    def breaks(self, batch, folder, first):
        firsts.append(first)
        if first == 4:
            raise KeyboardInterrupt
        write(self, batch, folder, first)

    with monkeypatch.context() as patch:
        patch.setattr(Images, "write", breaks)
        with pytest.raises(KeyboardInterrupt):
            sample(trained, tmp_path / "broken", *options)
    assert not (tmp_path / "broken" / "samples.npz").exists()
    assert not json.loads((tmp_path / "broken" / "manifest.json").read_text())["done"]

    with monkeypatch.context() as patch:
        firsts.clear()
        patch.setattr(Images, "write", lambda *a: (firsts.append(a[-1]), write(*a)))
        sample(trained, tmp_path / "broken", *options)
    assert firsts == [4]  # what was there is not drawn again
    assert pixels(tmp_path / "broken") == pixels(whole)
    for name, values in arrays(whole).items():
        assert np.array_equal(arrays(tmp_path / "broken")[name], values)


def test_another_request_in_the_same_folder_is_refused(
    trained: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    before = pixels(sample(trained, tmp_path))
    arguments = (f"checkpoint={trained}", f"out={tmp_path}", "n=4", "steps=2", "device=cpu")
    outcome = command("sample", *arguments, "seed=3")
    assert outcome.code == 2
    assert "another request" in outcome.err
    assert pixels(tmp_path) == before
    assert command("sample", *arguments).code == 0  # the same request is no other
    assert pixels(tmp_path) == before


def test_labels(trained: Path, tmp_path: Path) -> None:
    assert arrays(sample(trained, tmp_path / "one", "cond.label=3"))["label"].tolist() == [3, 3, 3, 3]
    several = sample(trained, tmp_path / "several", "cond.label=[1,2,9,0]")
    assert arrays(several)["label"].tolist() == [1, 2, 9, 0]


def test_guidance_changes_the_samples(trained: Path, tmp_path: Path) -> None:
    plain = arrays(sample(trained, tmp_path / "1", "guidance.scale=1"))["x"]
    guided = arrays(sample(trained, tmp_path / "2", "guidance.scale=9"))["x"]
    assert np.abs(plain - guided).max() > 1e-4
    assert json.loads((tmp_path / "1" / "manifest.json").read_text())["nfe"] == 2


def test_raw_and_averaged_weights_and_the_best_checkpoint(trained: Path, tmp_path: Path) -> None:
    averaged = arrays(sample(trained, tmp_path / "averaged"))["x"]
    raw = arrays(sample(trained, tmp_path / "raw", "averaged=false"))["x"]
    assert not np.array_equal(averaged, raw)
    sample(trained, tmp_path / "best", "which=best")
    named = (trained / "checkpoints" / "best").read_text().strip()
    request = json.loads((tmp_path / "best" / "manifest.json").read_text())["request"]
    assert Path(request["checkpoint"]).name == named


def test_trajectory(trained: Path, tmp_path: Path) -> None:
    folder = sample(trained, tmp_path, "trajectory=true", "n=3", "steps=5")
    with Image.open(folder / "trajectory.gif") as animation:
        assert animation.n_frames >= 5
    with Image.open(folder / "trajectory.png") as strip:
        assert strip.width > strip.height
    assert len(pixels(folder)) == 3


def test_a_trajectory_begins_with_the_noise(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Images, "trajectory", lambda self, moments, folder: seen.extend(moments))
    sample(trained, tmp_path, "trajectory=true", "n=2", "steps=5")
    assert len(seen) == 6
    first, second = (moment.x.flatten() for moment in seen[:2])
    assert 0.3 < float(((first > 0) & (first < 1)).float().mean()) < 0.9  # of a standard normal, 68% lie within
    assert not torch.equal(first, second)


def drawn_by(model: core.Model, folder: Path, share: Share, console: Console | None = None) -> object:
    config = model.config.copy()
    config.update(n=6, micro_batch=2, steps=2)
    return write_samples(model, config, folder, console or Console(quiet=True), request("step", config), share)


def test_two_processes_draw_one_request_and_the_first_merges(trained: Path, tmp_path: Path) -> None:
    """However they come in turns, and again in the same folder."""
    models = [core.load(trained, device="cpu") for _ in range(2)]
    whole = drawn_by(models[0], tmp_path / "one", ALL)
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            second = pool.submit(drawn_by, models[1], tmp_path / "two", Share(1, 2))
            first = pool.submit(drawn_by, models[0], tmp_path / "two", Share(0, 2))
            assert second.result(60) is None
            samples = first.result(60)
        torch.testing.assert_close(samples.x, whole.x, atol=1e-6, rtol=0)
        assert json.loads((tmp_path / "two" / "manifest.json").read_text())["done"]
        assert len(pixels(tmp_path / "two")) == 6


def test_who_does_not_come_is_waited_for_and_then_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there stays, and the same request goes on with it."""
    model = core.load(trained, device="cpu")
    monkeypatch.setattr("core.output.PATIENCE", 0.5)
    monkeypatch.setattr("core.output.TIMES_LONGEST", 0)
    monkeypatch.setattr("core.output.SPEAKS", 0.2)
    with pytest.raises(UserError, match=r"^rank 0 has not begun to draw into .* within 0 s: has it died\?$"):
        drawn_by(model, tmp_path, Share(1, 3))
    with pytest.raises(UserError, match=r"^nothing for 0 s from rank 1 \(samples from 2\), rank 2 \(samples from 4\):"):
        drawn_by(model, tmp_path, Share(0, 3), Console(soft_wrap=True))
    assert "nothing for 0 s from rank 1 (samples from 2), rank 2 (samples from 4)" in capsys.readouterr().out
    drawn_by(model, tmp_path, Share(2, 3))
    assert len(pixels(tmp_path)) == 4
    drawn_by(model, tmp_path, ALL)
    assert len(pixels(tmp_path)) == 6
    assert drawn_by(model, tmp_path, Share(1, 3)) is None  # all is done, and rank 0 is gone


def test_the_share_is_that_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert Share.of_launcher() == ALL
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert Share.of_launcher() == Share(2, 4)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert Share.of_launcher() == Share(1, 3)
