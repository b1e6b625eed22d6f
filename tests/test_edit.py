"""core.edit: what it writes, and what it refuses in one line before a folder is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Outcome, edit
from test_cli import refused


@pytest.fixture
def files(digit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with files that fit the model of digits and files that do not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digit.png").write_bytes(digit.read_bytes())
    for name, size in {"small": (14, 14), "other": (28, 28), "large": (40, 28), "mask_small": (14, 28)}.items():
        Image.fromarray(np.full(size[::-1], 128, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    for name, value in {"white": 255, "black": 0}.items():
        Image.fromarray(np.full((28, 28), value, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(digit.read_bytes()[:60])
    return tmp_path


WRONG: dict[str, list[str]] = {
    "input=null keep=left": ["input= is not set"],
    "input=nowhere.png keep=left": ["nowhere.png is no file"],
    "input=broken.png keep=left": ["broken.png cannot be read"],
    "input=small.png keep=left": ["small.png has 14x14 pixels", "28x28", "grow"],
    "": ["nothing of the input would remain", "keep", "strength"],
    "keep=left n=0": ["n=0", "at least 1"],
    "keep=left n=few": ["n=few", "whole number"],
    "keep=left mask=white.png": ["keep=left", "mask=white.png", "give one"],
    "keep=middle": ["keep=middle", "left, right, top or bottom"],
    "keep='left 1.5'": ["left 1.5", "between 0 and 1"],
    "keep='0:40 0:5'": ["0:40 0:5", "28x28"],
    "keep='9:3 0:5'": ["9:3 0:5", "28x28"],
    "keep='0:28 0:28'": ["all of digit.png stays"],
    "mask=white.png": ["all of digit.png stays"],
    "mask=black.png": ["nothing of digit.png stays"],
    "mask=nowhere.png": ["nowhere.png is no file"],
    "mask=mask_small.png": ["mask=mask_small.png has 14x28 pixels", "digit.png has 28x28"],
    "grow.up=4": ["grow.up=4", "left, right, top, bottom"],
    "grow.left=-4": ["grow.left=-4", "whole number of pixels"],
    "grow.left=far": ["grow.left=far", "whole number of pixels"],
    "strength=0": ["strength=0", "above 0"],
    "strength=2": ["strength=2", "at most 1"],
    "strength=high": ["strength=high"],
    "keep=left noise=0.1": ["noise=0.1", "measurement"],
    "measurement=downsample degrade=true noise=-1": ["noise=-1", "at least 0"],
    "keep=left degrade=true": ["degrade=true needs a measurement"],
    "measurement=downsample degrade=maybe": ["degrade=maybe", "true or false"],
    "measurement=downsample": ["1x28x28 but 1x14x14", "degrade=true"],
    "measurement=downsample degrade=true keep=left": ["measurement=", "leave keep, mask and grow out"],
    "measurement=downsample degrade=true measurement.factor=5": ["measurement:", "factor=5 does not divide 28x28"],
    "measurement=downsample degrade=true measurement.factor=1": ["measurement:", "factor=1"],
    "measurement=downsample degrade=true measurement.fctor=2": ["did you mean 'factor'?"],
    "measurement.factor=2 degrade=true": ["measurement.factor=2", "choose measurement=downsample"],
    "measurement=blur degrade=true measurement.sigma=20": ["measurement:", "sigma=20 is too wide"],
    "measurement=blur degrade=true measurement.sigma=0": ["measurement:", "sigma=0"],
    "measurement=grey degrade=true": ["measurement:", "no colours"],
    "measurement=sharpen degrade=true": ["measurement/sharpen", "downsample"],
    "measurement=downsample degrade=true method=replace": ["method=replace needs parts that stay", "pigdm"],
    "measurement=downsample degrade=true method=search": ["method=search needs parts that stay", "pigdm"],
    "strength=0.5 method=pigdm": ["method= has nothing to follow"],
    "keep=left method=replase": ["method/replase", "replace"],
    "keep=left method=replace method.resamplings=0": ["method:", "resamplings=0"],
    "keep=left method=replace method.resampling=2": ["did you mean 'resamplings'?"],
    "keep=left method.resamplings=2": ["method.resamplings=2", "choose method=replace"],
    "keep=left method=dps method.step_size=0": ["method:", "step_size=0"],
    "to=other.png keep=left": ["to=", "leave keep, mask and grow out"],
    "to=large.png": ["1x28x28 and 1x28x40"],
    "to=nowhere.png": ["nowhere.png is no file"],
    "to=other.png n=1": ["n=1", "two ends"],
    "to=other.png strength=0.5": ["leave strength out"],
    "to=other.png sampler=ddpm": ["leave sampler out"],
    "to=other.png method=dps": ["leave method out"],
    "to=other.png measurement=downsample": ["leave measurement out"],
    "keep=left cond.label=77": ["unknown label 77"],
    "keep=left cond.lable=3": ["unknown condition", "lable"],
    "keep=left steps=0": ["steps=0"],
    "keep=left kep=right": ["did you mean keep?"],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_editing_refuses(wrong: str, trained: Path, files: Path, command: Callable[..., Outcome]) -> None:
    """In one line, with nothing written."""
    arguments = [part.replace("+", " ") for part in _spaces_kept(wrong).split()]
    given = {argument.split("=")[0] for argument in arguments}
    usual = [f"checkpoint={trained}", "input=digit.png", "n=4", "steps=2", "device=cpu"]
    outcome = command("edit", *(option for option in usual if option.split("=")[0] not in given), *arguments)
    refused(outcome, *WRONG[wrong])
    assert not (files / "edited").exists(), "a folder was taken by a request that is wrong"


def test_a_method_that_does_not_fit_the_samples(trained: Path, files: Path, command: Callable[..., Outcome]) -> None:
    usual = [f"checkpoint={trained}", "input=digit.png", "n=2", "steps=2", "device=cpu", "keep=left"]
    outcome = command("edit", *usual, "method=pigdm", "method.data_std=[1,2]")
    refused(outcome, "data_std has 2 values", "28 columns")


def _spaces_kept(text: str) -> str:
    """Those between quotes as +, without the quotes."""
    return "".join(part.replace(" ", "+") if i % 2 else part for i, part in enumerate(text.split("'")))


def test_a_missing_checkpoint(command: Callable[..., Outcome]) -> None:
    refused(command("edit", "input=a.png", "keep=left"), "checkpoint= is not set")


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz") as file:
        return dict(file)


def test_it_leaves_what_sampling_leaves_and_a_picture(trained: Path, files: Path, tmp_path: Path) -> None:
    folder = edit(trained, tmp_path / "a", "input=digit.png", "keep=left", "cond.label=3")
    assert {path.name for path in folder.iterdir()} == {
        *(f"0000{i}.png" for i in range(4)),
        *("edit.png", "grid.png", "log.txt", "manifest.json", "samples.npz"),
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["done"]
    assert manifest["request"]["keep"] == "left"
    assert arrays(folder)["x"].shape == (4, 1, 28, 28)
    assert arrays(folder)["label"].tolist() == [3] * 4


def test_a_folder_of_other_edits_is_refused_and_of_the_same_ones_done_again(trained: Path, files: Path) -> None:
    from core.errors import UserError

    same = ("input=digit.png", "keep=left")
    first = arrays(edit(trained, files / "a", *same))
    with pytest.raises(UserError, match="another request"):
        edit(trained, files / "a", "input=digit.png", "keep=right")
    np.testing.assert_array_equal(arrays(edit(trained, files / "a", *same))["x"], first["x"])


@pytest.mark.parametrize(
    "how",
    ["keep=left", "strength=0.5", "measurement=downsample degrade=true", "grow.right=12", "keep=left method=pigdm"],
)
def test_micro_batches_and_the_number_of_edits_change_none(how: str, trained: Path, files: Path) -> None:
    """Edit number i depends on (seed, i) alone."""
    several = arrays(edit(trained, files / "a", "input=digit.png", *how.split()))["x"]
    parts = arrays(edit(trained, files / "b", "input=digit.png", *how.split(), "micro_batch=3"))["x"]
    fewer = arrays(edit(trained, files / "c", "input=digit.png", *how.split(), "n=2"))["x"]
    np.testing.assert_allclose(parts, several, atol=1e-4)
    np.testing.assert_allclose(fewer, several[:2], atol=1e-4)
    assert np.abs(several[0] - several[1]).max() > 1e-3


def test_the_way_between_two_files_begins_and_ends_at_them(trained: Path, files: Path) -> None:
    """As near as a model of four steps' training inverts them: each end is nearest to its own picture."""
    folder = edit(trained, files / "a", "input=digit.png", "to=white.png", "n=5", "steps=20")
    x = arrays(folder)["x"]
    pictures = [np.asarray(Image.open(files / name), dtype=float)[None] / 255 for name in ("digit.png", "white.png")]
    distances = np.array([[np.abs(one - picture).mean() for picture in pictures] for one in x])
    assert distances[0, 0] < 0.7 * distances[-1, 0]
    assert distances[-1, 1] < 0.7 * distances[0, 1]
    assert (folder / "edit.png").exists()
