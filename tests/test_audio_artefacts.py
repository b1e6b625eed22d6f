"""Sounds written and read back, the pictures of them, and the page that plays them."""

from __future__ import annotations

import base64
import io
import re
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pages import Reader, read_page
from PIL import Image

from core.batch import Batch
from core.errors import UserError
from modalities.audio import drawing, page
from modalities.audio.artefacts import faded, lengths, read_wavs, triangular, write_wavs
from modalities.audio.panels import Scale

RATE = 8000
NAMES = {"label": ["one", "two"], "speaker": ["<Ann>", "Bob & Co", "$C$"]}


def tones(n: int = 6, longest: int = 4000, amplitude: float = 0.5) -> Batch:
    """Tones of several heights and lengths, two classes, three speakers."""
    sizes = longest - 300 * torch.arange(n)
    mask = (torch.arange(longest) < sizes[:, None, None]).float()
    hertz = 300 + 150 * torch.arange(n)[:, None, None]
    x = amplitude * torch.sin(2 * torch.pi * hertz * torch.arange(longest) / RATE) * mask
    return Batch(x, mask, {"label": torch.arange(n) % 2, "speaker": torch.arange(n) % 3})


def pcm(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0]


# Files


def test_files_are_16_bit_mono_as_long_as_their_masks(tmp_path: Path) -> None:
    batch = tones()
    assert write_wavs(batch.x, batch.mask, tmp_path, RATE, first=7) == 0
    for number, length in enumerate(lengths(batch.x, batch.mask)):
        with wave.open(str(tmp_path / f"{number + 7:05d}.wav")) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
            assert file.getnframes() == length == 4000 - 300 * number


def test_a_round_trip_errs_by_half_a_step_but_at_the_edges(tmp_path: Path) -> None:
    batch = tones()
    write_wavs(batch.x, batch.mask, tmp_path, RATE)
    again, rate = read_wavs(tmp_path)
    assert rate == RATE
    assert torch.equal(again.mask, batch.mask)
    assert again.x.dtype == torch.float32
    for x, y, length in zip(batch.x[:, 0], again.x[:, 0], lengths(batch.x, batch.mask), strict=True):
        torch.testing.assert_close(y[16 : length - 16], x[16 : length - 16], atol=0.51 * 2**-15, rtol=0)
        assert (y[length:] == 0).all()


def test_sounds_of_one_length_have_a_full_mask(tmp_path: Path) -> None:
    x = tones().x
    write_wavs(x, torch.ones(len(x), 1, 1), tmp_path, RATE)
    assert read_wavs(tmp_path)[0].mask.shape == (len(x), 1, 1)


@pytest.mark.parametrize("amplitude", [1.0, 1.001, 3.0])
@pytest.mark.parametrize("dither", [False, True])
def test_loud_sounds_are_made_softer_and_none_is_clipped(tmp_path: Path, amplitude: float, dither: bool) -> None:
    batch = tones(2)
    loud = batch.x.clone()
    loud[1] *= amplitude / loud[1].abs().max()
    assert write_wavs(loud, batch.mask, tmp_path, RATE, dither=dither) == (amplitude > 1)
    inside = slice(16, 3700 - 16)
    expected = loud[1, 0, inside].numpy() * (0.999 / amplitude if amplitude > 1 else 1)
    # one step for the amplitude 1, which 16 bits lack, and up to one of dither
    np.testing.assert_allclose(pcm(tmp_path / "00001.wav")[inside] / 2**15, expected, atol=2.1 * 2**-15)
    np.testing.assert_allclose(pcm(tmp_path / "00000.wav")[inside] / 2**15, batch.x[0, 0, inside], atol=1.51 * 2**-15)


