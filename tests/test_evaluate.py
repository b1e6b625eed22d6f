"""core.evaluate: the figures of a checkpoint and of folders of files, each beside the floor of real data."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from runs import Outcome, evaluate, sample

from core.data import whole
from core.errors import UserError
from modalities.image.artefacts import write_pngs
from modalities.image.mnist import Mnist5k


def figures(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_a_checkpoint(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(tmp_path, f"checkpoint={trained}", "n=20")
    table = figures(tmp_path)
    assert table["samples"]["n"] == table["real"]["n"] == 20
    assert table["samples"].keys() == table["real"].keys()
    assert table["samples"]["frechet_distance"] > table["real"]["frechet_distance"] > 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("samples", "real", "frechet_distance", "20 samples against 20 held-out"))
    assert "frechet_distance" in (tmp_path / "log.txt").read_text()


def test_it_is_the_same_every_time(trained: Path, tmp_path: Path) -> None:
    one, other = (figures(evaluate(tmp_path / name, f"checkpoint={trained}")) for name in ("one", "other"))
    assert one == other


def test_the_floor_is_named_where_data_is_short(trained: Path, tmp_path: Path) -> None:
    evaluate(tmp_path, f"checkpoint={trained}", "n=600", "micro_batch=600", "steps=1")
    assert "the column real is of 400 held-out samples" in (tmp_path / "log.txt").read_text().replace("\n", " ")


def test_likelihood(trained: Path, tmp_path: Path) -> None:
    evaluate(tmp_path, f"checkpoint={trained}", "likelihood=3", "likelihood_steps=4")
    bound = figures(tmp_path)["held-out data"]
    parts = sum(bound[f"bits_per_dim_{part}"] for part in ("prior", "diffusion", "decoder"))
    assert bound["bits_per_dim"] == pytest.approx(parts)


@pytest.fixture
def digits(tmp_path: Path, cache: Path) -> Path:
    write_pngs(whole(Mnist5k().test, 40).x, tmp_path / "digits")
    return tmp_path / "digits"


def test_two_folders_of_files(trained: Path, digits: Path, tmp_path: Path) -> None:
    samples = sample(trained, tmp_path / "samples", "n=20")
    for folder in (samples, _without_arrays(samples, tmp_path / "files")):
        names = (f"samples={folder}", f"reference={digits}")
        out = evaluate(tmp_path / f"of-{folder.name}", "n=50", "modality=image", *names)
        assert figures(out)["samples"]["n"] == 20
        assert figures(out)["samples"]["frechet_distance"] > figures(out)["real"]["frechet_distance"]


def _without_arrays(samples: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in samples.glob("*.png"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["samples=a"], "needs reference="),
        (["samples=a", "reference=b"], "needs modality="),
        (["samples=/nowhere", "reference=/nowhere", "modality=image"], "/nowhere is no folder of samples"),
        ([], "checkpoint= is not set"),
    ],
)
def test_what_is_missing_is_named(
    arguments: list[str], said: str, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    outcome = command("evaluate", *arguments, f"out={tmp_path}")
    assert outcome.code == 2
    assert said in outcome.err


def test_n_limits_the_files_and_little_is_said_to_be_little(digits: Path, tmp_path: Path) -> None:
    out = evaluate(tmp_path / "out", "modality=image", f"samples={digits}", f"reference={digits}", "n=3")
    table = figures(out)
    assert table["samples"]["n"] == table["real"]["n"] == 3
    assert "precision" not in table["samples"]
    assert table["missing"] == "n=3 images are too few for precision and recall"
    assert table["missing"] in (out / "log.txt").read_text()


def test_the_instrument_stands_beside_the_figures(trained: Path, tmp_path: Path) -> None:
    out = evaluate(tmp_path, f"checkpoint={trained}")
    assert figures(out)["instrument"] == "judge of mnist5k"
    assert "through judge of mnist5k" in " ".join((out / "log.txt").read_text().split())


def test_another_extractor(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    table = figures(evaluate(tmp_path, f"checkpoint={trained}", "extractor=inception"))
    assert "pip install torch-fidelity" in table["missing"]
    assert table["instrument"] is None
    assert table["samples"].keys() == {"n", "nearest_training_ratio", "copied_share"}


def test_a_kind_of_files_that_needs_other_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever data would fill in is left empty; core knows no argument of a modality by name."""
    kind = ModuleType("kind")
    exec(KIND, kind.__dict__)
    monkeypatch.setitem(sys.modules, "kind", kind)
    (tmp_path / "files").mkdir()
    options = ("allow=[kind]", "+modality._target_=kind.Kind", "+modality.atoms='???'")
    folders = (f"samples={tmp_path / 'files'}", f"reference={tmp_path / 'files'}")
    table = figures(evaluate(tmp_path / "out", *options, *folders))
    assert table["samples"] == {"mean": 1.0}
    assert table["instrument"] is None


KIND = """
import torch
from core.batch import Batch
from core.modality import Modality

class Kind(Modality):
    def __init__(self, atoms):
        super().__init__([], [])
        assert atoms == []

    def read(self, folder):
        return Batch.full(torch.ones(4, 2))

    def metrics(self, samples, reference, training, floor=False):
        return {"mean": float(samples.x.mean())}
"""


def test_a_checkpoint_knows_its_modality(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a checkpoint has its own modality; extractor="):
        evaluate(tmp_path, f"checkpoint={trained}", "modality=image")
    evaluate(tmp_path, f"checkpoint={trained}", "extractor=judge")
    assert "judge" in json.loads((tmp_path / "evaluation.json").read_text())["instrument"]
