"""The built wheel works from another folder: configs and the judge's weights are in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from runs import ROOT, TINY_IMAGES

PACKAGED = ("core", "modalities", "benchmarks", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in a copy of the sources, so that no build folder is left behind or reused."""
    folder = tmp_path_factory.mktemp("wheel")
    for file in [path for path in ROOT.iterdir() if path.is_file()]:
        shutil.copy(file, folder / file.name)
    for name in PACKAGED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, "dist"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return next((folder / "dist").glob("*.whl"))


@pytest.mark.slow
def test_all_configs_and_weights_are_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path.relative_to(ROOT) for name in PACKAGED for path in (ROOT / name).rglob("*")]
    wanted = {
        str(path) for path in files if path.suffix in (".yaml", ".safetensors", ".py") and "out" not in path.parts
    }
    assert wanted <= names
    assert "modalities/image/judge.safetensors" in names
    assert not any(name.startswith("tests") for name in names)


@pytest.mark.slow
def test_it_trains_and_samples_from_another_folder(wheel: Path, tmp_path: Path, cache: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    environment["POLYDIFFUSION_CACHE"] = str(cache)

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-P", "-m", *arguments],
            cwd=tmp_path / "elsewhere",
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    run("core.train", *TINY_IMAGES, "out=run", "n=4")
    run("core.sample", "checkpoint=run", "n=2", "steps=2", "out=samples")
    assert (tmp_path / "elsewhere" / "run" / "samples" / "step-00000002" / "evaluation.json").exists()
    assert (tmp_path / "elsewhere" / "samples" / "00001.png").exists()
