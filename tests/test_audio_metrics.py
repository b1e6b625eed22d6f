"""Laws of what sounds are measured by: pitch, levels, distances, scores; and the shipped judges on real clips."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from core.batch import Batch
from core.data import ArraySource, whole
from core.errors import UserError
from core.features import Features
from modalities.audio import judge as judging
from modalities.audio import vggish
from modalities.audio.distances import WINDOWS, log_spectral_distance, mel_error, multi_resolution_distance
from modalities.audio.features import Listener, listen
from modalities.audio.fsdd import Fsdd
from modalities.audio.judge import Judge
from modalities.audio.levels import band_levels, clicks_per_second, clipped_share, mel_levels, tail_level
from modalities.audio.logmel import log_mel, stft_magnitude
from modalities.audio.metrics import am_score, evaluate, modified_inception_score, too_few
from modalities.audio.pitch import LOST, cents_error, harmonic_to_noise_ratio, note_hertz, pitch_strength, track
from modalities.audio.synthesis import INSTRUMENTS, synthesise
from modalities.audio.tones import PITCHES, SIZES, plan

pytest.importorskip("torchaudio")

RATE = 8000
ONE = torch.ones(1, 1, 1)
RECORDINGS = Path(__file__).parents[2] / "shared" / "data" / "fsdd-recordings.tar.gz"
DIGITS = {"label": [str(digit) for digit in range(10)]}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sine(hertz: float, length: int = RATE, peak: float = 1.0) -> torch.Tensor:
    return (peak * torch.sin(2 * math.pi * hertz * torch.arange(length) / RATE))[None, None]


def voice(hertz: float, length: int = RATE, first: int = 1) -> torch.Tensor:
    """A sawtooth of the harmonics below 3.9 kHz, from the first one on, with unit variance."""
    x = sum(sine(k * hertz, length) / k for k in range(first, int(3900 / hertz) + 1))
    return x / x.std()


def padded(batch: Batch, samples: int) -> Batch:
    mask = batch.mask.expand_as(batch.x)
    return Batch(F.pad(batch.x, (0, samples)), F.pad(mask, (0, samples)), batch.cond)


def masked(x: torch.Tensor, lengths: list[int], cond: dict[str, torch.Tensor] | None = None) -> Batch:
    mask = (torch.arange(x.shape[2]) < torch.tensor(lengths)[:, None, None]).float()
    return Batch(x * mask, mask, cond or {})


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Fsdd:
    if not RECORDINGS.exists():
        pytest.skip(f"{RECORDINGS} is not there")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYDIFFUSION_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Fsdd(str(RECORDINGS))


@pytest.fixture(scope="module")
def notes() -> Batch:
    """The first 250 test notes: every instrument in every pitch, twice."""
    first = SIZES["train"] + SIZES["val"]
    rows = np.arange(first, first + 250)
    label, pitch = (values[rows] for values in plan(first + 250))
    x = torch.from_numpy(synthesise(label, pitch + PITCHES[0], rows, RATE, 6400))[:, None]
    return Batch.full(x, {"label": torch.from_numpy(label), "pitch": torch.from_numpy(pitch)})


NOTES = {"label": list(INSTRUMENTS), "pitch": [str(pitch) for pitch in PITCHES]}


# Spectrograms


def test_a_full_sine_reads_zero_decibel_and_half_of_it_six_less() -> None:
    x = sine(1000)
    levels = log_mel(x, RATE)[:, 10:-10]
    total = 10 * (10 ** (levels / 10)).sum(dim=2).log10()
    assert total == pytest.approx(torch.zeros_like(total), abs=0.1)
    gaps = (levels - log_mel(x / 2, RATE)[:, 10:-10])[levels > -70]
    assert gaps == pytest.approx(torch.full_like(gaps, 20 * math.log10(2)), abs=1e-3)
    assert stft_magnitude(sine(1000), 512, 128)[0, 10:-10].amax(dim=1) == pytest.approx(torch.ones(43), abs=1e-3)


def test_silence_after_a_clip_appends_frames_at_the_floor() -> None:
    x = normal(0, 2, 1, 4000)
    short, long = log_mel(x, RATE), log_mel(F.pad(x, (0, 4000)), RATE)
    assert short.shape == (2, 51, 40)
    assert torch.allclose(long[:, :51], short, atol=1e-4)
    assert (long[:, 53:] == -80).all()


# Distances of pairs


def test_distances_of_a_clip_and_its_double_have_closed_forms() -> None:
    reference = normal(1, 3, 1, 4000)
    batch = masked(reference, [4000, 3000, 1111])
    pair = (2 * batch.x, batch.x, batch.mask)
    six = torch.full((3,), 20 * math.log10(2))
    for window in WINDOWS:
        assert log_spectral_distance(*pair, window) == pytest.approx(six, abs=0.05)
    assert mel_error(*pair, RATE) == pytest.approx(six, abs=0.01)
    assert multi_resolution_distance(*pair) == pytest.approx(torch.full((3,), 1 + math.log(2)), abs=0.01)


def test_distances_are_zero_for_equal_clips_bounded_by_the_floor_and_blind_to_padding() -> None:
    batch = masked(normal(2, 2, 1, 4000), [4000, 2500])
    other = batch.with_x(normal(3, 2, 1, 4000))  # not silent in the padding: it does not count
    far = padded(batch, 1280)

    def distances(x: torch.Tensor, pair: Batch) -> list[torch.Tensor]:
        clips = (x, pair.x, pair.mask)
        by_window = [log_spectral_distance(*clips, window) for window in WINDOWS]
        return [*by_window, multi_resolution_distance(*clips), mel_error(*clips, RATE)]

    for same, near, after, silent in zip(
        distances(batch.x, batch),
        distances(other.x, batch),
        distances(F.pad(other.x, (0, 1280)), far),
        distances(0 * batch.x, batch),
        strict=True,
    ):
        assert (same == 0).all()
        assert near == pytest.approx(after, rel=1e-4)
        assert (near > 0).all()
        assert (silent <= 60).all()
    with pytest.raises(ValueError, match="one shape"):
        mel_error(batch.x, far.x, far.mask, RATE)


# Pitch


@pytest.mark.parametrize("hertz", [77.8, 110.0, 123.47, 196.0, 261.63, 440.0, 523.25, 659.3])
def test_pitch_of_periodic_sounds_is_exact(hertz: float) -> None:
    """Also where most of the energy is not in the fundamental, or none of it."""
    low = voice(hertz)
    sounds = torch.cat([sine(hertz), low, voice(hertz, first=2) if hertz < 300 else low])
    found = track(sounds, ONE.expand(3, 1, 1), RATE, (60, 1000))
    cents = 1200 * (found.f0 / hertz).log2().abs()
    assert cents.max() < 1
    assert found.voiced.all()
    assert found.strength.min() > 0.98


@pytest.mark.parametrize("decibel", [0, 5, 10, 15, 20])
def test_harmonic_to_noise_ratio_is_that_of_the_mixture(decibel: int) -> None:
    """A voice in white noise of known power, and the power of both in equal bands: the ratio is the mixture's."""
    x = voice(123.0, 4 * RATE) + 10 ** (-decibel / 20) * normal(4, 1, 1, 4 * RATE)
    strength = pitch_strength(track(x, ONE, RATE))
    assert harmonic_to_noise_ratio(strength) == pytest.approx(decibel, abs=1.1)  # 0.6 at 5 dB and above
    assert strength == pytest.approx(1 / (1 + 10 ** (-decibel / 10)), abs=0.06)


