"""python -m benchmarks.hostile: files that a stranger might send, each opened as the commands would open it.

Each is made here and must be refused in one line, within a second and 200 MB above what the process had; what is run of
it would leave a mark. Figures: seconds, and the peak of memory where Linux tells it.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from benchmarks.common import machine, peak, reset_peak
from core import checkpoint, recorder, tensor_files
from core.cli import with_options
from core.config import instantiate, load_yaml
from core.errors import UserError, reason_of
from core.output import read_arrays
from core.runs import Reporter, write_json
from modalities.audio.archives import wav_members
from modalities.audio.artefacts import read_sound
from modalities.image.editing import read as read_picture
from modalities.molecules.editing import read as read_molecule
from modalities.molecules.files import entries
from modalities.molecules.reading import read_xyz

LIMIT_SECONDS, LIMIT_BYTES = 1.0, 200e6
MARK = "POLYDIFFUSION_MARK"  # names the file that code of a stranger's would leave
GIGABYTE = 2**30

Make = Callable[[Path], None]
Open = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A file of this name, and how it is opened."""

    name: str
    make: Make
    open: Open


@dataclass
class Outcome:
    """said: the one line; None if it was not refused."""

    said: str | None
    seconds: float
    peak: float | None
    ran: bool

    @property
    def good(self) -> bool:
        small = self.peak is None or self.peak < LIMIT_BYTES
        return self.said is not None and "\n" not in self.said and not self.ran and small


class Trap:
    """Unpickled, it leaves the mark."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path(os.environ[MARK]),)


def text(content: str) -> Make:
    return lambda path: path.write_text(content) and None  # type: ignore[func-returns-value]


def header(length: int, size: int) -> Make:
    """A safetensors file that is sparse, so that it takes no room."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(struct.pack("<Q", length) + b'{"a":')
            file.truncate(size)

    return make


def pickled(path: Path) -> None:
    torch.save({"a": Trap()}, path)


def pickled_state(path: Path) -> None:
    path.write_bytes(pickle.dumps(Trap()))


