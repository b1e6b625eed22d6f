"""Laws of the codecs of sound: isometries and inverses, measured scales, and clips that do not see their padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import close
from torch import Tensor

from core.batch import Batch
from core.codec import Codec
from core.errors import UserError
from modalities.audio.bands import Bands
from modalities.audio.consistency import consistent, istft
from modalities.audio.frames import frame_mask, mask_of_frames, stft, whole_frames
from modalities.audio.mdct import MDCT, basis, inverse_mdct, mdct
from modalities.audio.spectrogram import Spectrogram
from modalities.audio.vocoder import DiffusionVocoder, GriffinLim
from modalities.audio.vocoding import Vocoding
from modalities.audio.waveform import Waveform

RATE, LENGTHS = 8000, [2560, 1281, 1920, 333, 2479, 640, 1599, 2000]
RECORDINGS = Path(__file__).parents[2] / "shared" / "data" / "fsdd-recordings.tar.gz"
needs_recordings = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"{RECORDINGS} is not there")

MAKE: dict[str, Callable[..., Codec]] = {
    "waveform": Waveform,
    "mdct": lambda **found: MDCT(64, **found),
    "mdct_companded": lambda **found: MDCT(64, power=0.5, multiple=4, **found),
    "spectrogram": Spectrogram,
    "vocoding": lambda spectrogram=None, **found: Vocoding(Spectrogram(**(spectrogram or {})), **found),
}
INVERTIBLE = [name for name in MAKE if name != "spectrogram"]
each_codec = pytest.mark.parametrize("name", MAKE)
each_invertible = pytest.mark.parametrize("name", INVERTIBLE)


def voices(lengths: list[int], seed: int = 0) -> Tensor:
    """Sounds like vowels, (B, 1, longest): harmonics of a gliding pitch under noise, of peaks from .03 to .9."""
    rng, sounds = np.random.default_rng(seed), np.zeros((len(lengths), max(lengths)))
    for sound, length, peak in zip(sounds, lengths, np.geomspace(0.03, 0.9, len(lengths)), strict=True):
        t = np.arange(length) / RATE
        phase = 2 * np.pi * rng.uniform(90, 220) * (t + 0.2 * t**2)
        x = sum(np.cos(k * phase + rng.uniform(0, 6)) / k ** rng.uniform(0.6, 1.5) for k in range(1, 16))
        x = x * np.sin(np.pi * np.arange(length) / length) ** 0.5 + 0.05 * rng.normal(size=length)
        sound[:length] = peak * x / np.abs(x).max()
    return torch.from_numpy(sounds)[:, None].float()


def clips(lengths: list[int] = LENGTHS, seed: int = 0) -> Batch:
    x, n = voices(lengths, seed), torch.tensor(lengths)
    mask = (torch.arange(max(lengths)) < n[:, None, None]).float()
    return Batch(x, mask, {"label": torch.arange(len(lengths))})


def alone(batch: Batch, row: int, multiple: int = 1) -> Batch:
    """One clip without its padding, but for what fills it up to a multiple."""
    length = -(-int(batch.mask[row].sum()) // multiple) * multiple
    return Batch(batch.x[row : row + 1, :, :length], batch.mask[row : row + 1, :, :length])


def padded(batch: Batch, more: int) -> Batch:
    mask = batch.mask.expand(-1, 1, batch.x.shape[-1])
    return Batch(F.pad(batch.x, (0, more)), F.pad(mask, (0, more)), batch.cond)


def fitted(name: str, batch: Batch | None = None) -> Codec:
    return MAKE[name](**MAKE[name]().fit(clips() if batch is None else batch))


def real(batch: Batch) -> Tensor:
    """All real values, one after another."""
    return batch.x[batch.mask.expand_as(batch.x) > 0]


# Every codec


@each_codec
@pytest.mark.parametrize("more", [0, 640, 1000])
def test_a_clips_coordinates_do_not_depend_on_its_padding(name: str, more: int) -> None:
    codec, batch = fitted(name), clips()
    among = codec.encode(padded(batch, more))
    for row in range(len(batch)):
        for multiple in (1, 640):
            one = codec.encode(alone(batch, row, multiple))
            close(among.x[row : row + 1, :, : one.x.shape[2]], one.x)
            assert among.mask[row].sum() == one.mask.sum()


@each_codec
def test_a_full_mask_is_a_mask_of_ones(name: str) -> None:
    codec, x = fitted(name), voices([2560, 2560])
    full, ones = codec.encode(Batch.full(x)), codec.encode(Batch(x, torch.ones_like(x)))
    assert torch.equal(full.x, ones.x)
    assert torch.equal(full.mask.expand_as(full.x), ones.mask.expand_as(full.x))
    one, other = (codec.decode(batch) for batch in (full, ones))
    close(one.x, other.x)
    assert torch.equal(one.mask.expand_as(one.x), other.mask.expand_as(one.x))


@each_codec
def test_padding_is_exactly_zero_on_both_sides(name: str) -> None:
    codec, batch = fitted(name), padded(clips(), 640)
    encoded = codec.encode(batch.with_x(batch.x + 0.5 * (1 - batch.mask)))  # whatever stands in the padding
    assert torch.equal(encoded.x, codec.encode(batch).x)
    assert not encoded.x[encoded.mask.expand_as(encoded.x) == 0].any()
    decoded = codec.decode(encoded.with_x(encoded.x + 1 - encoded.mask))
    assert not decoded.x[decoded.mask.expand_as(decoded.x) == 0].any()
    assert decoded.x.abs().max() <= 1


@each_codec
def test_a_template_has_the_shapes_of_what_is_encoded(name: str) -> None:
    codec, batch = fitted(name), padded(clips(), 77)
    template, encoded = codec.template(batch), codec.encode(batch)
    assert template.x.shape == encoded.x.shape
    assert not template.x.any()
    assert torch.equal(template.mask, encoded.mask)
    assert template.cond.keys() == encoded.cond.keys() == {"label", *codec.conditions}
    for condition in template.cond:
        assert torch.equal(template.cond[condition], encoded.cond[condition])
    decoded = codec.decode(template)
    assert decoded.x.shape[:2] == batch.x.shape[:2]
    assert decoded.x.shape[2] >= batch.x.shape[2]
    assert decoded.cond.keys() == {"label"}


@each_codec
@pytest.mark.parametrize("lengths", [LENGTHS, [2560] * 8], ids=["masked", "full"])
def test_after_fitting_real_elements_have_unit_variance_within_the_range(name: str, lengths: list[int]) -> None:
    batch = clips(lengths) if len(set(lengths)) > 1 else Batch.full(voices(lengths))
    encoded = (codec := fitted(name, batch)).encode(batch)
    spread = real(encoded).std() if name == "spectrogram" else real(encoded).square().mean().sqrt()
    assert spread == pytest.approx(1, abs=5e-3)
    low, high = codec.range
    assert (encoded.x >= torch.as_tensor(low) - 1e-3).all()
    assert (encoded.x <= torch.as_tensor(high) + 1e-3).all()


@pytest.mark.parametrize("name", ["mdct", "mdct_companded", "vocoding"])
def test_the_bound_is_the_largest_value(name: str) -> None:
    codec, batch = fitted(name), clips()
    assert codec.range[1] == -codec.range[0] == pytest.approx(float(codec.encode(batch).x.abs().max()), rel=1e-3)


@each_codec
def test_what_is_fitted_are_plain_values(name: str) -> None:
    def is_plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and is_plain(below) for key, below in value.items())
        return all(map(is_plain, value)) if isinstance(value, list) else type(value) is float

    assert is_plain(MAKE[name]().fit(clips()))


@each_codec
def test_fitting_does_not_see_padding(name: str) -> None:
    def numbers(found: object) -> list[float]:
        parts = found.values() if isinstance(found, dict) else found if isinstance(found, list) else None
        return [found] if parts is None else [number for part in parts for number in numbers(part)]

    one, other = (numbers(MAKE[name]().fit(batch)) for batch in (clips(), padded(clips(), 1280)))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@each_invertible
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_sounds_come_back(name: str, dtype: torch.dtype, atol: float) -> None:
    if dtype is torch.float64 and name == "vocoding":
        atol = 1e-7  # what is measured is kept in float32
    batch = padded(clips(), 81)
    batch = Batch(batch.x.to(dtype), batch.mask.to(dtype), batch.cond)
    for codec in (MAKE[name](), fitted(name)):
        back = codec.decode(codec.encode(batch))
        assert back.x.dtype == dtype
        close(back.x[..., : batch.x.shape[-1]], batch.x, atol)
        assert torch.equal(back.cond["label"], batch.cond["label"])
        assert (back.mask[..., : batch.x.shape[-1]] >= batch.mask).all()  # whole frames, so perhaps a little more
        assert not back.x[..., batch.x.shape[-1] :].abs().gt(atol).any()


# The waveform


def test_a_waveforms_values_are_scaled_one_by_one() -> None:
    codec, batch = fitted("waveform"), clips()
    std = real(batch).square().mean().sqrt()
    close(codec.encode(batch).x, batch.x / std)
    low, high = codec.range
    assert high == -low == pytest.approx(1 / float(std))
    assert high > 3  # sounds are quiet most of the time
    wild = codec.encode(batch).with_x(10 * codec.encode(batch).x)
    assert torch.equal(codec.decode(wild).x, (10 * codec.encode(batch).x * codec.scale).clamp(-1, 1))


# The modified discrete cosine transform


@pytest.mark.parametrize("bands", [2, 16, 128])
def test_the_mdct_is_an_isometry(bands: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6 * bands, dtype=torch.float64, generator=generator)
    z = mdct(x, bands)
    assert z.shape == (4, 7, bands)
    close(z.flatten(1) @ z.flatten(1).T, x @ x.T, 1e-10)  # energies, and inner products
    close(inverse_mdct(z, bands), x, 1e-10)
    other = torch.randn(4, 7, bands, dtype=torch.float64, generator=generator)
    close((z * other).sum(), (x * inverse_mdct(other, bands)).sum(), 1e-10)  # its inverse is its transpose
    x = x.float()
    close(inverse_mdct(mdct(x, bands), bands), x)


def test_the_basis_is_orthonormal_with_its_overlaps() -> None:
    windows = basis(16)
    first, second = windows[:, :16], windows[:, 16:]
    close(first @ first.T + second @ second.T, torch.eye(16, dtype=torch.float64), 1e-12)
    close(second @ first.T, torch.zeros(16, 16, dtype=torch.float64), 1e-12)


def test_white_noise_stays_white() -> None:
    """Away from the ends, where a frame reaches beyond the sound, the covariance of the coefficients is I."""
    operator = mdct(torch.eye(64, dtype=torch.float64), 8)[:, 1:-1].flatten(1)  # x -> inner coefficients
    close(operator.T @ operator, torch.eye(56, dtype=torch.float64), 1e-12)


def test_a_bands_sine_is_in_its_coefficients() -> None:
    t = torch.arange(1024, dtype=torch.float64)
    z = mdct(torch.sin(math.pi / 32 * 10.5 * t)[None], 32)[0, 4:-4]
    assert (z.square().sum(0).argmax()) == 10
    assert z[:, 8:13].square().sum() > 0.99 * z.square().sum()


def test_frames_are_filled_up_for_the_network() -> None:
    codec = MDCT(64, multiple=4)
    encoded = codec.encode(Batch.full(voices([640])))  # 11 frames
    assert encoded.x.shape == (1, 1, 12, 64)
    assert encoded.mask.flatten().tolist() == [1] * 11 + [0]
    decoded = codec.decode(encoded)
    assert decoded.x.shape == (1, 1, 704)
    assert decoded.mask.sum() == 640


# Spectrograms


def test_frames_are_centred_and_count_the_length() -> None:
    x = torch.zeros(1, 640)
    x[0, 200] = 1
    magnitudes = stft(x, 256, 80).abs()
    assert magnitudes.shape == (1, 8, 129)
    assert magnitudes[0, :, 0].argmax() == 2  # samples 160 to 239, the middle between 199 and 200
    close(magnitudes[0, 2], torch.ones(129), 1e-3)
    assert whole_frames(Batch.full(torch.zeros(1, 1, 81)), 80).mask.sum() == 81
    mask = clips([161, 400]).mask
    assert frame_mask(mask, 80).flatten(1).sum(1).tolist() == [3, 5]
    assert mask_of_frames(frame_mask(mask, 80), 80).flatten(1).sum(1).tolist() == [240, 400]


@pytest.mark.parametrize("options", [{}, {"warp": [[129, 1]]}, {"mels": 30, "sample_rate": RATE}], ids=str)
def test_bands_average_power(options: dict) -> None:
    """White noise of power 1 has the windows' energy, 3/8 of their length, in each band."""
    bands = Bands(**options)
    noise = torch.randn(50, 8000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    power = (bands.analyse(noise)[:, 2:-2].exp() - bands.floor).square()
    np.testing.assert_allclose(power.mean((0, 1))[1:-1] / (0.375 * 256), 1, atol=0.1)
    assert bands.average.shape == (bands.count, 129)
    close(bands.average.sum(1), torch.ones(bands.count, dtype=torch.float64), 1e-9)


def test_bands_of_single_bins_give_the_magnitudes_back() -> None:
    bands, x = Bands(warp=[[129, 1]]), voices([1600]).double()[:, 0]
    close(bands.magnitudes(bands.analyse(x)), stft(x, 256, 80).abs(), 1e-9)
    silence = bands.analyse(torch.zeros(1, 160))
    close(silence, torch.full_like(silence, math.log(bands.floor)))
    assert not bands.magnitudes(silence - 1).any()  # below the floor is silence


@pytest.mark.parametrize("options", [{}, {"mels": 40, "sample_rate": RATE}], ids=str)
def test_magnitudes_of_bands_are_those_of_flat_spectra(options: dict) -> None:
    bands = Bands(**options)
    covered = bands.spread.sum(0) > 0
    flat = torch.full((1, 1, bands.count), math.log(3 + bands.floor), dtype=torch.float64)
    close(bands.magnitudes(flat)[0, 0, covered], torch.full((int(covered.sum()),), 3.0, dtype=torch.float64), 1e-9)
    assert covered[1:-1].all()


def test_the_default_warp_widens_upwards() -> None:
    bands = Bands()
    assert (bands.average > 0).sum(1).tolist() == [1] * 32 + [2] * 16 + [4] * 16
    assert bands.count == 64
    assert str(bands) == "64 bands of window=256, hop=80, floor=0.01"
    assert bands == Bands()
    assert bands != Bands(hop=64)
    assert bands != Bands(warp=[[64, 2]])


@pytest.mark.filterwarnings("ignore:At least one mel")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bands(window=255), "window=255, hop=80: both must be even"),
        (lambda: Bands(hop=200), "window=256, hop=200"),
        (lambda: Bands(floor=0), "floor=0"),
        (lambda: Bands(warp=[[130, 1]]), r"warp=\[\[130, 1\]\]: needs widths of at least 1 and at most 129 bins"),
        (lambda: Bands(warp=[]), r"warp=\[\]"),
        (lambda: Bands(mels=80), "mels=80 needs a sample_rate"),
        (lambda: Bands(mels=300, sample_rate=RATE), "mels=300: too many for 129 bins"),
        (lambda: Spectrogram(mean=[0.0] * 3), "mean has 3 values for 64 bands"),
        (lambda: MDCT(7), "bands=7"),
        (lambda: MDCT(8, power=0), "power=0"),
        (lambda: MDCT(8, multiple=0), "multiple=0"),
        (lambda: Vocoding(Spectrogram(), scale=0), "scale=0"),
        (lambda: GriffinLim(0), "iterations=0"),
        (lambda: GriffinLim(momentum=1), "momentum=1"),
        (lambda: DiffusionVocoder(steps=0), "steps=0"),
    ],
)
def test_impossible_options_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_spectrograms_are_standardised_by_band_and_bounded_by_silence() -> None:
    codec, batch = fitted("spectrogram"), clips()
    encoded = codec.encode(batch)
    frames = encoded.x[:, 0][encoded.mask[:, 0, :, 0] > 0]
    close(frames.mean(0), torch.zeros(64), 1e-3)
    close(frames.std(0), torch.ones(64), 1e-3)
    low, high = codec.range
    close(low, frames.amin(0), 1e-3)
    close(high, frames.amax(0), 1e-3)
    silence = codec.encode(Batch.full(torch.zeros(1, 1, 160))).x[0, 0, 0]
    assert (low >= silence).all()