def test_noise_has_no_pitch_and_silence_no_figures_that_break() -> None:
    noise = track(normal(5, 8, 1, RATE), ONE.expand(8, 1, 1), RATE)
    assert pitch_strength(noise) < 0.35
    assert noise.voiced.double().mean() < 0.05
    silent = track(torch.zeros(2, 1, 100), ONE.expand(2, 1, 1), RATE)  # shorter than a frame, too
    assert pitch_strength(silent) == 0
    assert not silent.loud.any()
    assert harmonic_to_noise_ratio(0.5) == 0
    assert (harmonic_to_noise_ratio(0), harmonic_to_noise_ratio(1)) == pytest.approx((-40, 40), abs=0.01)


def test_noise_between_the_words_counts_as_little_as_unvoiced_frames_are_left_out() -> None:
    """Loudness alone chooses the frames: a soft hiss is not heard, a loud one is."""
    for level, expected in ((0.01, 1.0), (0.7, 0.35)):
        x = torch.cat([voice(150, 3000), level * normal(6, 1, 1, 5000)], dim=2)
        strength = pitch_strength(track(x, ONE, RATE))
        assert strength == pytest.approx(1, abs=0.01) if expected == 1 else strength < expected


def test_cents_are_counted_from_the_asked_for_note_and_octaves_are_errors() -> None:
    assert note_hertz(torch.tensor([69, 60, 48])) == pytest.approx(torch.tensor([440, 261.626, 130.813]), abs=1e-2)
    asked = torch.tensor([60, 60, 60, 60, 60, 72])
    played = [60, 60.6, 48, 72, None, 72]
    sounds = [torch.zeros(1, 1, 6400) if m is None else voice(440 * 2 ** ((m - 69) / 12), 6400) for m in played]
    error = cents_error(torch.cat(sounds), ONE.expand(6, 1, 1), RATE, asked)
    assert error == pytest.approx(torch.tensor([0, 60, 1200, 1200, LOST, 0.0]), abs=1)
    with pytest.raises(ValueError, match="pitch range"):
        track(sounds[0], ONE, RATE, (100, 3000))


