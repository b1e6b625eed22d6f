"""Data larger than the memory: read as one array would be, while the memory stays within the limit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import evaluate

from benchmarks.common import peak, reset_peak
from benchmarks.loader_memory import SLACK, Options, main
from core import shards
from core.data import ArraySource, Source, spread, whole
from core.errors import UserError
from core.shards import WINDOW, Resident, Shards
from core.splits import SPLITS
from modalities.audio.data import ClipSource
from modalities.image.shards import ImageShards
from modalities.molecules.data import MoleculeSource

SIZES = (5, 1, 300, 7)


def save(folder: Path, arrays: list[np.ndarray], name: str = "x") -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = [folder / f"{name}-{i}.npy" for i in range(len(arrays))]
    for file, array in zip(files, arrays, strict=True):
        np.save(file, array)
    return files


@pytest.fixture(scope="module")
def parts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (n, 3, 50, 50), dtype=np.uint8) for n in SIZES]


@pytest.fixture
def files(tmp_path: Path, parts: list[np.ndarray]) -> list[Path]:
    return save(tmp_path / "train", parts)


@pytest.mark.parametrize("limit", [1, 5 * WINDOW, 2**30])
@pytest.mark.parametrize("count", [1, 4])
def test_any_rows_are_those_of_the_joined_array(
    files: list[Path], parts: list[np.ndarray], count: int, limit: int
) -> None:
    joined, array = np.concatenate(parts[:count]), Shards.of(files[:count], Resident(limit))
    assert (array.shape, array.dtype, len(array)) == (joined.shape, joined.dtype, len(joined))
    rng = np.random.default_rng(1)
    for rows in (range(len(joined)), rng.integers(0, len(joined), 500), [0, len(joined) - 1, 0], []):
        found = array[rows]
        assert np.array_equal(found, joined[np.asarray(rows, dtype=np.int64)])
        assert found.flags.writeable
        assert not any(np.shares_memory(found, part) for part in array._maps)


@pytest.mark.parametrize("row", [-1, sum(SIZES), 10**12, 1.0, True])
def test_other_rows_are_refused(files: list[Path], row: object) -> None:
    for array in (Shards.of(files), Shards.of(files[:1])):
        with pytest.raises(IndexError, match=f"{row}: must be a whole number from 0 to {len(array) - 1}"):
            array[[0, row] if isinstance(row, int) and not isinstance(row, bool) else [row]]


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("limit", [1, 2**30])
def test_any_slice_is_that_of_the_joined_array(
    files: list[Path], parts: list[np.ndarray], count: int, limit: int
) -> None:
    joined, array = np.concatenate(parts[:count]), Shards.of(files[:count], Resident(limit))
    for begin, end, step in ((0, 300, 1), (2, 4, 1), (4, 999, 1), (5, 5, 1), (-2, None, 1), (0, 99, 2), (9, 3, -1)):
        assert np.array_equal(array[begin:end:step], joined[begin:end:step])


def test_a_worker_is_sent_the_names_of_files_and_not_what_they_hold(files: list[Path], parts: list[np.ndarray]) -> None:
    resident = Resident(5 * WINDOW)
    source = ArraySource(Shards.of(files, resident), {"same": Shards.of(files, resident)})
    sent = pickle.dumps(source)
    assert len(sent) < 5000
    other = pickle.loads(sent)
    assert torch.equal(whole(other).x, torch.from_numpy(np.concatenate(parts)))
    assert other.x._resident is other.cond["same"]._resident
    assert other.x._resident.limit == 5 * WINDOW


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled": (lambda f: np.save(f, np.array([{}, None]), allow_pickle=True), "cannot be read as .npy"),
    "no array": (lambda f: f.write_bytes(b"no array"), "cannot be read as .npy"),
    "empty file": (lambda f: f.write_bytes(b""), "cannot be read as .npy"),
    "no rows": (lambda f: np.save(f, np.zeros((0, 3, 50, 50), np.uint8)), "must have rows"),
    "one number": (lambda f: np.save(f, np.uint8(3)), "must have rows"),
    "cut off": (lambda f: f.write_bytes(f.read_bytes()[:-1]), "cannot be read as .npy"),
    "archive": (lambda f: np.savez(f.open("wb"), x=np.zeros(3)), "cannot be read as .npy"),
    "other dtype": (lambda f: np.save(f, np.zeros((2, 3, 50, 50))), "float64 of 3x50x50, but x-0.npy uint8 of 3x50x50"),
    "other shape": (lambda f: np.save(f, np.zeros((2, 3, 50, 51), np.uint8)), "uint8 of 3x50x51"),
    "Fortran's order": (lambda f: np.save(f, np.asfortranarray(np.zeros((2, 3, 50, 50), np.uint8))), "C's order"),
    "gone": (lambda f: f.unlink(), "cannot be read as .npy"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_shard_is_named(files: list[Path], kind: str) -> None:
    spoil, message = BAD[kind]
    spoil(files[2])
    with pytest.raises(UserError, match=message) as error:
        Shards.of(files)
    assert str(files[2]) in str(error.value)
    assert "\n" not in str(error.value)


def test_pages_are_let_go_of_as_often_as_the_limit_says(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    let_go: list[int] = []
    monkeypatch.setattr(shards, "let_go", lambda arrays: let_go.append(len(arrays)))
    roomy = Shards.of(files, Resident(2**30))
    for _ in range(100):
        roomy[range(len(roomy))]
    assert let_go == []
    tight = Shards.of(files[:2], Resident(2 * WINDOW))
    tight._resident._total = 10 * WINDOW  # as of larger files
    for _ in range(12):
        tight[[0]]  # counts as two windows, or three where it lies across their border
    assert len(let_go) == 11
    assert set(let_go) == {1}, "nothing is asked of files that were not read"


# The memory itself


def grown(work: Callable[[], object]) -> float:
    """Bytes that the process had more at its peak than before."""
    before = reset_peak()
    if before is None:
        pytest.skip("the peak of memory is in /proc, which this system does not have")
    work()
    return peak() - before


@pytest.mark.slow
def test_an_epoch_of_ten_times_the_limit_takes_the_limit(tmp_path: Path) -> None:
    """And without it the whole set: the measurement sees what is mapped."""
    found = main(Options(size=400, memory=40, workers=1, out=str(tmp_path)))
    assert found["bounded"].grown < 40 + SLACK
    assert found["bounded, 1 workers"].grown < 40 + SLACK
    assert found["unbounded"].grown > 350
    assert json.loads((tmp_path / "loader_memory.json").read_text())["options"]["size"] == 400


MEGABYTES = 120


def read(source: Source) -> None:
    for i in range(0, len(source) - 8, 8):
        source.batch(range(i, i + 8))


def clips(folder: Path, resident: Resident) -> Source:
    length = 20_000
    np.zeros(MEGABYTES * 500_000, dtype="<i2").tofile(folder / "samples")
    samples = Shards([np.memmap(folder / "samples", dtype="<i2", mode="r")], resident)
    starts = np.arange(0, len(samples), length)
    return ClipSource(samples, starts, np.full(len(starts), length), {}, 1, length, True)


def molecules(folder: Path, resident: Resident) -> Source:
    atoms, size = MEGABYTES * 10**6 // 13, 1000
    np.save(folder / "positions.npy", np.zeros((atoms, 3), np.float32))
    np.save(folder / "species.npy", np.zeros(atoms, np.uint8))
    positions, species = (Shards.of([folder / f"{what}.npy"], resident) for what in ("positions", "species"))
    starts = np.arange(0, atoms - size, size)
    return MoleculeSource(positions, species, starts, np.full(len(starts), size), {}, 3)


@pytest.mark.parametrize("make", [clips, molecules])
@pytest.mark.parametrize("limit", [12, 10**4])
def test_sounds_and_molecules_stay_within_the_limit_too(make: Callable, limit: int, tmp_path: Path) -> None:
    source = make(tmp_path, Resident(limit * 10**6))
    found = grown(lambda: read(source)) / 1e6
    assert found < limit + 10
    if limit > MEGABYTES:  # or the measurement would not see what is mapped
        assert found > 0.8 * MEGABYTES


def test_all_of_a_large_array_at_once_takes_the_copy_and_the_limit(tmp_path: Path) -> None:
    files = save(tmp_path / "x", [np.zeros((60, 10**6), np.uint8)] * 2)
    array = Shards.of(files, Resident(12 * 10**6))
    assert grown(lambda: array[range(120)]) < 120e6 + 12e6 + 10e6


# Pictures


def write_set(root: Path, labelled: bool = True) -> dict[str, np.ndarray]:
    """Two classes, one after the other."""
    rng, pictures = np.random.default_rng(0), {}
    for split, sizes in zip(SPLITS, ([30, 10], [20], [12, 12]), strict=True):
        arrays = [rng.integers(0, 256, (n, 1, 4, 4), dtype=np.uint8) for n in sizes]
        save(root / split, arrays)
        pictures[split] = np.concatenate(arrays)
        if labelled:
            labels = np.arange(sum(sizes)) * 2 // sum(sizes)
            save(root / split, np.split(labels, np.cumsum(sizes)[:-1]), "label")
    return pictures


def test_a_users_shards_are_a_data_set(tmp_path: Path) -> None:
    pictures = write_set(tmp_path)
    data = ImageShards(str(tmp_path), memory=1)
    shape = {"channels": 1, "size": 4, "shape": [1, 4, 4]}
    assert data.facts == {**shape, "num_classes": 2, "classes": ["0", "1"]}
    assert "40 training, 20 validation and 24 test images of 1x4x4, 2 classes" in data.describe()
    assert torch.equal(whole(data.train).x, torch.from_numpy(pictures["train"]))
    assert whole(data.train).cond["label"].tolist() == [0] * 20 + [1] * 20
    for split in ("val", "test"):
        found = whole(getattr(data, split))
        assert sorted(map(bytes, found.x.numpy())) == sorted(map(bytes, pictures[split]))
        of = {bytes(x): i * 2 // len(found) for i, x in enumerate(pictures[split])}
        assert [of[bytes(x)] for x in found.x.numpy()] == found.cond["label"].tolist()
        assert whole(getattr(data, split), 10).cond["label"].bincount().tolist() == [5, 5]
    assert torch.equal(whole(data.test).x, whole(ImageShards(str(tmp_path)).test).x)
    (tmp_path / "classes.json").write_text('["cat", "dog", "owl"]')
    assert ImageShards(str(tmp_path)).classes == ["cat", "dog", "owl"]


def test_shards_need_no_labels(tmp_path: Path) -> None:
    write_set(tmp_path, labelled=False)
    data = ImageShards(str(tmp_path))
    assert data.classes == []
    assert whole(data.test).cond == {}


def put(name: str, array: object) -> Callable[[Path], object]:
    return lambda root: np.save(root / name, array)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no split": (lambda root: [f.unlink() for f in (root / "val").iterdir()], "val holds no x-"),
    "floats": (put("val/x-0.npy", np.zeros((20, 1, 4, 4), np.float32)), "float32 of 1x4x4: must be uint8"),
    "oblong": (put("val/x-0.npy", np.zeros((20, 1, 4, 5), np.uint8)), "uint8 of 1x4x5: must be uint8 .n, channels"),
    "another size": (put("val/x-0.npy", np.zeros((20, 1, 5, 5), np.uint8)), "but train 1x4x4"),
    "a label missing": (lambda root: (root / "test" / "label-1.npy").unlink(), "label-1.npy is missing"),
    "a label too many": (put("test/label-2.npy", np.zeros(3, np.int64)), "label-2.npy is of no x-"),
    "no labels in a split": (lambda root: (root / "val" / "label-0.npy").unlink(), "val holds no label-"),
    "too few labels": (put("test/label-1.npy", np.zeros(11, np.int64)), "label-1.npy holds 11 labels for 12 pictures"),
    "one-hot labels": (put("val/label-0.npy", np.zeros((20, 2), np.int64)), "of 2 axes: must be int64 .n,"),
    "short labels": (put("val/label-0.npy", np.zeros(20, np.int32)), "int32 of 1 axes: must be int64"),
    "negative labels": (put("val/label-0.npy", np.full(20, -1)), "labels from -1 to 1: must be from 0 to 99999"),
    "huge labels": (put("val/label-0.npy", np.full(20, 2**62)), "must be from 0 to 99999"),
    "unnamed labels": (lambda root: (root / "classes.json").write_text('["a"]'), "from 0 to 0, which classes.json"),
    "no list": (lambda root: (root / "classes.json").write_text('{"a": 1}'), "must be a list of the classes' names"),
    "one name twice": (lambda root: (root / "classes.json").write_text('["a", "a"]'), "one name twice"),
    "no JSON": (lambda root: (root / "classes.json").write_text("[" * 100_000), "cannot be read as JSON"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_with_a_set_of_shards_is_named(tmp_path: Path, kind: str) -> None:
    write_set(tmp_path)
    spoil, message = WRONG[kind]
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        ImageShards(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("memory", [0, -1, 0.5, None])
def test_the_memory_is_a_number_of_megabytes(tmp_path: Path, memory: object) -> None:
    with pytest.raises(UserError, match=r"data.memory=.*1 or more"):
        ImageShards(str(tmp_path), memory=memory)


# The part of a large split that samples are compared with


def test_a_small_split_is_taken_whole() -> None:
    source = ArraySource(np.arange(100, dtype=np.float32)[:, None])
    assert torch.equal(spread(source, 400).x, whole(source).x)


@pytest.mark.parametrize(("limit", "count"), [(396, 99), (40, 10), (0, 1)])
def test_of_a_large_split_evenly_spaced_samples_are_taken(limit: int, count: int) -> None:
    found = spread(ArraySource(np.arange(100, dtype=np.float32)[:, None]), limit).x[:, 0]
    assert len(found) == count
    assert (found - torch.arange(count) * 100 / count).abs().max() < 1


def test_padding_counts_where_sizes_differ() -> None:
    sizes = np.ones(1000, dtype=np.int64)
    sizes[555] = 100
    starts = np.cumsum(sizes) - sizes
    atoms = int(sizes.sum())
    source = MoleculeSource(np.zeros((atoms, 3), np.float32), np.zeros(atoms, np.uint8), starts, sizes, {}, 1)
    source_bytes = 1000 * 100 * 4 * 4
    assert len(spread(source, source_bytes - 1)) < 1000


def test_an_evaluation_says_what_part_it_has_seen(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def title(folder: str) -> str:
        evaluate(tmp_path / folder, f"checkpoint={trained}")
        return json.loads((tmp_path / folder / "evaluation.json").read_text())["title"]

    assert title("whole") == "4 samples against 4 held-out ones"
    monkeypatch.setattr("core.evaluation.TRAINING_BYTES", 100 * 28 * 28 * 4)
    assert title("part") == "4 samples against 4 held-out ones, and 100 of 3,500 training ones"
