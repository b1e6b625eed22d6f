"""The user's own molecules as data sets: SDF files, XYZ files and lists of SMILES."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from core.batch import NO_CONDITIONS
from core.cache import building, cache_dir
from core.cli import say
from core.errors import UserError, reason_of
from core.folders import files_in, fingerprint, report_skipped
from core.pulse import Pulse
from core.splits import SPLIT_SEED, check_shares, stratified_split
from modalities.molecules.data import MoleculeData, write_cache
from modalities.molecules.elements import atomic_numbers, check, symbol_of
from modalities.molecules.embedding import embed_all, read_list, read_table
from modalities.molecules.reading import Entry, Record, Unwanted, bounded, read_sdf, read_xyz, too_large

CACHE_VERSION = 2  # a new one whenever the reading, the split or the layout changes
RESERVED = NO_CONDITIONS | {"n_atoms", "formula"}  # conditions that are no properties

Reader = Callable[[Iterable[str]], Iterator[Entry]]


@dataclass(frozen=True)
class Wanted:
    """Which records are taken: those of these elements (None: of any), of at most so many atoms, with all properties.

    UserError for a name that cannot be a condition.
    """

    properties: tuple[str, ...]
    elements: tuple[str, ...] | None
    max_atoms: int | None

    def __post_init__(self) -> None:
        for name in self.properties:
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name in RESERVED:
                raise UserError(f"data.properties: {name!r} is no name of a condition: letters, digits and _ alone")
        if self.elements is not None:
            check(self.elements)
        if self.max_atoms is not None and self.max_atoms < 1:
            raise UserError(f"data.max_atoms={self.max_atoms}: 1 or more, or null")

    def refuses(self, record: Record) -> str | None:
        """Why a record is left out; `Unwanted` where that is no fault of it."""
        if unwanted := too_large(len(record.numbers), self.max_atoms):
            return unwanted
        if self.elements is not None:
            other = set(record.numbers.tolist()) - set(atomic_numbers(self.elements))
            if other:
                return Unwanted(f"holds {symbol_of(min(other))}, not in data.elements={list(self.elements)}")
        for name in self.properties:
            if name not in record.properties:
                return f"no number {name}"
        return None


class MoleculeFiles(MoleculeData):
    """The molecules of one file, or of all files in a folder and below it.

    path, suffixes: where they are, and the endings of the names that are read in a folder.
    read:        from the lines of a file to its entries; options: what else the result depends on.
    properties:  the conditions: numbers that every record taken has. In their names, every run of characters other
                 than letters and digits counts as one `_`: `HOMO-LUMO gap (eV)` is `HOMO_LUMO_gap_eV`.
    elements:    those that the network knows, records with others are left out; None: all that occur, by their numbers.
    max_atoms:   records with more atoms are left out.
    val, test:   the shares of the two held-out splits of records, stratified by the number of atoms.
    strict:      refuse the data if a record cannot be used. Otherwise such records are named, counted and skipped.
    half, rotate, kept: see `MoleculeData`.

    No use are records that are damaged, without 3D coordinates, charged (the atoms' charges may cancel), with dummy
    atoms, or without one of the properties. Records are split one by one: of several conformers (or copies) of one
    molecule some are trained on and some held out, so only data with one of each shows what new molecules are like.

    Cached under a hash of the files' paths, sizes and dates and of the options. UserError if nothing is there, too
    little for the splits, or no more than single atoms.
    """

    def __init__(
        self,
        path: str,
        suffixes: Sequence[str],
        read: Reader,
        options: Sequence[object] = (),
        pulse: bool = True,
        properties: Sequence[str] = (),
        elements: Sequence[str] | None = None,
        max_atoms: int | None = None,
        val: float = 0.05,
        test: float = 0.1,
        split_seed: int = SPLIT_SEED,
        strict: bool = False,
        half: str | None = None,
        rotate: bool = False,
        kept: float = 0.0,
    ) -> None:
        check_shares(val, test)
        wanted = Wanted(tuple(properties), None if elements is None else tuple(elements), max_atoms)
        root = Path(path).expanduser().resolve()
        files = find(root, suffixes)
        choice = [wanted.properties, wanted.elements, max_atoms, val, test, split_seed]
        cache = cache_dir("molecules") / fingerprint(files, [CACHE_VERSION, *suffixes, *options, *choice])
        if not cache.exists():
            say(f"reading the molecules of {root}, once")
            records, skipped = gather(files, root, read, wanted, pulse)
            with building(cache) as folder:
                sizes = np.array([len(record.numbers) for record in records], dtype=np.int64)
                rows = stratified_split(sizes, {"val": val, "test": test}, split_seed)
                store(folder, records, wanted.elements, wanted.properties, rows, skipped)
        super().__init__(root.name, cache, properties, half, rotate, kept)
        report_skipped(self.skipped, strict, "records")
        if not self.facts["scale"]:
            raise UserError(f"{root} has no shapes to learn: single atoms alone, or positions in no angstrom")
        for name, values in self.train.cond.items():
            if not values.std() > 0:
                raise UserError(f"data.properties: {name} is {values[0]:g} for every training molecule: no condition")


class Sdf(MoleculeFiles):
    """SDF files (.sdf, .mol, also packed by gzip).

    hydrogens: whether those that the bonds leave out are added, where the bonds' geometry puts them.
    """

    def __init__(self, path: str, hydrogens: bool = True, **common: Any) -> None:
        rdkit_there()
        read = partial(read_sdf, hydrogens=hydrogens)
        super().__init__(path, (".sdf", ".sdf.gz", ".mol"), read, [hydrogens], **common)


class Xyz(MoleculeFiles):
    """XYZ files (.xyz, also packed by gzip) of one or many frames, in angstrom; hydrogens are those that are there."""

    def __init__(self, path: str, **common: Any) -> None:
        super().__init__(path, (".xyz", ".xyz.gz"), read_xyz, **common)


class Smiles(MoleculeFiles):
    """SMILES, embedded in 3D: a CSV file with a header (.csv), or a text file with one in each line (.smi, .txt).

    column:  of the CSV file, where the SMILES are; None: the one called smiles.
    workers: molecules that are embedded at once; None: as many as there are cores. The result is the same for any.
    """

    def __init__(
        self,
        path: str,
        column: str | None = None,
        max_atoms: int | None = None,
        workers: int | None = None,
        **common: Any,
    ) -> None:
        rdkit_there()
        if workers is not None and workers < 1:
            raise UserError(f"data.workers={workers}: 1 or more, or null")
        table = path.lower().endswith(".csv")
        if column is not None and not table:
            raise UserError(f"data.column={column}: only a .csv file has columns, not {path}")

        def read(file: Iterable[str]) -> Iterator[Entry]:
            lines = read_table(file, column) if table else read_list(file)
            return embed_all(lines, max_atoms, workers)

        # a folder's lists have no columns; a table is named by itself
        suffixes = (".csv",) if table else (".smi", ".txt")
        super().__init__(path, suffixes, read, [column], False, max_atoms=max_atoms, **common)


def rdkit_there() -> None:
    """UserError if the package is missing."""
    from importlib.util import find_spec

    if find_spec("rdkit") is None:
        raise UserError("molecules of SDF files and SMILES need rdkit: pip install 'polydiffusion[molecules]'")


def find(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """The file, or all of a folder with these suffixes, sorted. UserError if there are none."""
    if root.is_file():
        if not root.name.lower().endswith(tuple(suffixes)):
            raise UserError(f"data.path={root}: must end with {', '.join(suffixes)}")
        return [root]
    if not root.exists():
        raise UserError(f"data.path={root}: no such file or folder")
    files = files_in(root, {Path(f"any{suffix}").suffix for suffix in suffixes}, "files of molecules")
    files = [file for file in files if file.name.lower().endswith(tuple(suffixes))]
    if not files:
        raise UserError(f"{root} holds no files of molecules ({', '.join(suffixes)})")
    return files


def gather(
    files: Sequence[Path], root: Path, read: Reader, wanted: Wanted, pulse: bool
) -> tuple[list[Record], list[str]]:
    """The records taken, and one line about each that cannot be used; those that nobody wants are counted aloud.

    UserError if there is nothing, or no such property.
    """
    records: list[Record] = []
    skipped: list[str] = []
    unwanted: list[str] = []
    known: set[str] = set()
    for file, (place, found) in entries(files, read, pulse):
        if isinstance(found, Record):
            known |= found.properties.keys()
            reason = wanted.refuses(found)
            if reason is None:
                records.append(found)
                continue
        else:
            reason = found
        name = file.name if file == root else str(file.relative_to(root))
        (unwanted if isinstance(reason, Unwanted) else skipped).append(f"{name} {place}: {reason}")
    if unwanted:
        say(f"left out {len(unwanted):,} records by data.elements or data.max_atoms, such as {unwanted[0]}")
    if absent := [name for name in wanted.properties if name not in known]:
        raise UserError(
            f"data.properties: no molecule of {root} has a number {absent[0]}; "
            f"there is {', '.join(sorted(known)) or 'none'}"
        )
    if not records and not skipped and not unwanted:
        raise UserError(f"{root} holds no molecules")
    return records, skipped


def entries(files: Sequence[Path], read: Reader, pulse: bool) -> Iterator[tuple[Path, Entry]]:
    """Every entry of every file; where a file cannot be read on, what is left of it is the last entry."""
    progress = Pulse("read", sum(file.stat().st_size for file in files), "bytes of molecules")
    before = 0
    for file in files:
        number = 0
        try:
            with file.open("rb") as raw:
                stream = gzip.GzipFile(fileobj=raw) if file.suffix.lower() == ".gz" else raw
                text = TextIOWrapper(stream, encoding="utf-8-sig", errors="replace")  # closes `raw` when it is gone
                for entry in read(bounded(text)):
                    number += 1
                    yield file, entry
                    if pulse:
                        progress(before + raw.tell())
        except (OSError, EOFError, zlib.error, csv.Error) as error:
            reason = reason_of(error)
            yield file, (f"from record {number + 1} on", f"the file cannot be read: {reason}")
        before += file.stat().st_size


def store(
    folder: Path,
    records: Sequence[Record],
    elements: Sequence[str] | None,
    properties: Sequence[str],
    rows: Mapping[str, Int64[np.ndarray, " _"]],
    skipped: Sequence[str] = (),
) -> None:
    """Fills a cache. elements: None for all that occur. UserError if a split is empty."""
    numbers = np.concatenate([np.zeros(0, np.int64), *(record.numbers for record in records)])
    positions = np.concatenate([np.zeros((0, 3), np.float32), *(r.positions.astype(np.float32) for r in records)])
    if elements is None:
        elements = [symbol_of(number) for number in np.unique(numbers).tolist()]
    place = np.zeros(256, dtype=np.uint8)
    place[atomic_numbers(elements)] = np.arange(len(elements))
    sizes = np.array([len(record.numbers) for record in records], dtype=np.int64)
    values = {name: np.array([r.properties[name] for r in records], dtype=np.float32) for name in properties}
    write_cache(folder, elements, positions, place[numbers], sizes, values, rows, skipped)