def test_the_tracker_knows_the_pitch_of_every_synthesised_note(notes: Batch) -> None:
    figures = evaluate(notes, notes, None, None, RATE, NOTES, unpitched=["drum"])
    assert figures["pitch_within_50_cents"] >= 0.99
    assert figures["pitch_error_cents"] < 3
    wrong = Batch(notes.x, notes.mask, {**notes.cond, "pitch": (notes.cond["pitch"] + 1) % len(PITCHES)})
    assert evaluate(wrong, notes, None, None, RATE, NOTES, unpitched=["drum"])["pitch_within_50_cents"] < 0.02
    drums = notes[notes.cond["label"] == INSTRUMENTS.index("drum")]
    assert "pitch_within_50_cents" not in evaluate(drums, notes, None, None, RATE, NOTES, unpitched=["drum"])


# Levels and faults


def test_a_sine_is_in_its_octave_and_white_noise_in_all_by_their_widths() -> None:
    bands = band_levels(torch.cat([sine(f) for f in (300, 700, 1500, 3000)]), ONE.expand(4, 1, 1), RATE)
    assert torch.equal(bands.argmax(dim=1), torch.arange(4))
    assert bands.amax(dim=1) == pytest.approx(torch.zeros(4), abs=0.01)
    noise = band_levels(normal(7, 20, 1, RATE), ONE.expand(20, 1, 1), RATE).mean(0)
    assert noise == pytest.approx(10 * torch.tensor([1 / 8, 1 / 8, 1 / 4, 1 / 2]).log10(), abs=0.1)


def test_tails_tell_silence_from_what_breaks_off() -> None:
    t = torch.arange(RATE)
    steady, fading = normal(8, 1, 1, RATE), normal(8, 1, 1, RATE) * 10 ** (-60 * t / RATE / 20)
    silent = steady * (t < 7000)
    levels = tail_level(torch.cat([steady, fading, silent]), ONE.expand(3, 1, 1), RATE)
    assert levels[0] == pytest.approx(0, abs=2)
    assert levels[1] == pytest.approx(-58.5, abs=3)
    assert levels[2] == -80
    assert tail_level(steady * (t < 4000), (t < 4000)[None, None].float(), RATE) == pytest.approx(0, abs=2)


def test_clipping_and_clicks_are_counted() -> None:
    x = sine(120, peak=0.4)
    for smooth in (x, 0.3 * voice(90), 0.2 * normal(9, 1, 1, RATE)):  # a sawtooth's jumps are a tone, noise is no click
        assert clicks_per_second(smooth, ONE, RATE) == 0
        assert clicks_per_second(smooth, (torch.arange(RATE) < 4003)[None, None].float(), RATE) == 0  # nor is an end
    impulses, steps = x.clone(), x.clone()
    for place, sign in ((1000, 1), (3111, -1), (3900, 1), (7123, -1)):
        impulses[..., place] += 0.5
        steps[..., place:] += 0.5 * sign
    assert clicks_per_second(impulses, ONE, RATE) == 4
    assert clicks_per_second(steps, ONE, RATE) == 4
    assert clipped_share(x, ONE) == 0
    x[..., :400] = -1
    assert clipped_share(x, ONE) == pytest.approx(0.05)


