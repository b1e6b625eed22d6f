"""QM9 as PyTorch Geometric has it, downloaded by that package and read here.

Of `torch_geometric.datasets.QM9` only `download` is run. Its constructor would unpickle what lies in the folder:
`pre_transform.pt` always, and its tables wherever torch's safe reader refuses them. So the raw files that it downloads,
an SDF file and two tables, are read as text; the molecules, their order, targets and units are the same.
"""

from __future__ import annotations

import csv
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from core.cache import building, cache_dir
from core.cli import say
from core.errors import UserError, reason_of
from core.folders import fingerprint
from core.pulse import Pulse
from modalities.molecules import qm9
from modalities.molecules.data import MoleculeData
from modalities.molecules.elements import atomic_numbers
from modalities.molecules.files import store
from modalities.molecules.reading import Record, atoms_of, parse_sdf, split_sdf

CACHE_VERSION = 1  # a new one whenever the reading, the split or the layout changes
RAW = ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt")  # in PyTorch Geometric's folder `raw`
RECORDS = 133_885  # in gdb9.sdf; those that uncharacterized.txt names are left out
SILENCE = 60  # seconds without a byte
INSTEAD = "data=qm9 needs no network; or set data.path=FOLDER, where FOLDER/raw holds " + ", ".join(RAW)
EV = qm9.EV
KCAL = EV / 627.5094740631  # electronvolts in a kilocalorie per mole

# our name: the table's column, and the factor to our unit
PROPERTIES = {
    **{name: (name, factor) for name, (_, factor) in qm9.PROPERTIES.items()},
    **{f"{name}_atom": (f"{name}_atom", KCAL) for name in ("u0", "u298", "h298", "g298")},
    **{f"rotation_{axis}": (axis.upper(), 1.0) for axis in "abc"},
}


class Qm9Pyg(MoleculeData):
    """QM9 through PyTorch Geometric: the molecules, units and split of `qm9.Qm9`, positions to 4 decimals.

    Properties: those of `qm9.Qm9` and more of PyTorch Geometric's 19 targets: the energies and enthalpies of
    atomisation u0_atom, u298_atom, h298_atom, g298_atom (eV), and rotation_a, rotation_b, rotation_c (GHz).

    path: the folder of PyTorch Geometric's set, whose subfolder `raw` holds its files or gets them; None: in the cache.
    properties, half, rotate, kept: see `MoleculeData`.

    Raises UserError if the files cannot be had, or are other ones.
    """

    def __init__(
        self,
        path: str | None = None,
        properties: Sequence[str] = (),
        half: str | None = None,
        rotate: bool = False,
        kept: float = 0.0,
    ) -> None:
        home = cache_dir("qm9_pyg")
        root = home if path is None else Path(path).expanduser().resolve()
        files = [root / "raw" / name for name in RAW]
        if not (root / "raw").exists():
            download(root / "raw")
        if absent := [file for file in files if not file.is_file()]:
            raise UserError(f"{absent[0]} is not there: remove {root / 'raw'} to download it again; {INSTEAD}")
        cache = home / fingerprint(files, [CACHE_VERSION])
        if not cache.exists():
            say(f"reading the molecules of {files[0]}, once: less than a minute")
            with building(cache) as folder:
                parse(*files, folder)
        super().__init__("qm9_pyg", cache, properties, half, rotate, kept)


def download(raw: Path) -> None:
    """The raw files, by PyTorch Geometric, into a folder that appears when all are there. UserError if it fails."""
    try:
        from torch_geometric.datasets import QM9
    except ImportError as error:
        raise UserError("data=qm9_pyg needs torch_geometric: pip install 'polydiffusion[molecules]'") from error
    say(f"downloading QM9 by PyTorch Geometric into {raw}")
    with building(raw) as folder:

        class Raw(QM9):
            raw_dir = str(folder)

            def __init__(self) -> None:
                """Nothing is loaded."""

        try:
            with patience(SILENCE):
                Raw().download()
        except Exception as error:  # no network, a moved address, a bad archive, a full disk, ...
            reason = reason_of(error)
            raise UserError(f"PyTorch Geometric could not download QM9 ({reason}): {INSTEAD}") from error


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """New sockets give up after so long without a byte; PyTorch Geometric's would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def parse(structures: Path, table: Path, uncharacterized: Path, folder: Path) -> None:
    """Fills a cache from the three files. UserError for a molecule that cannot be read, or another number of them."""
    left_out = excluded(uncharacterized)
    records: list[Record] = []
    pulse = Pulse("read", RECORDS, "molecules")
    with structures.open(encoding="utf-8", errors="replace") as sdf, table.open(newline="", encoding="utf-8") as file:
        for number, (text, row) in enumerate(zip_longest(split_sdf(sdf), csv.DictReader(file)), start=1):
            pulse(number)
            if number in left_out:
                continue
            try:
                records.append(read(text, row))
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(f"{structures.parent}: molecule {number} cannot be read: {error!r}") from error
    if len(records) != qm9.MOLECULES:
        raise UserError(f"{structures.parent} holds {len(records):,} molecules, not {qm9.MOLECULES:,}")
    store(folder, records, qm9.ELEMENTS, list(PROPERTIES), qm9.split(len(records)))


def read(text: str | None, row: dict[str, Any] | None) -> Record:
    """One molecule with its row of the table. ValueError where one of the two ends too early."""
    if text is None or row is None:
        raise ValueError("the structures and the table are of different lengths")
    properties = {name: float(row[column]) * factor for name, (column, factor) in PROPERTIES.items()}
    record = Record(*atoms_of(parse_sdf(text)), properties).to_learn_from()
    if other := set(record.numbers.tolist()) - set(atomic_numbers(qm9.ELEMENTS)):
        raise ValueError(f"an element of number {min(other)}")
    return record


def excluded(uncharacterized: Path) -> set[int]:
    """The numbers, from 1, of the molecules that failed the consistency check: the first word of a line of its own."""
    words = [line.split() for line in uncharacterized.read_text(encoding="utf-8", errors="replace").splitlines()]
    return {int(line[0]) for line in words if line and line[0].isdecimal()}