def test_a_silence_in_the_data_is_the_low_end() -> None:
    x = voices([1600, 1600])
    x[0, 0, 400:1200] = 0
    codec = fitted("spectrogram", Batch.full(x))
    close(codec.range[0], codec.encode(Batch.full(torch.zeros(1, 1, 160))).x[0, 0, 0], 1e-3)


# From spectrograms back to sound


def convergence(bands: Bands, one: Tensor, other: Tensor) -> float:
    """|| |S| - |S'| || / || |S| ||, of the magnitudes in bands."""
    a, b = (bands.analyse(x[:, 0]).exp() for x in (one, other))
    return float((a - b).norm() / a.norm())


def test_griffin_lim_keeps_levels_lengths_and_conditions() -> None:
    codec, batch = fitted("spectrogram"), clips()
    batch = batch.with_x(batch.x / 2)  # other phases have other peaks: room for them
    back = codec.decode(codec.encode(batch))
    assert back.x.shape == batch.x.shape
    frames = [-(-length // 80) * 80 for length in LENGTHS]
    assert back.mask.flatten(1).sum(1).tolist() == frames
    assert torch.equal(back.cond["label"], batch.cond["label"])
    for row in range(len(batch)):
        assert convergence(codec.bands, batch.x[row : row + 1], back.x[row : row + 1]) < 0.15
        energies = [batch.x[row].square().sum(), back.x[row].square().sum()]
        assert 10 * math.log10(energies[1] / energies[0]) == pytest.approx(0, abs=1)


def test_too_loud_a_clip_becomes_quieter_as_a_whole() -> None:
    codec, batch = fitted("spectrogram"), clips()
    encoded = codec.encode(batch)
    louder = encoded.with_x(codec.standardise(codec.logs(encoded.x) + math.log(60)) * encoded.mask)
    back, loud = codec.decode(encoded).x, codec.decode(louder).x
    assert loud.abs().amax(-1).flatten().tolist() == pytest.approx([1.0] * len(batch))
    assert int((loud.abs() > 0.999).sum()) == len(batch)  # only the peak itself
    correlation = torch.nn.functional.cosine_similarity(back.flatten(1), loud.flatten(1))
    assert float(correlation.min()) > 0.9


def test_more_iterations_fit_better() -> None:
    batch = clips([2560])
    errors = []
    for vocoder in (GriffinLim(1), GriffinLim(8), GriffinLim(32)):
        codec = Spectrogram(vocoder=vocoder)
        errors.append(convergence(codec.bands, batch.x, codec.decode(codec.encode(batch)).x))
    assert errors[0] > errors[1] > errors[2]


def test_griffin_lim_is_a_function_of_the_clip_alone() -> None:
    codec, batch = fitted("spectrogram"), clips()
    before = torch.random.get_rng_state()
    among = codec.decode(codec.encode(batch))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(codec.decode(codec.encode(batch)).x, among.x)
    further = codec.decode(codec.encode(padded(batch, 800)))
    for row in (1, 4, 5):
        one = codec.decode(codec.encode(alone(batch, row)))
        size = one.x.shape[-1]
        close(among.x[row, :, :size], one.x[0])
        close(further.x[row, :, :size], one.x[0])


@pytest.mark.parametrize(
    ("bands", "near"),
    [(Bands(warp=[[129, 1]]), 1e-3), (Bands(), 0.02), (Bands(mels=40, sample_rate=RATE), 0.02)],
    ids=["bins", "warp", "mel"],
)
def test_alternating_projections(bands: Bands, near: float) -> None:
    """The sound itself is their fixed point, but for bins in no band; noise comes nearer; no padding is seen."""
    batch = padded(clips([2560, 1281]), 240)  # whole frames
    x, mask = batch.x[:, 0].double(), batch.mask.double()
    real = frame_mask(mask, bands.hop)[:, 0]
    amplitude = bands.without_floor(bands.analyse(x))
    assert float((consistent(x, amplitude, real, bands, 3) - x).norm() / x.norm()) < near

    inside = mask_of_frames(real[:, None], bands.hop)[:, 0]
    noise = 0.1 * inside * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    sounds = [
        consistent(noise, amplitude, real, bands, n, momentum) for n, momentum in ((0, 0), (1, 0), (8, 0), (8, 0.99))
    ]
    errors = [convergence(bands, x[:, None], sound[:, None]) for sound in sounds]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2
    alone = consistent(noise[1:, :1360], amplitude[1:, :17], real[1:, :17], bands, 8, 0.99)
    close(alone, sounds[-1][1:, :1360], 1e-9)


@pytest.mark.parametrize(("window", "hop"), [(256, 80), (64, 32), (128, 16)])
def test_the_short_time_spectrum_of_a_sound_gives_it_back(window: int, hop: int) -> None:
    x = voices([20 * hop, 20 * hop]).double()[:, 0]
    for mask in (torch.ones(2, 1, 1), torch.ones(2, 20, 1)):
        back = istft(stft(x, window, hop), mask.double(), window, hop)
        close(back[:, hop:-hop], x[:, hop:-hop], 1e-10)


def test_a_vocoder_that_is_not_there_is_named() -> None:
    codec = Spectrogram(vocoder=DiffusionVocoder("no_such_model"))
    with pytest.raises(UserError, match="no_such_model"):
        codec.decode(codec.encode(clips([160])))


# Waveforms given their spectrogram


def test_vocoding_adds_the_spectrogram_and_evens_out_loudness() -> None:
    batch = clips()
    found = MAKE["vocoding"]().fit(batch)
    codec, spectrogram = MAKE["vocoding"](**found), Spectrogram(**found["spectrogram"])
    encoded = codec.encode(batch)
    assert torch.equal(encoded.cond["spectrogram"], spectrogram.encode(batch).x)
    assert found["spectrogram"] == Spectrogram().fit(batch)
    for z, x, length in zip(encoded.x[:, 0], batch.x[:, 0], LENGTHS, strict=True):
        middle = slice(length // 4, 3 * length // 4)  # peaks are from .03 to .9
        assert float(z[middle].std()) == pytest.approx(1, abs=0.25), float(x.abs().max())


def test_silence_is_no_louder_for_its_envelope() -> None:
    codec = Vocoding(Spectrogram(), quietest=1e-3)
    encoded = codec.encode(Batch.full(1e-5 * torch.ones(1, 1, 800)))
    assert encoded.x.abs().max() < 0.02


# Real recordings


@pytest.fixture(scope="module")
def recordings() -> Batch:
    from modalities.audio.archives import wav_members
    from modalities.audio.clips import Reader

    pytest.importorskip("soundfile")
    members = sorted(wav_members(RECORDINGS, "recordings").items())[::150]
    sounds = [torch.from_numpy(Reader(RATE, 0.8)(content)[0] / 32767).float() for _, content in members]
    n = torch.tensor([len(sound) for sound in sounds])
    x = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)[:, None]
    return Batch(x, (torch.arange(x.shape[-1]) < n[:, None, None]).float())


@needs_recordings
@each_invertible
def test_real_speech_comes_back(name: str, recordings: Batch) -> None:
    codec = fitted(name, recordings)
    encoded = codec.encode(recordings)
    close(codec.decode(encoded).x[..., : recordings.x.shape[-1]], recordings.x)
    assert real(encoded).square().mean() == pytest.approx(1, abs=1e-3)


@needs_recordings
def test_real_speech_through_the_spectrogram(recordings: Batch) -> None:
    codec = fitted("spectrogram", recordings)
    back = codec.decode(codec.encode(recordings))
    error = convergence(codec.bands, F.pad(recordings.x, (0, back.x.shape[-1] - recordings.x.shape[-1])), back.x)
    print(f"spectral convergence {error:.3f}")
    assert error < 0.15
