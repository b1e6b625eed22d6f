"""Broken files and command lines of all kinds end in a result or in one clear line: never in another error or a hang.

`FUZZ_EXAMPLES=10000 pytest tests/test_fuzz.py`, of `make reliability`, tries more than a check of every change does.
Each example is a good file with parts changed, removed, doubled or swapped, or a command line of words that mean
something to the parser.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core import checkpoint, cli, digests, recorder, tensor_files
from core.batch import Batch
from core.config import instantiate, load_yaml
from core.errors import UserError
from core.output import read_arrays, write_arrays

hypothesis = pytest.importorskip("hypothesis")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("rdkit")
from hypothesis import strategies as st  # noqa: E402

from modalities.audio.archives import wav_members  # noqa: E402
from modalities.audio.artefacts import read_sound  # noqa: E402
from modalities.image.editing import read as read_picture  # noqa: E402
from modalities.molecules import editing as molecule_files  # noqa: E402

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
SECONDS = 2.0 if "FUZZ_EXAMPLES" in os.environ else 20.0  # a busy machine is no hang
ELEMENTS = ["H", "C", "N", "O", "F"]
TELLING = [
    b"\0",
    b"\xff" * 4,
    b"999999999",
    b"-1",
    b"nan",
    b"1e400",
    b"\n",
    b"$$$$\n",
    b"[",
    b"{",
    b'"',
    b"${",
    b"\\",
    b"../",
]

settings = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=timedelta(seconds=SECONDS),
    database=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds with up to six changes."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.integers(0, 40))
        kind = draw(st.sampled_from(["flip", "cut", "remove", "double", "insert", "telling", "swap"]))
        if kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place:]
        elif kind == "remove":
            del content[place : place + length]
        elif kind == "double":
            content[place:place] = content[place : place + length]
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=20))
        elif kind == "telling":
            content[place : place + draw(st.integers(0, 8))] = draw(st.sampled_from(TELLING))
        else:
            other = draw(st.integers(0, max(len(content) - 1, 0)))
            piece = content[place : place + length]
            content[place : place + length] = content[other : other + length]
            content[other : other + length] = piece
    return bytes(content)


def picture(kind: str, mode: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def sound(kind: str, subtype: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, 0.3 * np.sin(np.arange(400) / 9), 8000, format=kind, subtype=subtype)
    return out.getvalue()


def arrays() -> bytes:
    path = Path(os.environ["FUZZ_FOLDER"]) / "seed.npz"
    write_arrays(path, Batch.full(torch.ones(2, 1, 3), {"label": torch.tensor([1, 2])}))
    return path.read_bytes()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=0) as archive:
        for name in ("data/recordings/a.wav", "data/recordings/b.wav"):
            member = tarfile.TarInfo(name)
            member.size = 8
            archive.addfile(member, io.BytesIO(b"RIFFRIFF"))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("data/recordings/a.wav", b"RIFFRIFF")
    return out.getvalue()


XYZ = b"3\nenergy=-1.5 gap=6.8\nO 0.0 0.0 0.1\nH 0.0 0.76 -0.47\nH 0.0 -0.76 -0.47\n"
SDF = (
    b"water\n  made     3D\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n"
    b"    0.0000    0.0000    0.1173 O   0  0\n    0.0000    0.7572   -0.4692 H   0  0\n"
    b"    0.0000   -0.7572   -0.4692 H   0  0\n  1  2  1  0\n  1  3  1  0\nM  END\n>  <gap>\n6.8\n\n$$$$\n"
)
CONFIG = (
    b"times:\n  _target_: core.times.Karras\n  n: 10\n  rho: 5\nsteps: 20\nnames: [a, 'b', \"c\"]\n"
    b"other: ${times.n}\n_target_: core.times.LogSNR\nn: ${steps}\n"
)


def tensors(path: Path) -> None:
    tensor_files.read(path)
    tensor_files.read_metadata(path)


def tensor_bytes() -> bytes:
    from safetensors.torch import save

    return save({"a": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.int64)}, {"what": "a test"})


def config(path: Path) -> None:
    with suppress(TypeError, ValueError):  # of a constructor, about a value: `core.build` says which part
        instantiate(load_yaml(path.read_bytes().decode("utf-8", "replace")))


def state(path: Path) -> None:
    checkpoint.load_state(path.parent)


def record(path: Path) -> None:
    recorder.read(path.parent)


def noted(path: Path) -> None:
    (path.parent / "x").write_text("x")
    digests.check(path.parent / "x")


def npz(path: Path) -> None:
    # its callers read what they have written
    with suppress(ValueError, KeyError, EOFError, zipfile.BadZipFile, OSError, NotImplementedError):
        read_arrays(path)


READERS: dict[str, tuple[str, Callable[[], list[bytes]], Callable[[Path], object]]] = {
    "pictures": (
        "a.png",
        lambda: [picture("PNG", "RGB"), picture("PNG", "L"), picture("JPEG", "RGB"), picture("GIF", "P")],
        lambda path: read_picture(path, None),
    ),
    "sounds": (
        "a.wav",
        lambda: [sound("WAV", "PCM_16"), sound("WAV", "FLOAT"), sound("FLAC", "PCM_16"), sound("OGG", "VORBIS")],
        lambda path: read_sound(path, 8000),
    ),
    "xyz": ("a.xyz", lambda: [XYZ, XYZ * 2], lambda path: molecule_files.read(path, ELEMENTS)),
    "sdf": ("a.sdf", lambda: [SDF, SDF * 2], lambda path: molecule_files.read(path, ELEMENTS)),
    "smiles": (
        "a.smi",
        lambda: [b"CCO ethanol\n", b"# a list\nc1ccccc1\n", b"N#Cc1cc[nH]c1", b"O=C(O)[C@@H](N)C", b"smiles\nC=C=C"],
        lambda path: molecule_files.read(path, ELEMENTS),
    ),
    "archives": ("a.bin", lambda: [tarred(), zipped()], lambda path: wav_members(path, "recordings")),
    "configs": ("a.yaml", lambda: [CONFIG], config),
    "states": (
        checkpoint.STATE,
        lambda: [b'{"format": 1, "state": {"dict": {"a": [1, {"tuple": [2.5]}, {"float": "nan"}]}}}'],
        state,
    ),
    "records": (
        recorder.RECORD,
        lambda: [b'{"micro_batches": [{"step": 1, "total": 4, "key": 7}], "found": {}}'],
        record,
    ),
    "digests": (digests.FILE, lambda: [json.dumps({"x": "00" * 32}).encode()], noted),
    "safetensors": ("a.safetensors", lambda: [tensor_bytes()], tensors),
    "samples": ("a.npz", lambda: [arrays()], npz),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_a_broken_file_is_read_or_refused_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUZZ_FOLDER", str(tmp_path))
    name, seeds, read = READERS[kind]
    path = tmp_path / name
    if kind in ("states", "records"):
        (tmp_path / checkpoint.STATE_TENSORS).write_bytes(tensor_bytes())
        (tmp_path / recorder.BATCHES).write_bytes(tensor_bytes())

    @settings
    @hypothesis.given(changed(seeds()))
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            if "\n" in str(error):
                raise AssertionError("several lines") from error

    holds()


NAMES = "modality image schedule training.steps steps seed n cond.label guidance.scale sampler _target_ hydra.run.dir"
VALUES = "null true 1 -1 1e400 nan ??? ä --help --multirun"
SIGNS = ["=", "+", "~", "++", *":,[]{}'\"\\$()@/.", "${", " ", "\n", "\0"]
WORDS = st.sampled_from([*NAMES.split(), *VALUES.split(), *SIGNS])


@pytest.mark.slow
def test_a_broken_command_line_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be composed is composed; all else is Hydra's or our own error, which `cli.run` prints in one line."""
    import hydra

    monkeypatch.chdir(tmp_path)

    @settings
    @hypothesis.given(st.lists(st.lists(WORDS, min_size=1, max_size=6).map("".join), min_size=1, max_size=3))
    def holds(arguments: list[str]) -> None:
        try:
            with hydra.initialize_config_module("configs", version_base="1.3"):
                hydra.compose("train", [cli.opened(argument, "train") for argument in arguments])
        except Exception as error:
            line = cli._explain(error, "train")
            if line is None:
                raise
            if "\n" in line:
                raise AssertionError(f"{arguments} is answered in several lines") from error

    holds()