def test_edges_are_faded_over_two_milliseconds(tmp_path: Path) -> None:
    x = torch.full((1, 1, 800), 0.5)
    write_wavs(x, torch.ones(1, 1, 1), tmp_path, RATE)
    sound = pcm(tmp_path / "00000.wav")
    assert sound[0] == sound[-1] == 0
    assert (sound[16:-16] == 2**14).all()
    assert (np.diff(sound[:17]) > 0).all()
    assert (sound == sound[::-1]).all()
    assert np.abs(np.diff(sound)).max() < 0.11 * 2**14  # a raised cosine over 16 samples climbs at most so


@pytest.mark.parametrize("length", [0, 1, 2, 3, 40])
def test_a_fade_takes_at_most_half_of_a_short_sound(length: int) -> None:
    sound = faded(np.ones(length), 16)
    assert sound.shape == (length,)
    assert (np.diff(sound[: min(16, length // 2)]) > 0).all()
    assert (sound == sound[::-1]).all()


def test_dither_is_triangular_white_and_follows_from_the_number() -> None:
    noise = triangular(3, 100_000)
    assert np.abs(noise).max() < 1
    assert abs(noise.mean()) < 0.01
    assert abs(noise.var() - 1 / 6) < 0.005
    assert abs((noise**4).mean() - 1 / 15) < 0.005  # of a triangle on (-1, 1)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.02
    assert np.array_equal(triangular(3, 1000), triangular(3, 1000))
    assert abs(np.corrcoef(noise, triangular(4, 100_000))[0, 1]) < 0.02


def test_dither_keeps_what_is_softer_than_a_step(tmp_path: Path) -> None:
    x = 0.4 * 2**-15 * torch.sin(2 * torch.pi * 440 * torch.arange(40_000) / RATE)[None, None]
    write_wavs(x, torch.ones(1, 1, 1), tmp_path / "plain", RATE)
    write_wavs(x, torch.ones(1, 1, 1), tmp_path / "dithered", RATE, dither=True)
    assert (pcm(tmp_path / "plain" / "00000.wav") == 0).all()
    heard = pcm(tmp_path / "dithered" / "00000.wav")
    assert abs(heard @ x[0, 0].double().numpy() / (x.double().square().sum().item() * 2**15) - 1) < 0.1


def test_a_file_does_not_depend_on_the_batch_it_was_written_in(tmp_path: Path) -> None:
    batch = tones()
    write_wavs(batch.x, batch.mask, tmp_path / "whole", RATE, dither=True)
    for first in (0, 3):
        part = batch[first : first + 3]
        write_wavs(part.x, part.mask, tmp_path / "parts", RATE, first=first, dither=True)
    for number in range(6):
        files = [tmp_path / name / f"{number:05d}.wav" for name in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_sounds_that_are_not_finite_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    batch = tones()
    batch.x[2, 0, 5], batch.x[4, 0, 7] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 6 sounds are not finite, the first is number 12"):
        write_wavs(batch.x, batch.mask, tmp_path, RATE, first=10)
    assert not list(tmp_path.iterdir())


def test_reading_averages_channels_and_resamples(tmp_path: Path) -> None:
    time = np.arange(32_000) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "a.flac", np.stack([tone, 0 * tone], axis=1), 16_000)
    soundfile.write(tmp_path / "b.wav", tone[::2], 8000, subtype="FLOAT")
    batch, rate = read_wavs(tmp_path, sample_rate=8000)
    assert rate == 8000
    assert batch.x.shape == (2, 1, 16_000)
    torch.testing.assert_close(batch.x[0, 0, 100:-100], batch.x[1, 0, 100:-100] / 2, atol=2e-3, rtol=0)
    assert read_wavs(tmp_path)[1] == 16_000  # the first file's


def test_reading_stays_within_full_scale(tmp_path: Path) -> None:
    square = np.sign(np.sin(2 * np.pi * 100 * np.arange(16_000) / 16_000 + 1e-3))
    soundfile.write(tmp_path / "a.wav", square, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", 4 * square, 16_000, subtype="FLOAT")
    assert read_wavs(tmp_path, sample_rate=11_025)[0].x.abs().max() <= 1


@pytest.mark.parametrize("content", ["noise", "truncated", "nothing", "no samples", "nan"])
def test_a_bad_file_is_named(tmp_path: Path, content: str) -> None:
    batch = tones(1)
    write_wavs(batch.x, batch.mask, tmp_path, RATE)
    bad, good = tmp_path / "00001.wav", (tmp_path / "00000.wav").read_bytes()
    raw = {"noise": bytes(range(256)), "truncated": good[:20], "nothing": b""}
    if content in raw:
        bad.write_bytes(raw[content])
    else:
        soundfile.write(bad, np.full(0 if content == "no samples" else 999, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=rf"{re.escape(str(bad))} cannot be read: \S"):
        read_wavs(tmp_path)


def test_a_folder_without_sounds_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no sound files \(.flac, .ogg, .wav\)"):
        read_wavs(tmp_path)


# Pictures


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_grid_has_a_column_for_each_class_and_says_what_was_asked_for(tmp_path: Path) -> None:
    batch = tones()
    assert drawing.places(batch) == [[0, 1], [2, 3], [4, 5]]
    assert [drawing.caption(batch, i, NAMES) for i in (1, 2)] == ["two, Bob & Co", "one, $C$"]
    assert drawing.places(tones(5)) == [[0, 1], [2, 3], [4, None]]
    assert drawing.places(Batch.full(torch.zeros(7, 1, 9))) == [[0, 1, 2], [3, 4, 5], [6]]
    many = Batch.full(torch.zeros(70, 1, 9), {"label": torch.arange(70) % 7})
    assert drawing.places(many) == [[0, 1, 2, 3, 4], [7, 8, 9, 10, 11], [5, 6], [12, 13]]
    of_many_classes = drawing.places(Batch.full(torch.zeros(70, 1, 9), {"label": torch.arange(70)}))
    assert [number for row in of_many_classes for number in row] == list(range(20))


def test_real_sounds_stand_in_the_places_of_their_likes() -> None:
    asked = {"label": torch.tensor([0, 1, 1, 0]), "speaker": torch.tensor([2, 0, 0, 1])}
    known = {"label": torch.tensor([1, 0, 1, 1, 0]), "speaker": torch.tensor([1, 0, 0, 0, 2])}
    batch, real = (Batch.full(torch.zeros(len(c["label"]), 1, 9), c) for c in (asked, known))
    rows = drawing.places(batch)
    assert rows == [[0, 1], [3, 2]]
    assert drawing.counterparts(batch, rows, real) == [[4, 2], [1, 3]]
    assert drawing.counterparts(batch, rows, real[:2]) == [[1, 0], [None, None]]


@pytest.mark.parametrize("compared", [False, True])
def test_the_grid_changes_with_the_sound(tmp_path: Path, compared: bool) -> None:
    batch = tones()
    noise = torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    others = batch.with_x(noise * batch.mask)
    for name, shown in (("a", batch), ("b", others), ("again", batch)):
        drawing.save_grid(shown, tmp_path / "new" / f"{name}.png", RATE, NAMES, batch if compared else None)
    a, b, again = (pixels(tmp_path / "new" / f"{name}.png") for name in ("a", "b", "again"))
    assert np.array_equal(a, again)
    assert a.shape == b.shape
    assert (np.abs(a - b).sum(axis=-1) > 30).mean() > (0.12 if compared else 0.24)  # white margins stay
    assert (tmp_path / "new" / "a.png").stat().st_size < 1_000_000
    assert (a.shape[1] > 700) == compared


def test_one_sound_without_conditions_and_silence_can_be_drawn(tmp_path: Path) -> None:
    drawing.save_grid(Batch.full(torch.zeros(1, 1, 400)), tmp_path / "silent.png", RATE)
    picture = pixels(tmp_path / "silent.png")
    assert (picture.sum(axis=-1) < 60).mean() > 0.1  # silence is dark


def test_a_tone_is_bright_at_its_own_height_and_loudness_has_one_scale() -> None:
    time = np.arange(4000) / RATE
    loud, soft = (amplitude * np.sin(2 * np.pi * 1000 * time) for amplitude in (0.5, 0.05))
    scale = Scale([loud, soft], RATE)
    rows = [scale.mel(clip)[:, 60].argmax() / 64 for clip in (loud, soft)]
    assert rows == pytest.approx([scale.height(1000)] * 2, abs=1.5 / 64)
    peaks = [scale.mel(clip)[:, 60].max() for clip in (loud, soft)]
    assert peaks[0] - peaks[1] == pytest.approx(20 / 80, abs=0.01)


def test_pictures_refuse_what_is_not_finite(tmp_path: Path) -> None:
    batch = tones()
    batch.x[3, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        drawing.save_grid(batch, tmp_path / "grid.png", RATE)


def test_strip_and_animation_show_every_moment(tmp_path: Path) -> None:
    batch = tones(3)
    noise = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0))
    moments = [batch.with_x((k * batch.x + (4 - k) * 0.2 * noise) / 4 * batch.mask) for k in range(5)]
    drawing.save_strip(moments, tmp_path / "strip.png", RATE, NAMES)
    strip, still = pixels(tmp_path / "strip.png"), tmp_path / "still.png"
    drawing.save_strip([moments[-1]] * 5, still, RATE, NAMES)
    changed = np.abs(strip - pixels(still)).sum(axis=(0, 2)) > 0
    assert changed[: len(changed) // 2].mean() > 0.3  # the early columns are noise
    assert not changed[-len(changed) // 6 :].any()  # the last one is the sound
    drawing.save_gif(moments, tmp_path / "way.gif", RATE)
    with Image.open(tmp_path / "way.gif") as film:
        assert film.n_frames == 5
        assert film.info["loop"] == 0
        film.seek(4)
        assert film.info["duration"] == 1500


# The page


def write(batch: Batch, folder: Path, names: dict[str, list[str]], **options: str) -> Reader:
    write_wavs(batch.x, batch.mask, folder, RATE)
    return read_page(page.write_page(folder, batch, RATE, names, **options))


def test_the_page_plays_every_sound_from_itself_alone(tmp_path: Path) -> None:
    reader = write(tones(), tmp_path, NAMES, title="<b>digits</b>")
    players, pictures = reader.all("audio"), reader.all("img")
    assert len(players) == len(pictures) == 6
    assert all("controls" in player for player in players)
    sounds = [base64.b64decode(player["src"].removeprefix("data:audio/wav;base64,")) for player in players]
    assert sounds == [(tmp_path / f"{i:05d}.wav").read_bytes() for i in (0, 2, 4, 1, 3, 5)]  # class by class
    images = [base64.b64decode(picture["src"].removeprefix("data:image/png;base64,")) for picture in pictures]
    assert len({Image.open(io.BytesIO(image)).convert("RGB").tobytes() for image in images}) == 6
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"base64,[^\"]*", "", (tmp_path / page.PAGE).read_text()))
    assert not reader.all("b")
    assert "<b>digits</b>" in reader.words
    for words in ("two, Bob & Co", "one, <Ann>", "one, $C$", "0.50 s, 00000.wav"):
        assert words in reader.words
    assert len(reader.all("h2")) == 2


def test_a_page_of_much_sound_links_to_the_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_EMBEDDED", 10_000)
    players = write(tones(), tmp_path, NAMES).all("audio")
    assert sorted(player["src"] for player in players) == [f"{i:05d}.wav" for i in range(6)]


def test_a_page_without_classes_and_one_of_too_many_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_PLAYERS", 4)
    batch = tones()
    reader = write(Batch(batch.x, batch.mask), tmp_path, {})
    assert len(reader.all("audio")) == 4
    assert not reader.all("h2")
    assert "4 sounds at 8,000 Hz; 2 more lie beside this page" in reader.words
