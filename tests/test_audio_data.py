"""Sets of sounds: good and bad files, archives, downloads, splits, masks, and the synthesised notes."""

from __future__ import annotations

import hashlib
import http.server
import io
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from core.data import whole
from core.errors import UserError
from modalities.audio import clips, fsdd, tones
from modalities.audio.archives import wav_members
from modalities.audio.clips import Reader
from modalities.audio.data import AudioData, ClipSource
from modalities.audio.folder import AudioFolder
from modalities.audio.fsdd import Fsdd
from modalities.audio.synthesis import INSTRUMENTS, frequency, synthesise
from modalities.audio.tones import Tones
from modalities.audio.torchaudio_sets import LJSpeech, SpeechCommands

sf = pytest.importorskip("soundfile")
pytest.importorskip("torchaudio")

SPLITS = ("train", "val", "test")
RECORDINGS = Path(__file__).parents[2] / "shared" / "data" / "fsdd-recordings.tar.gz"
needs_recordings = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"{RECORDINGS} is not there")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(path))
    return path


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Tones:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYDIFFUSION_CACHE", str(tmp_path_factory.mktemp("tones")))
        return Tones()


def fail(*_: object, **__: object) -> None:
    raise AssertionError("called again")


def sine(hertz: float, seconds: float, rate: int = 8000, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def save(path: Path, x: np.ndarray, rate: int = 8000, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, x, rate, **options)


def wav(x: np.ndarray, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    sf.write(file, x, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def loudest(x: np.ndarray, rate: int) -> float:
    """The frequency of the highest peak of the spectrum, in Hz."""
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), 8 * len(x)))
    return float(spectrum.argmax() * rate / (8 * len(x)))