def tar(name: str, kind: bytes = tarfile.REGTYPE, size: int = 4, link: str = "") -> Make:
    def make(path: Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, size if kind == tarfile.REGTYPE else 0, link
            archive.addfile(member, io.BytesIO(b"RIFF" * (size // 4)))

    return make


def zipped(name: str, content: bytes = b"RIFF") -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)

    return make


def wide_picture(path: Path) -> None:
    """A PNG whose header says 40,000 x 25,000 pixels, 10^9, of one colour."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 25_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


def long_sound(path: Path) -> None:
    """A WAV of a few bytes whose header claims 4 GB."""
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    head = b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WAVEfmt " + struct.pack("<I", 16) + form
    path.write_bytes(head + b"data" + struct.pack("<I", 2**32 - 40) + b"\0" * 16_000)


def many_atoms(path: Path) -> None:
    count = 1_000_000
    lines = "".join(f"C {i % 100:.1f} {i // 100 % 100:.1f} {i // 10_000:.1f}\n" for i in range(count))
    path.write_text(f"{count}\n\n{lines}")


def many_atoms_sdf(path: Path) -> None:
    count = 1_000_000
    head = "\n\n\n  0  0  0     0  0            999 V3000\nM  V30 BEGIN CTAB\n"
    atoms = "".join(f"M  V30 {i} C {i % 100} {i // 100 % 100} {i // 10_000} 0\n" for i in range(1, count + 1))
    path.write_text(f"{head}M  V30 COUNTS {count} 0 0 0 0\nM  V30 BEGIN ATOM\n{atoms}M  V30 END ATOM\n")


def packed(content: bytes, times: int) -> Make:
    """gzip of something said over and over: a small file that becomes a large one."""

    def make(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(times):
                file.write(content)

    return make


def full_of_zeros(path: Path) -> None:
    """An npz that claims an array of 10^11 zeros and has the first few of them."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (10**11,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", array.getvalue() + b"\0" * 1000)


def objects(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        array = io.BytesIO()
        np.lib.format.write_array(array, np.array([Trap()], dtype=object), allow_pickle=True)
        archive.writestr("x.npy", array.getvalue())


def laughs(levels: int = 9) -> str:
    """YAML in which each line has the one before ten times: 10^9 values."""
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * 10) + "]")
    return "\n".join(lines)


def build(path: Path) -> object:
    return instantiate(load_yaml(path.read_text()))


def weights(path: Path) -> object:
    return tensor_files.read(path)


def state(path: Path) -> object:
    folder = path.with_name("step-00000001")
    folder.mkdir(exist_ok=True)
    (folder / checkpoint.STATE).write_bytes(path.read_bytes())
    return checkpoint.load_state(folder)


def record(path: Path) -> object:
    folder = path.with_name("flight")
    folder.mkdir(exist_ok=True)
    (folder / recorder.RECORD).write_bytes(path.read_bytes())
    return recorder.read(folder)


def sounds(path: Path) -> object:
    return wav_members(path, "recordings")


def atoms(path: Path) -> object:
    return read_molecule(path, ["H", "C", "N", "O", "F"])


def frames(path: Path) -> object:
    _, (place, found) = next(entries([path], read_xyz, pulse=False))
    if isinstance(found, str):
        raise UserError(f"{path} {place}: {found}")
    return found


CASES = (
    Case("header of a gigabyte.safetensors", header(GIGABYTE, GIGABYTE + 1000), weights),
    Case("header of all of 2^64.safetensors", header(2**64 - 1, 1000), weights),
    Case("header larger than the file.safetensors", header(10**6, 1000), weights),
    Case("pickle.safetensors", pickled, weights),
    Case("os.system.yaml", text("_target_: os.system\ncommand: touch $MARK"), build),
    Case("eval.yaml", text("_target_: builtins.eval\n_args_: ['1']"), build),
    Case("function of ours.yaml", text("_target_: core.checkpoint.remove\nfolder: ."), build),
    Case("module within ours.yaml", text("_target_: core.checkpoint.shutil.rmtree\npath: ."), build),
    Case("class that ours imports.yaml", text("_target_: core.checkpoint.Path\n_args_: ['.']"), build),
    Case("environment.yaml", text("_target_: core.times.Uniform\nn: ${oc.env:HOME}"), build),
    Case("python tag.yaml", text("a: !!python/object/apply:os.system ['true']"), build),
    Case("a billion laughs.yaml", text(laughs()), build),
    Case("deep.yaml", text("a: " + "[" * 5000 + "]" * 5000), build),
    Case("deep.json", text('{"format": 1, "state": ' + "[" * 100_000 + "]" * 100_000 + "}"), state),
    Case("deep record.json", text("[" * 100_000 + "]" * 100_000), record),
    Case("pickled state.json", pickled_state, state),
    Case("points outside.tar.gz", tar("../recordings/a.wav"), sounds),
    Case("absolute.tar.gz", tar("/recordings/a.wav"), sounds),
    Case("link.tar.gz", tar("recordings/a.wav", tarfile.SYMTYPE, link="/etc/passwd"), sounds),
    Case("hard link.tar.gz", tar("recordings/a.wav", tarfile.LNKTYPE, link="/etc/passwd"), sounds),
    Case("device.tar.gz", tar("recordings/a.wav", tarfile.CHRTYPE), sounds),
    Case("points outside.zip", zipped("../recordings/a.wav"), sounds),
    Case("points outside by drive.zip", zipped("C:\\recordings\\a.wav"), sounds),
    Case("bomb.zip", zipped("recordings/a.wav", b"\0" * 60_000_000), sounds),
    Case("pixels.png", wide_picture, lambda path: read_picture(path, 1)),
    Case("sound of 4 GB.wav", long_sound, lambda path: read_sound(path, None)),
    Case("a million atoms.xyz", many_atoms, atoms),
    Case("a million atoms.sdf", many_atoms_sdf, atoms),
    Case("a billion atoms.xyz", text("999999999\n\nC 0 0 0\n"), atoms),
    Case("line of a gigabyte.xyz.gz", packed(b"7" * 2**20, 1024), frames),
    Case("zeros.npz", full_of_zeros, read_arrays),
    Case("objects.npz", objects, read_arrays),
)


@dataclass
class Options:
    out: str = "benchmarks/out/hostile"


def main(options: Options) -> dict[str, Outcome]:
    """{case: outcome}; writes hostile.json into `out`."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    found = {case.name: attempt(case, folder) for case in CASES}
    table = Table("file", "s", "MB", "said")
    for name, outcome in found.items():
        peak = "" if outcome.peak is None else f"{outcome.peak / 1e6:.0f}"
        table.add_row(name, f"{outcome.seconds:.2f}", peak, (outcome.said or "NOT REFUSED")[:90])
    report(table)
    refused = sum(outcome.good and outcome.seconds < LIMIT_SECONDS for outcome in found.values())
    report(f"{refused} of {len(found)} refused within {LIMIT_SECONDS:g} s and {LIMIT_BYTES / 1e6:g} MB")
    write_json(folder / "hostile.json", {"machine": machine(), **{name: vars(o) for name, o in found.items()}})
    return found


def attempt(case: Case, folder: Path) -> Outcome:
    path, mark = folder / case.name, folder / "mark"
    mark.unlink(missing_ok=True)
    os.environ[MARK] = str(mark)
    case.make(path)
    before, said = reset_peak(), None
    begun = time.perf_counter()
    try:
        case.open(path)
    except UserError as error:
        said = str(error)
    except ValueError as error:  # of readers whose caller names the file
        said = reason_of(error)
    seconds, after = time.perf_counter() - begun, peak()
    path.unlink()
    return Outcome(said, seconds, None if before is None or after is None else after - before, mark.exists())


if __name__ == "__main__":
    with_options(Options, main)
