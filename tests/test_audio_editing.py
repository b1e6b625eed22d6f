"""Edits of sounds: what is known of them in each codec's coordinates, and what is left of it afterwards."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import ROOT, edit
from torch import Tensor

import core
from benchmarks import audio_repairs as repairs
from core.batch import Batch
from core.codec import Codec
from core.denoiser import Denoiser
from core.editable import EditRequest
from core.editing import Windows
from core.errors import UserError
from core.guidance import ClassifierFree
from core.prediction import Velocity
from core.schedules import Cosine
from modalities.audio import editing, seams
from modalities.audio.mdct import MDCT
from modalities.audio.measurements import LowPass
from modalities.audio.modality import Audio
from modalities.audio.prediction import burg, continued
from modalities.audio.sheets import stretches
from modalities.audio.spectrogram import Spectrogram
from modalities.audio.waveform import Waveform

soundfile = pytest.importorskip("soundfile")

RATE = 8000
AUDIO = Audio(RATE, 6400, 640, {"label": ["no", "yes"], "speaker": ["ann", "bob"]})
MODELS = ROOT / "modalities" / "audio" / "models"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def voice(length: int) -> Tensor:
    """A harmonic sound whose pitch rises a little, in [-.3, .3]."""
    t = torch.arange(length) / RATE
    phase = 2 * math.pi * (140 * t + 30 * t**2)
    return 0.3 * sum(torch.sin(k * phase) / k for k in range(1, 12)) / 2


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Half a second that is quieter than training clips, its loudest part in the middle."""
    path = tmp_path / "clip.wav"
    x = voice(4000) * torch.hann_window(4000) * 0.2
    soundfile.write(path, x.numpy(), RATE, subtype="FLOAT")
    return path


def known(
    path: Path, keep: str | None = None, n: int = 1, cond: dict[str, object] | None = None, **grow: float
) -> Batch:
    return AUDIO.known(EditRequest(path, n, cond or {}, keep, None, grow))


# what stays


@pytest.mark.parametrize(
    ("words", "stays"),
    {
        "0:0.1": [(0, 800)],
        ":0.1": [(0, 800)],
        "0.4:": [(3200, 4000)],
        "0:0.1,0.3:0.4": [(0, 800), (2400, 3200)],
        " .1 : .2 , .15 : .3": [(800, 2400)],
        "0.25:9": [(2000, 4000)],
    }.items(),
)
def test_stretches_of_seconds_stay(words: str, stays: list[tuple[int, int]], clip: Path):
    keep, expected = known(clip, words).cond["keep"], torch.zeros(4000)
    for first, last in stays:
        expected[first:last] = 1
    assert keep.shape == (1, 1, 4480)
    torch.testing.assert_close(keep[0, 0, :4000], expected)
    assert keep[..., 4000:].all(), "padding is known to be silent"


@pytest.mark.parametrize(("grow", "first", "length"), [({"seconds": 0.1}, 0, 4800), ({"before": 0.2}, 1600, 5600)])
def test_what_a_sound_grows_by_is_new(grow: dict[str, float], first: int, length: int, clip: Path):
    batch = known(clip, **grow)
    assert batch.mask.sum() == length
    assert batch.x.shape[-1] % AUDIO.multiple == 0
    assert stretches(1 - batch.cond["keep"][0, 0], length, RATE) == [(first / RATE, (first + 4000) / RATE)]
    middle = batch.x[0, 0, first : first + 4000]
    torch.testing.assert_close(middle, known(clip).x[0, 0, :4000])
    assert not batch.x[..., :first].any()