def test_no_level_depends_on_padding() -> None:
    batch = masked(normal(10, 3, 1, 4000) * 0.1, [4000, 3001, 900])
    far = padded(batch, 3840)
    for function in (band_levels, mel_levels, tail_level, clicks_per_second):
        assert function(batch.x, batch.mask, RATE) == pytest.approx(function(far.x, far.mask, RATE), abs=1e-3)
    assert torch.equal(clipped_share(batch.x, batch.mask), clipped_share(far.x, far.mask))
    near, after = track(batch.x, batch.mask, RATE), track(far.x, far.mask, RATE)
    assert torch.equal(near.strength[near.loud], after.strength[after.loud])


# Scores


def test_the_modified_inception_score_is_the_mean_over_all_pairs() -> None:
    logits = normal(11, 12, 5).double()
    p = logits.softmax(1)
    pairs = [(p[i] * (p[i] / p[j]).log()).sum() for i in range(12) for j in range(12)]
    assert modified_inception_score(logits) == pytest.approx(torch.stack(pairs).mean().exp().item(), rel=1e-9)
    assert modified_inception_score(logits[:1].repeat(9, 1)) == pytest.approx(1)  # no diversity


def test_the_am_score_is_zero_for_sure_samples_of_all_classes_as_in_training() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 3])  # half, and a sixth each
    sure = 1e3 * F.one_hot(labels.repeat(4), 4).double()
    assert am_score(sure, labels) == pytest.approx(0, abs=1e-9)
    assert am_score(torch.zeros(9, 4), torch.arange(4)) == pytest.approx(math.log(4))  # never sure
    halves = 1e3 * F.one_hot(torch.arange(6) % 2, 4).double() + 5 * torch.eye(4)[0]
    assert am_score(halves, torch.tensor([0, 1])) == pytest.approx(0, abs=1e-9)
    assert am_score(sure, torch.arange(4)) > 0.1  # other shares


class Loudness(Listener):
    """Two features, and a class by the first: quiet or loud."""

    name, sample_rate = "loudness", RATE
    classes, conditions = ["quiet", "loud"], {"label": ["quiet", "loud"]}

    def __call__(self, x: torch.Tensor) -> Features:
        level = x.abs().amax(dim=(1, 2))
        features = torch.stack([level, x.square().sum(dim=(1, 2)).sqrt()], dim=1)
        return Features(features, self.recognise(features)["label"])

    def recognise(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"label": torch.stack([0.5 - features[:, 0], features[:, 0] - 0.5], dim=1) * 100}


def test_evaluate_depends_on_neither_padding_nor_order() -> None:
    size = torch.arange(12) / 11
    cond = {"label": (size > 0.5).long()}
    samples = masked(size[:, None, None] * normal(12, 12, 1, 3000).clamp(-1, 1), list(range(800, 3200, 200)), cond)
    reference = masked(normal(13, 9, 1, 4000).clamp(-1, 1), [4000] * 9)
    conditions = {"label": ["quiet", "loud"]}

    def figures(batch: Batch, real: Batch, training: Batch) -> dict[str, float]:
        return evaluate(batch, real, training, Loudness(), RATE, conditions)

    training = masked(normal(20, 9, 1, 4000).clamp(-1, 1), [3000] * 9)
    first = figures(samples, reference, training)
    again = figures(padded(samples, 2560)[torch.randperm(12)], padded(reference, 640), training)
    assert again == pytest.approx(first, rel=1e-3, abs=1e-3)
    assert first["label_accuracy"] == 1
    assert first["n"] == 12
    assert all(math.isfinite(value) for value in first.values())
    with pytest.raises(ValueError, match="no pairs"):
        evaluate(samples, reference, None, None, RATE, {}, paired=True)