# Reading


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [8000, 44100, 11127])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_kind_of_file_becomes_the_same_clip(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    x = sine(440, 0.5, rate)
    save(tmp_path / f"a.{suffix}", np.stack([x, 0.5 * x], 1)[:, :channels], rate)
    (clip,) = Reader(8000)(tmp_path / f"a.{suffix}")
    assert clip.dtype == np.int16
    assert abs(len(clip) - 4000) <= 1
    assert np.abs(clip).max() == round(0.9 * 32767)
    assert loudest(clip, 8000) == pytest.approx(440, abs=0.5)
    exact = 0.9 * 32767 * np.sin(2 * np.pi * 440 * np.arange(3000) / 8000)
    if suffix != "ogg":  # which loses something
        assert np.abs(clip[500:2500] - exact[500:2500]).max() < 0.02 * 32767


def test_mono_is_the_mean_and_normalisation_is_a_choice(tmp_path: Path) -> None:
    x = sine(300, 0.2)
    save(tmp_path / "a.wav", np.stack([x, 0 * x], 1), subtype="FLOAT")
    save(tmp_path / "loud.wav", 8 * x, subtype="FLOAT")
    (half,) = Reader(8000, normalise="none")(tmp_path / "a.wav")
    np.testing.assert_allclose(half / 32767, x / 2, atol=1 / 32767)
    (loud,) = Reader(8000, normalise="none")(tmp_path / "loud.wav")  # beyond full scale: never clipped
    np.testing.assert_allclose(loud / 32767, x / np.abs(x).max(), atol=1 / 32767)


def test_long_files_are_faded_out_or_cut_into_windows(tmp_path: Path) -> None:
    x = np.concatenate([sine(300, 1.0), np.zeros(8000, np.float32), sine(300, 0.5), sine(300, 0.6)])
    save(tmp_path / "a.wav", x, subtype="FLOAT")
    (cut,) = Reader(8000, 0.5, normalise="none")(tmp_path / "a.wav")
    assert len(cut) == 4000
    np.testing.assert_allclose(cut[:3960] / 32767, x[:3960], atol=1 / 32767)
    assert cut[-1] == 0
    assert np.abs(np.diff(cut[-40:] / 32767)).max() < 0.15
    windows = Reader(8000, 0.5, windows=True, normalise="none")(tmp_path / "a.wav")
    assert [len(window) for window in windows] == [4000] * 4  # two silent ones, and the rest of 0.1 s, are left out
    np.testing.assert_allclose(windows[1] / 32767, x[4000:8000], atol=1 / 32767)
    assert len(Reader(8000, 2.0, windows=True)(tmp_path / "a.wav")[1]) == 8800  # a long rest is kept
    assert len(Reader(8000, None, windows=True)(tmp_path / "a.wav")[0]) == len(x)


def bad_files(root: Path) -> dict[str, str]:
    """Writes files that cannot be used, and returns what is to be said of each."""
    x = sine(300, 0.2)
    save(root / "silent.wav", 0 * x)
    save(root / "constant.wav", 0 * x + 0.3)
    save(root / "none.wav", x[:0])
    save(root / "short.wav", x[:100])
    save(root / "nan.wav", np.where(np.arange(1600) == 800, np.nan, x), subtype="FLOAT")
    save(root / "infinite.wav", np.where(np.arange(1600) == 800, np.inf, x), subtype="FLOAT")
    save(root / "anti.wav", np.stack([x, -x], 1), subtype="FLOAT")
    save(root / "slow.wav", x, 100)
    save(root / "many.wav", np.stack([x] * 17, 1))
    save(root / "good.flac", x)
    (root / "cut.flac").write_bytes((root / "good.flac").read_bytes()[:60])
    (root / "good.flac").unlink()
    (root / "empty.wav").write_bytes(b"")
    (root / "text.ogg").write_bytes(b"this is no sound")
    (root / "header.wav").write_bytes(wav(x)[:20])
    silence, corrupt = "silent", "."  # the decoder's words are its own
    return {
        **dict.fromkeys(["silent.wav", "constant.wav", "anti.wav"], silence),
        **dict.fromkeys(["cut.flac", "empty.wav", "text.ogg", "header.wav"], corrupt),
        **dict.fromkeys(["nan.wav", "infinite.wav"], "holds NaN or infinite values"),
        "none.wav": "empty",
        "short.wav": "100 samples, shorter than 20 ms",
        "slow.wav": "100 Hz is not from 4,000",
        "many.wav": "17 channels",
    }


def test_a_file_that_claims_hours_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.wav", sine(300, 0.2))
    monkeypatch.setattr(clips, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(sf.SoundFile, "blocks", fail)
    with pytest.raises(ValueError, match="longer than an hour"):
        clips.read(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 100}, "data.sample_rate=100: from 4,000"),
        ({"max_seconds": 0}, "data.max_seconds=0: from"),
        ({"normalise": "loud"}, "data.normalise=loud: peak or none"),
        ({"multiple": 0}, "data.multiple=0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    for data in (Fsdd, SpeechCommands, LJSpeech):
        with pytest.raises(UserError, match=message):
            data(**options)


# Folders


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two classes of 20 files of many kinds, from 0.1 to 0.5 seconds."""
    root = tmp_path / "sounds"
    for number in range(20):
        rate, suffix = (8000, 16000, 22050)[number % 3], ("wav", "flac", "ogg")[number % 3]
        for place, hertz in (("low", 200), ("high/deep", 900)):
            save(root / place / f"{number:02}.{suffix}", sine(hertz + 10 * number, 0.1 + 0.02 * number, rate), rate)
    return root


def test_folder_takes_labels_from_subfolders_and_reads_once(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"path": str(sounds), "val": 0.1, "test": 0.2, "multiple": 400}
    data = AudioFolder(**options)
    assert [len(getattr(data, split)) for split in SPLITS] == [28, 4, 8]
    lengths = data.facts.pop("lengths")
    assert data.facts == {
        "sample_rate": 8000,
        "max_length": 4000,
        "multiple": 400,
        "classes": ["high", "low"],
        "conditions": {"label": ["high", "low"]},
    }
    assert np.shape(lengths) == (2, 8)
    assert whole(data.test).cond["label"].bincount().tolist() == [4, 4]
    for label, row in enumerate(lengths):
        of_class = np.sort(data.train.lengths[data.train.cond["label"] == label])
        assert set(row) <= set(of_class.tolist())
        assert abs(np.median(row) - np.median(of_class)) < 400
    assert "28 training, 4 validation and 8 test clips, 0.00 hours at 8,000 Hz, conditions label (2)" in data.describe()
    monkeypatch.setattr(clips, "read", fail)
    assert torch.equal(whole(AudioFolder(**options).train).x, whole(data.train).x)
    with pytest.raises(UserError, match=r"40 files|too few"):  # other options, other cache: every file is read again
        AudioFolder(**options, sample_rate=16000)


def test_folder_names_skips_and_counts_bad_files(sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = bad_files(sounds / "low")
    data = AudioFolder(str(sounds), val=0.1, test=0.2)
    reasons = {Path(file).name: reason for file, reason in (line.split(": ", 1) for line in data.skipped)}
    assert reasons.keys() == bad.keys()
    for name, expected in bad.items():
        assert expected in reasons[name] or (expected == "." and reasons[name])
    assert sum(len(getattr(data, split)) for split in SPLITS) == 40
    assert f"{len(bad)} unreadable files skipped: " in data.describe()
    assert f"skipped {len(bad)} unreadable files:" in capsys.readouterr().out
    for split in SPLITS:
        assert torch.isfinite(whole(getattr(data, split)).x).all()
    with pytest.raises(UserError, match=f"data.strict=true, and {len(bad)} files"):
        AudioFolder(str(sounds), val=0.1, test=0.2, strict=True)


def test_windows_of_a_file_stay_in_one_split(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / f"{number}.wav", sine(200 + 20 * number, 1.0))
    data = AudioFolder(str(tmp_path), max_seconds=0.25, val=0.1, test=0.2)
    assert [len(getattr(data, split)) for split in SPLITS] == [56, 8, 16]
    assert data.classes == []
    assert data.facts["lengths"] == [[2000] * 8]
    assert data.facts["max_length"] == 2560
    heard = [{round(loudest(x[0, :2000].numpy(), 8000) / 20) for x in whole(getattr(data, s)).x} for s in SPLITS]
    assert [len(pitches) for pitches in heard] == [14, 2, 4]
    assert len(set.union(*heard)) == 20


def test_folder_refuses_what_it_cannot_use(sounds: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        AudioFolder(str(tmp_path / "nowhere"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="holds no sound files"):
        AudioFolder(str(tmp_path / "bare"))
    (tmp_path / "bare" / "a.wav").write_bytes(b"no")
    with pytest.raises(UserError, match="none of 1 sound files can be read"):
        AudioFolder(str(tmp_path / "bare"))
    with pytest.raises(UserError, match=r"0 usable clips .* such as .*a.wav"):
        AudioFolder(str(tmp_path / "bare"), sample_rate=8000)
    with pytest.raises(UserError, match=r"data.val=0.5 and data.test=0.5"):
        AudioFolder(str(sounds), val=0.5, test=0.5)
    save(sounds / "loose.wav", sine(300, 0.2))
    with pytest.raises(UserError, match=r"loose.wav.*data.labels=false"):
        AudioFolder(str(sounds))
    assert AudioFolder(str(sounds), labels=False).facts["conditions"] == {}


def test_missing_packages_are_named(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match="need the package soundfile: pip install"):
        AudioFolder(str(sounds), sample_rate=8000)
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(UserError, match="needs torchaudio: pip install"):
        LJSpeech()


# Batches


def source(lengths: list[int], multiple: int = 40, full: bool = False) -> ClipSource:
    n = np.array(lengths)
    samples = np.random.default_rng(0).integers(-32767, 32768, n.sum(), dtype=np.int16)
    max_length = -(-n.max() // multiple) * multiple
    return ClipSource(samples, np.cumsum(n) - n, n, {"label": np.arange(len(n))}, multiple, int(max_length), full)


def test_a_clip_does_not_depend_on_its_neighbours() -> None:
    clips_of = source([100, 35, 120, 81])
    for row, length in enumerate(clips_of.lengths):
        alone, among = clips_of.batch([row]), clips_of.batch([row, 2])
        assert alone.x.shape[2] == -(-length // 40) * 40
        assert among.x.shape[2] == 120
        padded = alone.x.shape[2]
        assert torch.equal(alone.x[0], among.x[0, :, :padded])
        assert among.x[0, :, length:].abs().sum() == 0
        expected = (torch.arange(120) < length).float()
        assert torch.equal(among.mask[0, 0], expected)
        assert torch.equal(alone.mask[0, 0], expected[:padded])
        assert alone.cond["label"].tolist() == [row]
        assert alone.x.dtype == alone.mask.dtype == torch.float32
        assert alone.x.abs().max() <= 1


def test_silence_can_count_as_data() -> None:
    filled = source([100, 35, 110], full=True).batch([1])
    assert filled.x.shape == (1, 1, 120)
    assert filled.mask.shape == (1, 1, 1)
    assert torch.equal(filled.x[..., :40] * source([100, 35, 110]).batch([1]).mask, source([100, 35, 110]).batch([1]).x)


# Spoken digits

SPEAKERS = ("ann", "bob")


def recordings(count: int = 20) -> dict[str, bytes]:
    """A small stand-in: two speakers, ten digits; each recording a tone of its own."""
    return {
        f"set-master/recordings/{digit}_{speaker}_{index}.wav": wav(
            sine(200 + 100 * digit + 2 * index + 50 * place, 0.1 + 0.01 * digit, peak=0.1 + 0.8 * place)
        )
        for digit in range(10)
        for place, speaker in enumerate(SPEAKERS)
        for index in range(count)
    }


def tar(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def check_digits(data: AudioData) -> None:
    assert [len(getattr(data, split)) for split in SPLITS] == [278, 22, 100]
    assert data.facts["conditions"] == {"label": [str(digit) for digit in range(10)], "speaker": list(SPEAKERS)}
    test = whole(data.test)
    assert (test.cond["label"] * 2 + test.cond["speaker"]).bincount().tolist() == [5] * 20
    assert (test.cond["label"][:20] * 2 + test.cond["speaker"][:20]).unique().numel() == 20  # every prefix is balanced
    assert np.shape(data.facts["lengths"]) == (20, 8)
    assert data.facts["lengths"][6] == [1040] * 8  # digit 3 of the first speaker
    assert data.facts["max_length"] == 1920
    spoken = test.x[:, 0].abs().amax(1)
    torch.testing.assert_close(spoken, torch.full_like(spoken, 0.9), atol=1e-4, rtol=0)


def test_digits_are_the_same_from_a_folder_and_from_archives(tmp_path: Path, cache: Path) -> None:
    files = recordings()
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    extra = {"set-master/README.md": b"about", "set-master/other/1_ann_7.wav": b"not under recordings"}
    sets = [
        Fsdd(str(tmp_path / "set-master")),
        Fsdd(str(tar(tmp_path / "a.tar.gz", files | extra))),
        Fsdd(str(zipped(tmp_path / "a.zip", files | extra))),
    ]
    for data in sets:
        check_digits(data)
        for split in SPLITS:
            assert torch.equal(whole(getattr(data, split)).x, whole(getattr(sets[0], split)).x)
    assert not list(cache.rglob("*.wav"))  # nothing is unpacked
    filled = Fsdd(str(tmp_path / "a.zip"), silence=True)
    assert filled.train.batch([0]).x.shape == (1, 1, 1920)
    assert filled.facts["lengths"] == []


def test_test_recordings_are_the_official_ones(tmp_path: Path) -> None:
    files = recordings()
    data = Fsdd(str(tar(tmp_path / "a.tar.gz", files)))
    test = whole(data.test)
    for row, length in enumerate(data.test.lengths):
        digit, speaker = (int(test.cond[name][row]) for name in ("label", "speaker"))
        index = (loudest(test.x[row, 0, :length].numpy(), 8000) - 200 - 100 * digit - 50 * speaker) / 2
        assert -0.5 < index < 4.5
    everything = torch.cat([whole(getattr(data, split)).x[:, 0, :800] for split in SPLITS])
    assert len(everything.unique(dim=0)) == 400  # no recording is in two splits


def test_bad_recordings_are_named_and_bad_names_refused(tmp_path: Path) -> None:
    files = recordings()
    files["set-master/recordings/3_ann_7.wav"] = b"damaged"
    files["set-master/recordings/4_bob_1.wav"] = wav(np.zeros(900))
    data = Fsdd(str(tar(tmp_path / "a.tar.gz", files)))
    assert [line.split("/")[-1].split(": ")[0] for line in data.skipped] == ["3_ann_7.wav", "4_bob_1.wav"]
    assert data.skipped[1].endswith(": silent")
    assert len(data.test) == 99
    with pytest.raises(UserError, match=r"strict=true, and 2 files"):
        Fsdd(str(tmp_path / "a.tar.gz"), strict=True)
    with pytest.raises(UserError, match=r"hello.wav is no recording"):
        Fsdd(str(tar(tmp_path / "b.tar.gz", recordings(1) | {"x/recordings/hello.wav": b""})))
    with pytest.raises(UserError, match=r"holds no recordings/\*.wav"):
        Fsdd(str(tar(tmp_path / "c.tar.gz", {"x/1_ann_2.wav": b""})))
    with pytest.raises(UserError, match="no such folder or archive"):
        Fsdd(str(tmp_path / "nowhere"))


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("name", ["/recordings/1_a_9.wav", "x/../../recordings/1_a_9.wav", "C:\\recordings\\1_a_9.wav"])
def test_archives_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    for archive in (tar(tmp_path / "a.tar.gz", {name: b"x"}), zipped(tmp_path / "a.zip", {name: b"x"})):
        with pytest.raises(UserError, match="points out of the archive"):
            wav_members(archive, "recordings")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(UserError, match="a link or a device"):
        wav_members(tar(tmp_path / "a.tar.gz", {}, link("x/recordings/1_a_9.wav", kind, "/etc/passwd")), "recordings")
    member = zipfile.ZipInfo("x/recordings/1_a_9.wav")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match="a link or a device"):
        wav_members(tmp_path / "a.zip", "recordings")


def test_archives_that_claim_too_much_or_are_damaged_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tar(tmp_path / "good.tar.gz", recordings(1))
    data = good.read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "flipped.tar.gz").write_bytes(data[:2000] + bytes(200) + data[2200:])
    (tmp_path / "text.tar.gz").write_bytes(b"<html>not found</html>" * 100)
    (tmp_path / "empty.zip").write_bytes(b"")
    whole_zip = zipped(tmp_path / "good.zip", recordings(1)).read_bytes()
    (tmp_path / "flipped.zip").write_bytes(whole_zip[:500] + b"\xff" * 50 + whole_zip[550:])
    for name in ("cut.tar.gz", "flipped.tar.gz", "text.tar.gz", "empty.zip", "flipped.zip"):
        with pytest.raises(UserError, match=name):
            wav_members(tmp_path / name, "recordings")
    monkeypatch.setattr("modalities.audio.archives.MAX_FILE", 1000)
    for name in ("good.tar.gz", "good.zip"):
        with pytest.raises(UserError, match=r"claims 1,\d+ bytes"):
            wav_members(tmp_path / name, "recordings")
    monkeypatch.setattr("modalities.audio.archives.MAX_TOTAL", 500)
    for name in ("good.tar.gz", "good.zip"):
        with pytest.raises(UserError, match="claims to hold more than 500"):
            wav_members(tmp_path / name, "recordings")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server on this machine that has recordings.tar.gz and damaged.tar.gz."""
    folder = tmp_path / "served"
    folder.mkdir()
    tar(folder / "recordings.tar.gz", recordings())
    (folder / "damaged.tar.gz").write_bytes(b"no archive")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


def test_digits_are_downloaded_once_and_checked(
    tmp_path: Path, cache: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fsdd, "URL", f"{server}/recordings.tar.gz")
    with pytest.raises(UserError, match=r"has the SHA-256 checksum [0-9a-f]{64}, not data.sha256=00"):
        Fsdd(sha256="00")
    assert list((cache / "fsdd").iterdir()) == []  # what was wrong is not kept
    monkeypatch.setattr("core.pulse.PULSE_SECONDS", 0)
    checksum = hashlib.sha256((tmp_path / "served" / "recordings.tar.gz").read_bytes()).hexdigest()
    check_digits(Fsdd(sha256=checksum.upper()))
    printed = capsys.readouterr().out
    assert f"downloading {server}" in printed
    assert "downloaded 0." in printed
    monkeypatch.setattr(fsdd, "URL", f"{server}/gone.tar.gz")
    check_digits(Fsdd())  # from the cache
    assert sorted(path.name for path in (cache / "fsdd").iterdir())[-1] == "recordings.tar.gz"


def test_failed_downloads_say_what_to_do(cache: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (f"{server}/gone.tar.gz", "http://127.0.0.1:9/a.tar.gz", "http://nowhere.invalid/a.tar.gz"):
        monkeypatch.setattr(fsdd, "URL", url)
        with pytest.raises(UserError, match=r"cannot be downloaded \(.*\): .*data.path=FILE"):
            Fsdd()
    monkeypatch.setattr(fsdd, "URL", f"{server}/damaged.tar.gz")
    with pytest.raises(UserError, match="not a readable"):
        Fsdd()
    monkeypatch.setattr("modalities.audio.archives.MAX_DOWNLOAD", 100)
    monkeypatch.setattr(fsdd, "URL", f"{server}/recordings.tar.gz")
    with pytest.raises(UserError, match="more than 100 bytes"):
        Fsdd()
    assert list((cache / "fsdd").iterdir()) == []


@needs_recordings
def test_the_real_digits() -> None:
    data = Fsdd(str(RECORDINGS))
    assert [len(getattr(data, split)) for split in SPLITS] == [2500, 200, 300]
    assert data.skipped == []
    assert data.facts["max_length"] == 6400
    assert data.facts["conditions"]["speaker"] == ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    test = data.test.cond
    assert np.bincount(test["label"] * 6 + test["speaker"]).tolist() == [5] * 60
    assert np.ptp(np.bincount(data.val.cond["label"])) <= 2
    assert np.shape(data.facts["lengths"]) == (60, 8)
    batch = whole(data.val)
    assert batch.x.shape == batch.mask.shape
    assert (batch.x * (1 - batch.mask)).abs().max() == 0
    assert batch.x.abs().amax((1, 2)).sub(0.9).abs().max() < 1e-4


# Torchaudio's sets, by a stand-in of the package


class Commands:
    """As torchaudio's: a row's path is relative to the folder SpeechCommands below the root."""

    def __init__(self, root: str, download: bool = False, subset: str | None = None) -> None:
        assert download
        home, number = Path(root) / "SpeechCommands", {"training": 0, "validation": 1, "testing": 2}[subset]
        self.rows = []
        for word in ("yes", "no", "stop"):
            for index in range((8, 2, 4)[number]):
                path = Path("speech_commands_v0.02") / word / f"{index:08x}_nohash_{number}.wav"
                save(home / path, sine(300 * (number + 1), 1.0 if index else 0.7, 16000), 16000)
                self.rows.append((str(path), 16000, word, f"{index:08x}", number))

    def __len__(self) -> int:
        return len(self.rows)

    def get_metadata(self, row: int) -> tuple[str, int, str, str, int]:
        return self.rows[row]


class Sentences:
    def __init__(self, root: str, download: bool = False) -> None:
        assert download
        for number in range(20):
            save(Path(root) / "LJSpeech-1.1" / "wavs" / f"LJ001-{number:04}.wav", sine(300, 1.2, 22050), 22050)


class Unreachable:
    def __init__(self, **_: object) -> None:
        raise OSError("no\nroute")


def stand_in(monkeypatch: pytest.MonkeyPatch, **sets: type) -> None:
    package = ModuleType("torchaudio")
    package.datasets = SimpleNamespace(**sets)
    monkeypatch.setitem(sys.modules, "torchaudio", package)


def test_speech_commands_keep_their_official_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, SPEECHCOMMANDS=Commands)
    data = SpeechCommands()
    assert [len(getattr(data, split)) for split in SPLITS] == [24, 6, 12]
    assert data.classes == ["no", "stop", "yes"]
    assert data.facts["sample_rate"] == data.facts["max_length"] == 16000
    assert whole(data.test, 6).cond["label"].bincount().tolist() == [2, 2, 2]
    for number, split in enumerate(SPLITS):
        batch = whole(getattr(data, split))
        assert loudest(batch.x[0, 0].numpy(), 16000) == pytest.approx(300 * (number + 1), abs=1)
    assert SpeechCommands(words=["yes", "no", "yes"]).classes == ["yes", "no"]
    with pytest.raises(UserError, match="has no word never"):
        SpeechCommands(words=["yes", "never"])
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    assert len(SpeechCommands().train) == 24  # the cache needs no torchaudio


def test_lj_speech_is_cut_into_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, LJSPEECH=Sentences)
    data = LJSpeech(max_seconds=0.5, val=0.1, test=0.2)
    assert [len(getattr(data, split)) for split in SPLITS] == [42, 6, 12]
    assert data.facts["conditions"] == {}
    assert data.facts["classes"] == []
    assert np.shape(data.facts["lengths"]) == (1, 8)
    assert data.facts["max_length"] == 11520
    stand_in(monkeypatch, LJSPEECH=Unreachable)
    with pytest.raises(UserError, match=r"LJSPEECH could not be loaded into .*: no route"):
        LJSpeech()


# Notes


def test_notes_are_balanced_and_made_once(notes: Tones, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert [len(getattr(notes, split)) for split in SPLITS] == [6000, 500, 1000]
    assert notes.facts["max_length"] == 6400
    assert notes.facts["lengths"] == []
    assert notes.facts["conditions"] == {"label": list(INSTRUMENTS), "pitch": [str(p) for p in range(48, 73)]}
    for split in SPLITS:
        cond = getattr(notes, split).cond
        both = cond["label"] * 25 + cond["pitch"]
        for start in range(0, len(both), 125):
            assert len(np.unique(both[start : start + 125])) == 125
        assert (cond["label"].reshape(-1, 5) == np.arange(5)).all()
    batch = notes.test.batch(range(5))
    assert batch.x.shape == (5, 1, 6400)
    assert batch.mask.shape == (5, 1, 1)
    monkeypatch.setattr(tones, "SIZES", {"train": 250, "val": 125, "test": 125})
    Tones()
    monkeypatch.setattr(tones, "synthesise", fail)
    again = Tones()
    assert torch.equal(whole(again.train).x, notes.train.batch(range(250)).x)


def test_a_note_follows_from_its_index_alone(notes: Tones) -> None:
    rows = np.array([3, 700, 41, 12])
    label, pitch = (notes.train.cond[name][rows] for name in ("label", "pitch"))
    made = synthesise(label, pitch + 48, rows, 8000, 6400)
    assert np.abs(made - notes.train.batch(rows.tolist()).x[:, 0].numpy()).max() < 1e-4
    for place in range(4):
        some = slice(place, place + 1)
        alone = synthesise(label[some], pitch[some] + 48, rows[some], 8000, 6400)
        np.testing.assert_allclose(alone[0], made[place], atol=1e-5)
    other = synthesise(label, pitch + 48, rows + 1, 8000, 6400)
    assert (np.abs(other - made).max(1) > 0.1).all()
    assert synthesise(label[:0], pitch[:0], rows[:0], 8000, 100).shape == (0, 100)


def cents_off(x: np.ndarray, f0: float, rate: int) -> float:
    """How far the fundamental is from f0, by the spectral peak within a quarter tone, in cents."""
    size = 1 << 19
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), size))
    hertz = np.arange(len(spectrum)) * rate / size
    near = np.flatnonzero(np.abs(1200 * np.log2(np.maximum(hertz, 1) / f0)) < 60)
    assert spectrum[near].max() > 0.05 * spectrum.max()  # it is there
    return 1200 * np.log2(hertz[near[spectrum[near].argmax()]] / f0)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_pitched_notes_are_in_tune(rate: int) -> None:
    pitch = np.repeat(np.arange(48, 73, 2), 3)
    for instrument in range(4):
        x = synthesise(np.full(len(pitch), instrument), pitch, np.arange(len(pitch)), rate, 4 * rate // 5)
        off = [cents_off(note, frequency(float(p)), rate) for note, p in zip(x, pitch, strict=True)]
        assert np.abs(off).max() < 5


def test_notes_are_sound_in_every_other_way(notes: Tones) -> None:
    x = notes.test.batch(range(500)).x[:, 0]
    peaks = x.abs().amax(1)
    assert peaks.max() <= 0.9
    assert peaks.min() >= 0.449
    assert peaks.std() > 0.1
    assert x[:, [0, -1]].abs().max() < 1e-4
    assert x.mean(1).abs().max() < 0.01
    label = notes.test.batch(range(500)).cond["label"]
    power = torch.fft.rfft(x).abs().square()
    high = power[:, 3050:].sum(1) / power.sum(1)  # above 3.8 kHz
    for instrument, name in enumerate(INSTRUMENTS):
        mine = label == instrument
        if name in ("plucked", "bowed", "struck"):
            assert high[mine].max() < 1e-3
        late = x[mine, 4000:5600].square().mean() / x[mine, :1600].square().mean()
        assert late > 0.3 if name in ("bowed", "blown") else late < 0.2