WRONG = {
    "0": "stretches of seconds",
    "0:1:2": "stretches of seconds",
    "a:b": "stretches of seconds",
    "left 0.5": "stretches of seconds",
    "0.3:0.2": "0.3:0.2 is no stretch within 0 to 0.5 s",
    "0.6:": "no stretch",
    ":": "all of .*clip.wav stays",
    "bands 5000:6000": "no stretch within 0 to 4000 Hz",
    "bands": "bands of hertz",
    "bands 0:4000": "all of .*clip.wav stays",
    "declip": "no two samples in a row",
    "declip 1.5": "between 0 and 1",
    "declip a": "between 0 and 1",
    "0:0.001": "silent",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_kept_is_refused(words: str, clip: Path):
    with pytest.raises(UserError, match=WRONG[words]):
        known(clip, words)


@pytest.mark.parametrize(
    ("grow", "message"),
    [({"after": 1}, "grow.after=1"), ({"seconds": -1}, "above 0"), ({"seconds": "long"}, "must be a number")],
)
def test_a_sound_grows_by_seconds(grow: dict[str, object], message: str, clip: Path):
    with pytest.raises(UserError, match=message):
        AUDIO.known(EditRequest(clip, grow=grow))


def test_requests_that_do_not_fit_a_sound(clip: Path, tmp_path: Path):
    wrong = {
        "mask=": EditRequest(clip, mask=clip),
        "is no file": EditRequest(tmp_path / "nothing.wav"),
        "cannot be read": EditRequest(Path(__file__)),
        "unknown condition": EditRequest(clip, cond={"lable": 1}),
        "unknown label": EditRequest(clip, cond={"label": "maybe"}),
        "leave grow out": EditRequest(clip, keep="bands 0:1000", grow={"seconds": 1}),
    }
    for message, request in wrong.items():
        with pytest.raises(UserError, match=message):
            AUDIO.known(request)
    with pytest.raises(UserError, match="follows a whole sound"):
        Audio(RATE, 6400, 640, {}, paired=True).known(EditRequest(clip))


def test_conditions_that_are_not_given_are_null(clip: Path):
    assert set(known(clip).cond) == set()
    assert known(clip, n=2, cond={"label": "yes", "speaker": None}).cond["label"].tolist() == [1, 1]
    assert "speaker" not in known(clip, cond={"label": "yes", "speaker": None}).cond
    assert known(clip, ":0.2", n=2, cond={"label": ["yes", "no"]}).cond["label"].tolist() == [1, 0]


# in diffusion coordinates

CODECS: dict[str, Codec] = {
    "spectrogram": Spectrogram(),
    "mels": Spectrogram(window=512, hop=128, mels=40, sample_rate=RATE),
    "mdct": MDCT(bands=128, multiple=8),
    "waveform": Waveform(0.2),
}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("length", [2560, 2700])
def test_what_is_known_does_not_depend_on_what_is_not(name: str, length: int):
    """Another sound where it is new moves no kept coordinate; and every one that it cannot reach is kept."""
    codec, x = CODECS[name], noise(2, 1, length)
    keep = torch.ones(2, 1, length)
    keep[..., 1100:1500] = 0
    before, after = (
        codec.known(Batch.full(clip, {"keep": keep}))
        for clip in (x, torch.where(keep > 0, x, noise(2, 1, length, seed=1)))
    )
    kept = before.cond["keep"].expand_as(before.x) > 0
    moved = (before.x - after.x).abs() > 1e-4
    assert not (moved & kept).any()
    new = ~kept & (before.mask.expand_as(before.x) > 0)
    assert moved[new].float().mean() > 0.85, "what nothing of the new part reaches is kept too"
    assert kept.float().mean() > 0.6


def test_a_band_is_known_if_nothing_above_the_cutoff_reaches_it():
    codec, keep = Spectrogram(), torch.zeros(1, editing.ROWS, 2560)
    keep[:, : editing.ROWS // 2] = 1
    spectrum = torch.fft.rfft(noise(1, 1, 2560))
    low = spectrum * (torch.arange(1281) < 640)  # up to 2 kHz
    quiet, loud = (Batch.full(torch.fft.irfft(x, 2560), {"keep": keep}) for x in (low, low + 2 * (spectrum - low)))
    ours, theirs = codec.known(quiet), codec.known(loud)
    moved = (ours.x - theirs.x).abs()[:, :, 3:-3].amax((0, 1, 2))
    kept = ours.cond["keep"][0, 0, 0] > 0
    assert moved[kept].max() < 0.05
    assert moved[~kept].min() > 0.1, "and no band is given up for nothing"


def test_codecs_refuse_what_they_cannot_keep():
    x = noise(1, 1, 2560)
    bands = {"keep": torch.ones(1, editing.ROWS, 2560)}
    clipped = {"keep": torch.ones(1, 1, 2560), editing.BEYOND: torch.zeros(1, 1, 2560)}
    short = {"keep": (torch.arange(2560) < 100).float()[None, None]}
    for name, cond, message in [
        ("waveform", bands, "measurement=lowpass"),
        ("mdct", bands, "stretches of seconds"),
        ("mdct", clipped, "stretches of seconds"),
        ("spectrogram", clipped, "codec=waveform"),
        ("mels", short, "no frame of 512 samples"),
        ("mdct", short, "no frame of 256 samples"),
    ]:
        with pytest.raises(UserError, match=message):
            CODECS[name].known(Batch.full(x, cond))


@pytest.mark.parametrize("name", CODECS)
def test_windows_are_of_the_longest_training_clip(name: str):
    """None at the trained size; and as many samples more are denoised, window by window."""
    codec, seen = CODECS[name], []

    class Watched(torch.nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict[str, Tensor]) -> Tensor:
            seen.append(x.shape[2])
            return 0 * x

    denoiser = Denoiser(Watched(), Cosine(), Velocity())
    longest = codec.template(Batch.full(torch.zeros(1, 1, 6400)))
    assert AUDIO.windowed(denoiser, longest, codec) is denoiser
    longer = codec.template(Batch.full(torch.zeros(1, 1, 12800)))
    windows = AUDIO.windowed(denoiser, longer, codec)
    assert isinstance(windows, Windows)
    windows(longer.x, torch.full((1,), 0.5), longer.mask, {})
    assert seen == [longest.x.shape[2]]
    follower = Batch(longer.x, longer.mask, {"spectrogram": torch.zeros(1, 1, 160, 64)})
    assert AUDIO.windowed(denoiser, follower, codec) is denoiser, "a vocoder takes any length as it is"


def test_no_network_sees_what_is_known_aside():
    """So guidance has no two equal answers to contrast either."""
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict[str, Tensor]) -> Tensor:
            seen.append((len(x), set(cond)))
            return 0 * x

    guided = ClassifierFree(Denoiser(Watched(), Cosine(), Velocity()), scale=3)
    template = Batch.full(noise(2, 1, 12800), {editing.LEVEL: torch.ones(2)})
    denoiser = AUDIO.windowed(guided, template, CODECS["waveform"])
    denoiser(template.x, torch.full((2,), 0.5), template.mask, template.cond)
    assert seen == [(6, set())], "two sounds in three windows, once"


# afterwards


def test_kept_samples_are_exactly_those_of_the_file_whatever_its_level(clip: Path):
    x, _ = soundfile.read(clip, dtype="float32")
    loud = clip.with_name("loud.wav")
    soundfile.write(loud, 10 * x, RATE, subtype="FLOAT")
    edited = Batch.full(noise(2, 1, 4480))
    quiet, louder = (known(path, ":0.2,0.3:", n=2) for path in (clip, loud))
    torch.testing.assert_close(quiet.x, louder.x, atol=1e-6, rtol=0, msg="models see both at one level")
    heard = (quiet.x * quiet.cond["keep"]).abs().max()
    assert heard == pytest.approx(0.9), "that of training clips"
    for batch, factor in ((quiet, 1), (louder, 10)):
        after = AUDIO.finished(edited, batch)
        np.testing.assert_allclose(after.x[0, 0, :1600], factor * x[:1600], atol=1e-7 * factor)
        np.testing.assert_allclose(after.x[1, 0, 2400:4000], factor * x[2400:], atol=1e-7 * factor)
        assert not after.x[..., 4000:].any()
        assert after.mask.sum() == 2 * 4000
        assert set(after.cond) == set()


def test_a_sound_that_has_the_kept_samples_already_stays_as_it_is():
    original, keep = noise(2, 3001), torch.ones(2, 3001)
    keep[:, 1000:1800] = 0
    edited = torch.where(keep > 0, original, noise(2, 3001, seed=1))
    torch.testing.assert_close(
        seams.joined(original, edited, keep, torch.ones_like(keep), RATE), edited, atol=1e-4, rtol=0
    )


def test_new_sound_begins_where_the_kept_one_stops():
    """What is off by a constant is off by nothing at the seam, and by all of it a few milliseconds later."""
    original, keep = voice(1000)[None], torch.ones(1, 1000)
    keep[:, 300:700] = 0
    x = seams.placed(original, original + 0.5, keep, fade=24)
    off = (x - original)[0]
    assert not off[:300].any()
    assert not off[700:].any()
    assert off[300] < 0.01
    assert off[699] < 0.01
    torch.testing.assert_close(off[324:676], torch.full((352,), 0.5))
    assert off.diff().abs().max() < 0.05


def test_seams_are_heard_less_than_those_of_a_cut():
    """The phases of the new part are found again from those of the kept one."""
    original, keep = voice(4000)[None], torch.ones(1, 4000)
    keep[:, 1600:2400] = 0
    shifted = -original.roll(17, -1)  # the same magnitudes with other phases
    x = seams.joined(original, shifted, keep, torch.ones_like(keep), RATE)
    cut = torch.where(keep > 0, original, shifted)

    def jump(sound: Tensor) -> Tensor:
        return sound.diff(n=2)[0, [1598, 1599, 2398, 2399]].abs().max()

    assert jump(x) < 0.7 * jump(cut)
    assert (x - original)[0, 1600:2400].square().mean() < 0.5 * (cut - original)[0, 1600:2400].square().mean()


def test_kept_bands_stay_and_the_others_are_new(clip: Path):
    batch = known(clip, "bands 0:2000")
    edited = Batch.full(noise(1, 1, 4480, seed=2))
    after = AUDIO.finished(edited, batch).x[0, 0, :4000] * batch.cond[editing.LEVEL]

    def spectrum(x: Tensor) -> Tensor:
        return torch.fft.rfft(x[500:3500] * torch.hann_window(3000))

    low, high = slice(0, 700), slice(800, 1500)  # of 1500 bins over 4 kHz
    ours, before, new = (spectrum(x) for x in (after, batch.x[0, 0, :4000], edited.x[0, 0, :4000]))
    assert (ours - before)[low].abs().max() < 0.01 * before.abs().max()
    assert (ours - new)[high].norm() < 0.05 * new[high].norm()


# clipped sounds


@pytest.fixture
def clipped(tmp_path: Path) -> Path:
    path = tmp_path / "clipped.wav"
    soundfile.write(path, (2 * voice(3200)).clamp(-0.25, 0.25).numpy(), RATE)
    return path


def test_what_was_cut_off_lies_beyond(clipped: Path):
    batch = known(clipped, "declip", n=2)
    beyond, keep = batch.cond[editing.BEYOND], batch.cond["keep"]
    torch.testing.assert_close(beyond, 1 - keep)
    assert 0.05 < beyond.mean() < 0.9
    edited = Batch.full(noise(2, 1, 3200))
    after, x = AUDIO.finished(edited, batch).x, torch.from_numpy(soundfile.read(clipped, dtype="float32")[0])
    assert after[0, 0, keep[0, 0] > 0] == pytest.approx(x[keep[0, 0] > 0], abs=1e-6)
    out = beyond[0, 0] > 0
    assert (after[:, 0, out] * x[out].sign() >= x[out].abs() - 1e-6).all()
    assert float(batch.x.abs().max()) < 0.8, "above the level there is room for what was cut off"


def test_a_level_can_be_given(clipped: Path):
    lower = known(clipped, "declip 0.2").cond[editing.BEYOND]
    assert lower.sum() > known(clipped, "declip").cond[editing.BEYOND].sum()


def test_denoised_sounds_lie_beyond_the_level_too():
    x, beyond = noise(2, 1, 640), torch.zeros(2, 1, 640)
    beyond[..., 100:200] = 1
    known_ = Batch.full(x, {editing.BEYOND: beyond})

    class Silent(torch.nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict[str, Tensor]) -> Tensor:
            return 0 * x

    denoiser = Denoiser(Silent(), Cosine(), Velocity())
    bounded, arguments = AUDIO.windowed(denoiser, known_, Waveform()), (3 * x, torch.full((2,), 0.5), known_.mask, {})
    plain, x0 = denoiser(*arguments).x0, bounded(*arguments).x0
    torch.testing.assert_close(x0[..., 200:], plain[..., 200:])
    limit = x[..., 100:200]
    assert (x0[..., 100:200] * limit.sign() >= limit.abs()).all()


# measurements


@pytest.mark.parametrize("factor", [1.5, 2, 4])
def test_low_pass_is_its_own_transpose_and_keeps_low_tones_alone(factor: float):
    a = LowPass(factor)
    x, y = noise(1, 1, 1000).double(), noise(1, 1, 1000, seed=1).double()
    torch.testing.assert_close((a(x) * y).sum(), (x * a(y)).sum())
    edge = RATE / 2 / factor
    for hertz, gain in ((edge - 260, 1), (edge + 20, 0)):  # its way down takes 250 Hz
        tone = torch.sin(2 * math.pi * hertz * torch.arange(2000) / RATE).double()[None, None]
        inside = slice(100, -100)
        torch.testing.assert_close(a(tone)[..., inside], gain * tone[..., inside], atol=0.02, rtol=0)


def test_a_low_pass_is_one_of_waveforms():
    for wrong in ({"factor": 1.0}, {"factor": 40.0}, {"taps": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LowPass(**wrong)
    with pytest.raises(ValueError, match="only waveforms"):
        LowPass()(torch.zeros(1, 1, 64, 64))


# the command, with the shipped models


@pytest.mark.parametrize(
    ("model", "how", "length"),
    [
        ("fsdd", ["keep=:0.2,0.3:", "cond.label=3"], 4000),
        ("fsdd", ["keep=bands 0:2000"], 4000),
        ("fsdd", ["grow.seconds=0.7", "method.resamplings=1", "method=replace"], 9600),
        ("fsdd", ["strength=0.5"], 4000),
        ("fsdd_waveform", ["keep=:0.2,0.3:"], 4000),
        ("fsdd_waveform", ["measurement=lowpass", "degrade=true", "noise=0.01"], 4000),
        ("fsdd_waveform", ["measurement=lowpass", "noise=0.01"], 4000),
    ],
)
def test_the_command(model: str, how: list[str], length: int, clip: Path, tmp_path: Path):
    folder = edit(MODELS / model, tmp_path / "out", f"input={clip}", "n=2", *how)
    pictures = {path.name for path in folder.iterdir()}
    assert {"edit.png", "index.html", "00000.wav", "00001.wav", "samples.npz"} <= pictures
    assert {"edit-before.wav", "edit-measured.wav"} & pictures
    x, rate = soundfile.read(folder / "00001.wav", dtype="float32")
    assert (len(x), rate) == (length, RATE)
    assert np.isfinite(x).all()
    if how[0] == "keep=:0.2,0.3:":
        before, _ = soundfile.read(clip, dtype="float32")
        for part in (slice(16, 1600), slice(2400, -16)):  # WAVs are faded at both ends, and rounded to 16 bits
            np.testing.assert_allclose(x[part], before[part], atol=2**-15)


def test_the_command_repairs_what_was_clipped(clipped: Path, tmp_path: Path):
    folder = edit(MODELS / "fsdd_waveform", tmp_path / "out", f"input={clipped}", "n=1", "keep=declip")
    before, _ = soundfile.read(clipped, dtype="float32")
    with np.load(folder / "samples.npz") as arrays:
        x = arrays["x"][0, 0, : len(before)]
        assert set(arrays.files) <= {"x", "mask", "sample_rate"}
    out = np.abs(before) >= 0.999 * np.abs(before).max()
    np.testing.assert_allclose(x[~out], before[~out], atol=1e-6)
    assert (x[out] * np.sign(before[out]) >= np.abs(before[out]) - 1e-6).all()


def test_a_long_vocoder_stays_without_windows():
    model = core.load(MODELS / "vocoder_fsdd", device="cpu")
    x = Batch.full(0.1 * torch.randn(1, 1, 12800, generator=torch.Generator().manual_seed(0)))
    template = model.codec.template(x)
    assert model.modality.windowed(model.denoiser, template, model.codec) is model.denoiser


# what edits are compared with


def tones(length: int) -> np.ndarray:
    t = np.arange(length) / RATE
    noise = 1e-6 * np.random.default_rng(0).normal(size=length)
    return 0.1 * sum(np.sin(2 * np.pi * hertz * t + hertz) for hertz in (200, 330, 1234.5)) + noise


def test_linear_prediction_goes_on_with_tones():
    x = tones(2000)
    np.testing.assert_allclose(continued(x[:1200], 400, order=64), x[1200:1600], atol=0.01)
    assert len(continued(x[:10], 5, order=64)) == 5, "a third of what is known, at most"


def test_a_gap_is_bridged_at_equal_power():
    x, gap = tones(3000), slice(1200, 2000)
    lost = x.copy()
    lost[gap] = 0
    repaired = repairs.bridged(lost, gap, order=64, context=800)
    angle = np.pi / 2 * (np.arange(800) + 0.5) / 800
    np.testing.assert_allclose(repaired[gap], x[gap] * (np.cos(angle) + np.sin(angle)), atol=0.05)
    np.testing.assert_array_equal(repaired[:1200], x[:1200])


def test_tones_go_on_through_a_gap_in_phase():
    """Phases begin as the kept part goes on; those of the edited sound are not heard."""
    original, keep = torch.from_numpy(tones(3000))[None], torch.ones(1, 3000, dtype=torch.float64)
    keep[:, 1200:1900] = 0
    off = {}
    for name, edited in {"shifted": original.roll(11, -1), "upside down": -original}.items():
        x = seams.joined(original, edited, keep, torch.ones_like(keep), RATE)
        off[name] = (x - original)[0, 1200:1900].square().mean() / original.square().mean()
    assert max(off.values()) < 0.02


def test_a_prediction_error_filter_of_an_autoregressive_process_is_its_own():
    from scipy.signal import lfilter

    a = np.array([1, -1.6, 0.9, 0.05])
    x = lfilter([1.0], a, np.random.default_rng(0).normal(size=200_000))
    np.testing.assert_allclose(burg(x, 3), a, atol=0.01)


def test_a_folded_spectrum_mirrors_what_is_known():
    t = np.arange(4000) / RATE
    x = np.sin(2 * np.pi * 1500 * t)
    spectrum = np.abs(np.fft.rfft(repairs.folded(x, RATE) * np.hanning(4000)))
    assert set(np.argsort(spectrum)[-2:]) == {750, 1250}, "1,500 and 2,500 Hz"
    assert spectrum[750] == pytest.approx(spectrum[1250], rel=0.01)


def test_repairs_are_measured_where_something_was_lost():
    x, gap = voice(3200).double().numpy(), slice(1200, 2000)
    other = x.copy()
    other[:400] *= -1
    assert repairs.gap_distances(other, x, gap) == {"lsd 512": 0, "lsd 128": 0}
    other = x.copy()
    other[gap] *= 0.1
    assert 10 < repairs.gap_distances(other, x, gap)["lsd 128"] < 25  # 20 dB where nothing is at the floor
    level = repairs.cut_off(x, 7)
    assert repairs.sdr(x.clip(-level, level), x) == pytest.approx(7, abs=1e-6)
    assert repairs.sdr(repairs.splined(x.clip(-level, level)), x) > 7