def test_a_copy_is_found_and_pairs_are_measured_only_where_asked() -> None:
    training, held_out, new = (masked(normal(seed, 40, 1, 3000), [3000] * 40) for seed in (14, 15, 16))
    copies = evaluate(
        padded(training[:20], 640).with_x(0.3 * F.pad(training.x[:20], (0, 640))), held_out, training, None, RATE, {}
    )
    assert copies["copied_share"] == 1
    honest = evaluate(new, held_out, training, None, RATE, {})
    assert honest["nearest_training_ratio"] == pytest.approx(1, abs=0.05)
    assert "mel_error_db" not in honest
    pairs = evaluate(new, padded(new, 640), None, None, RATE, {}, paired=True)
    assert pairs["mel_error_db"] == pytest.approx(0, abs=1e-3)
    assert {f"log_spectral_distance_{window}" for window in WINDOWS} < pairs.keys()


@pytest.mark.parametrize("n", [1, 3, 4])
def test_figures_that_need_more_clips_are_left_out_and_named(n: int) -> None:
    batch = masked(normal(17, n, 1, 2000), [2000] * n, {"label": torch.zeros(n, dtype=torch.long)})
    figures = evaluate(batch, batch, None, Loudness(), RATE, {})
    for figure, name in (("frechet_distance", "Frechet"), ("recall", "recall")):
        assert (figure in figures) == (name not in too_few(n))
    assert "label_accuracy" not in figures  # the listener's classes are not these data's


# The judges


@pytest.mark.parametrize("name", judging.SHIPPED)
def test_shipped_judges_are_small_and_blind_to_padding_and_gain(name: str) -> None:
    judge = Judge(name)
    assert Path(judging.__file__).with_name(f"judge_{name}.safetensors").stat().st_size < 1e6
    assert judge.metadata["split"] == "train"
    assert judge.classes == judge.conditions["label"]
    x = voice(150, 4000) * torch.hann_window(4000)
    features = judge(x).features
    assert features.shape == (1, judging.FEATURES)
    assert torch.allclose(judge(F.pad(x, (0, 640))).features, features, atol=1e-4)
    assert torch.allclose(judge(F.pad(x, (0, 9000))).features, features, atol=1e-4)
    assert torch.allclose(judge(0.01 * x).features, features, atol=1e-3)
    assert torch.equal(judge.recognise(features)["label"], judge(x).logits)
    assert judge(torch.zeros(1, 1, 500)).features.isfinite().all()


def test_the_judge_of_digits_hears_what_real_clips_say_and_who_speaks(spoken: Fsdd) -> None:
    judge, test = Judge("fsdd"), whole(spoken.test)
    assert judge.conditions == spoken.facts["conditions"]
    shares = judging.accuracies(judge, test)
    assert shares["label"] >= 0.985
    assert shares["speaker"] >= 0.97
    for name, share in shares.items():
        assert share == pytest.approx(float(judge.metadata[f"test_{name}"]), abs=0.0034)  # one clip, elsewhere


def test_the_judge_of_tones_tells_the_instruments(notes: Batch) -> None:
    judge = Judge("tones")
    assert judge.conditions == {"label": list(INSTRUMENTS)}
    assert judging.accuracies(judge, notes)["label"] >= 0.99
    from torchaudio.functional import resample

    finer = notes.with_x(resample(notes.x, RATE, 2 * RATE))  # of another rate: heard at the judge's
    predicted = listen(judge, finer, 2 * RATE).logits.argmax(dim=1)
    assert (predicted == notes.cond["label"]).double().mean() >= 0.98


def test_real_speech_reaches_the_floor_and_damaged_speech_does_not(spoken: Fsdd) -> None:
    conditions, judge = spoken.facts["conditions"], Judge("fsdd")
    others, reference = spoken.test.batch(range(150)), spoken.test.batch(range(150, 300))
    floor = evaluate(others, reference, whole(spoken.train), judge, RATE, conditions)
    assert floor["label_accuracy"] >= 0.98
    assert floor["precision"] > 0.9
    assert floor["recall"] > 0.9
    assert floor["pitch_strength"] == pytest.approx(0.905, abs=0.015)
    assert floor["hnr_db"] == pytest.approx(9.8, abs=0.6)
    assert floor["nearest_training_ratio"] == pytest.approx(1, abs=0.1)
    assert floor["copied_share"] < 0.04
    assert floor["clicks_per_second"] < 0.4
    assert floor["spectral_distance_db"] < 1.5
    hissing = others.with_x((others.x + 0.05 * normal(18, *others.x.shape)) * others.mask)
    damaged = evaluate(hissing, reference, None, judge, RATE, conditions)
    assert damaged["frechet_distance"] > 2 * floor["frechet_distance"]
    assert damaged["pitch_strength"] < 0.7
    assert damaged["spectral_distance_db"] > 3
    copies = evaluate(spoken.train.batch(range(150)), reference, whole(spoken.train), judge, RATE, conditions)
    assert copies["copied_share"] == 1
    assert copies["frechet_distance"] < 2 * floor["frechet_distance"]  # a distance alone does not see copies


def test_a_judge_learns_repeatably_and_from_the_training_split_alone(tmp_path: Path) -> None:
    x = normal(19, 48, 1, 2000).clamp(-1, 1).numpy()
    source = ArraySource(x, {"label": np.arange(48) % 3})
    facts = {"sample_rate": RATE, "conditions": {"label": ["a", "b", "c"], "pitch": ["60"]}}
    data = SimpleNamespace(name="toy", train=source, facts=facts)  # no other split to look at
    first, again, other = (judging.train(data, steps=2, batch_size=8, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["heads.label.weight"], other["heads.label.weight"])
    assert not any("pitch" in name for name in first)
    with pytest.raises(ValueError, match="toy has the conditions"):
        judging.train(SimpleNamespace(name="toy", train=source, facts=facts | {"conditions": {}}), steps=1)


def test_weights_of_a_judge_are_checked_before_they_are_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing cannot be read as safetensors: .*; fsdd, tones, or a file"):
        Judge("nothing")
    (tmp_path / "pickle").write_bytes(b"\x80\x04N.")
    with pytest.raises(UserError, match="pickle cannot be read"):
        Judge(tmp_path / "pickle")
    judge = Judge("tones")
    tensors = load_file(Path(judging.__file__).with_name("judge_tones.safetensors"))
    save_file(tensors, tmp_path / "bare")
    with pytest.raises(UserError, match="no judge of sounds: its metadata lack data, sample_rate, conditions"):
        Judge(tmp_path / "bare")
    save_file(tensors | {"heads.label.bias": torch.zeros(3)}, tmp_path / "other", judge.metadata)
    with pytest.raises(UserError, match=r"heads.label.bias is \(3,\), expected \(5,\)"):
        Judge(tmp_path / "other")


# VGGish


def test_vggish_has_the_published_size_and_hears_the_published_spectrogram() -> None:
    with torch.device("meta"):
        network = vggish.VGGishNetwork()
    assert sum(p.numel() for p in network.parameters()) == 72_141_184
    assert network(torch.empty(2, 96, 64, device="meta")).shape == (2, 128)
    silence = vggish.spectrograms(torch.zeros(1, 1, 100))
    assert silence == pytest.approx(torch.full((1, 96, 64), math.log(0.01)))
    x = normal(21, 2, 1, 9000)
    assert torch.equal(vggish.spectrograms(x), vggish.spectrograms(F.pad(x, (0, 20000))))  # padding changes nothing
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)[None, None]
    mel = [1127 * math.log(1 + hertz / 700) for hertz in (125, 1000, 7500)]
    band = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 65 - 1  # 64 middles, evenly between the ends
    assert (vggish.spectrograms(tone)[0].argmax(dim=1) == round(band)).all()


def test_weights_of_vggish_that_cannot_be_had_or_are_others_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vggish, "URL", (tmp_path / "nothing.pth").as_uri())
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(b"PK")
    for weights in (None, "other.pth", "damaged.pth", "missing.pth"):
        with pytest.raises(UserError, match=r"weights=FILE$") as error:
            vggish.VGGish(weights and str(tmp_path / weights))(torch.zeros(1, 1, 16000))
        assert "\n" not in str(error.value)
