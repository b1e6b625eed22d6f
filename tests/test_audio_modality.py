"""Sounds as a modality: what is asked for, and how a diffusion vocoder stands within another model's codec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Outcome, audio, close, sample, train

import core
from core.batch import Batch
from core.errors import UserError
from core.model import Model
from modalities.audio.modality import Audio
from modalities.audio.spectrogram import Spectrogram
from modalities.audio.vocoder import DiffusionVocoder

sf = pytest.importorskip("soundfile")
pytest.importorskip("torchaudio")

RATE, MULTIPLE, LONGEST = 8000, 640, 6400
CONDITIONS = {"label": ["zero", "one", "two"], "speaker": ["ann", "bob"]}
QUANTILES = [[1000 * row + 100 * place + 640 for place in range(8)] for row in range(6)]


class Deaf:
    """An extractor in name alone: nothing here is measured."""


def modality(**options: object) -> Audio:
    facts = {"conditions": CONDITIONS, "lengths": QUANTILES, "classes": CONDITIONS["label"], "extractor": Deaf()}
    return Audio(RATE, LONGEST, MULTIPLE, **{**facts, **options})


def lengths(batch: Batch) -> list[int]:
    return batch.mask.expand_as(batch.x).sum((1, 2)).int().tolist()


# What is asked for


def test_all_combinations_of_the_conditions_take_turns() -> None:
    cond = modality().template(12).cond
    assert cond.keys() == CONDITIONS.keys()
    pairs = list(zip(cond["label"].tolist(), cond["speaker"].tolist(), strict=True))
    assert pairs[:6] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    assert pairs[6:] == pairs[:6]


@pytest.mark.parametrize(
    ("wanted", "label", "speaker"),
    [
        ({"label": "two"}, [2, 2, 2, 2], [0, 1, 0, 1]),
        ({"label": 1, "speaker": "bob"}, [1, 1, 1, 1], [1, 1, 1, 1]),
        ({"speaker": 1}, [0, 1, 2, 0], [1, 1, 1, 1]),
        ({"label": ["one", 0, "two", 2]}, [1, 0, 2, 2], [0, 1, 0, 1]),
        ({"label": None}, [0, 1, 2, 0], [0, 0, 0, 1]),
    ],
    ids=str,
)
def test_conditions_go_by_name_and_by_number(wanted: dict, label: list[int], speaker: list[int]) -> None:
    cond = modality().template(4, wanted).cond
    assert cond["label"].tolist() == label
    assert cond["speaker"].tolist() == speaker


def test_a_pitch_goes_by_its_name() -> None:
    notes = modality(conditions={"label": ["bowed"], "pitch": [str(p) for p in range(48, 73)]}, lengths=[])
    assert notes.template(2, {"pitch": 60}).cond["pitch"].tolist() == [12, 12]  # MIDI 60, the thirteenth value
    assert notes.template(2, {"pitch": "48"}).cond["pitch"].tolist() == [0, 0]
    with pytest.raises(UserError, match=r"unknown pitch 99; allowed: 48, 49"):
        notes.template(2, {"pitch": 99})


def test_lengths_are_those_of_such_sounds() -> None:
    template = modality().template(96)
    row = template.cond["label"] * 2 + template.cond["speaker"]
    for combination in range(6):  # 16 of each: every quantile twice
        some = [length for length, r in zip(lengths(template), row.tolist(), strict=True) if r == combination]
        assert sorted(some) == sorted(2 * QUANTILES[combination])
    few = lengths(modality().template(3, {"label": "zero", "speaker": "ann"}))
    assert max(few) - min(few) >= 300  # a few are short and long already
    of_one = lengths(modality(lengths=QUANTILES[1:2]).template(8))  # lengths that depend on nothing
    assert sorted(of_one) == QUANTILES[1]


def test_a_template_is_rounded_up_to_the_multiple() -> None:
    template = modality().template(4, {"length": [0.1, 0.2, 0.05, 0.11]})
    assert lengths(template) == [800, 1600, 400, 880]
    assert template.x.shape == (4, 1, 1920)
    assert not template.x.any()
    assert template.mask.diff().amax() == 0  # never real again after the end
    assert modality(lengths=[]).template(2).mask.shape == (2, 1, 1)
    assert modality(lengths=[]).template(2).x.shape == (2, 1, LONGEST)
    assert modality().template(2, {"length": 0.16}).mask.shape == (2, 1, 1)  # 1280, a multiple
    assert modality().template(2, {"length": 10}).x.shape == (2, 1, 80000)  # longer than any of training
    assert lengths(modality().template(1, {"length": 1e-9})) == [1]


@pytest.mark.parametrize("length", [0, -1, "long", float("nan"), float("inf"), 3601])
def test_lengths_that_are_none_are_named(length: object) -> None:
    with pytest.raises(UserError, match=rf"length={length}: must be a number of seconds above 0 and at most 3600"):
        modality().template(2, {"length": length})


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({"length": [1, 2, 3]}, "length has 3 entries for n=2"),
        ({"label": ["one"]}, "label has 1 entries for n=2"),
        ({"label": "three"}, r"unknown label 'three'; allowed: zero, one, two \(or 0 to 2\)"),
        ({"label": 3}, "unknown label 3"),
        ({"speaker": "eve"}, "unknown speaker 'eve'; allowed: ann, bob"),
        ({"age": 3}, r"unknown condition \['age'\]; this model's conditions: label, speaker"),
        ({"input": "somewhere", "label": 1}, r"cond.input stands alone; besides it there is \['label'\]"),
        ({"input": "no/such/folder"}, "no/such/folder"),
    ],
    ids=str,
)
def test_wrong_conditions_are_named(cond: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        modality().template(2, cond)


def test_sounds_without_labels() -> None:
    plain = modality(conditions={}, classes=[], lengths=[[640] * 8])
    assert plain.template(3).cond == {}
    with pytest.raises(UserError, match="unknown condition"):
        plain.template(3, {"label": 1})


def test_an_input_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    sounds = {"b": 0.5 * np.sin(np.arange(1000)), "a": 0.2 * np.cos(np.arange(700)), "c": np.ones(300) * 0.1}
    for name, x in sounds.items():
        sf.write(tmp_path / f"{name}.wav", x, RATE, subtype="FLOAT")
    batch = modality().template(2, {"input": str(tmp_path)})
    assert batch.x.shape == (2, 1, 1280)
    assert lengths(batch) == [700, 1000]
    torch.testing.assert_close(batch.x[0, 0, :700], torch.from_numpy(sounds["a"]).float())
    assert not batch.x[0, 0, 700:].any()
    with pytest.raises(UserError, match=r"n=4, but cond.input=.* holds 3 sounds"):
        modality().template(4, {"input": str(tmp_path)})


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    template = modality().template(2, {"length": [0.1, 0.2]})
    x = 0.5 * torch.sin(0.3 * torch.arange(template.x.shape[-1])) * template.mask
    modality().write(template.with_x(x), tmp_path, 0)
    back = modality().read(tmp_path)
    assert lengths(back) == [800, 1600]
    inner = slice(16, 700)  # within the faded edges
    torch.testing.assert_close(back.x[:, :, inner], x[:, :, inner], atol=1e-4, rtol=0)


# What the figures are heard through


def test_the_shipped_judge_of_such_labels_is_taken() -> None:
    digits = {"label": [str(digit) for digit in range(10)]}
    judged = Audio(RATE, LONGEST, MULTIPLE, digits, classes=digits["label"])
    assert judged.instrument.name == "judge of fsdd"
    assert judged.missing(200) == ""
    assert "too few" in judged.missing(2)
    other = Audio(RATE, LONGEST, MULTIPLE, CONDITIONS, classes=CONDITIONS["label"])
    assert other.instrument is None
    assert other.missing(200) == "figures through a judge are missing: none is shipped for the labels zero, one, two"
    assert Audio(RATE, LONGEST, MULTIPLE, {}).missing(200) == ""


def test_an_extractor_that_cannot_be_had_costs_only_its_own_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modalities.audio import vggish

    monkeypatch.setenv("POLYDIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vggish, "URL", (tmp_path / "nothing.pth").as_uri())
    deaf = modality(extractor=vggish.VGGish())  # loads nothing yet
    assert deaf.missing(200).startswith("figures through VGGish are missing: file:")
    x = 0.1 * torch.randn(3, 1, 1280, generator=torch.Generator().manual_seed(0))
    figures = deaf.metrics(Batch.full(x[:2]), Batch.full(x[1:]), None)
    assert figures["n"] == 2
    assert "frechet_distance" not in figures


# A vocoder of one's own


@pytest.fixture(scope="module")
def made(vocoder: Path) -> DiffusionVocoder:
    return DiffusionVocoder(str(vocoder), steps=2, polish=0)


def voices() -> Batch:
    mask = (torch.arange(1280) < torch.tensor([1280, 700])[:, None, None]).float()
    x = 0.3 * torch.randn(2, 1, 1280, generator=torch.Generator().manual_seed(0))
    return Batch(x * mask, mask)


def test_its_sound_is_a_function_of_the_spectrogram_alone(made: DiffusionVocoder) -> None:
    codec, batch = Spectrogram(vocoder=made), voices()
    encoded = codec.encode(batch)
    state = torch.random.get_rng_state()
    sound = codec.decode(encoded)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sound.x.shape == batch.x.shape
    assert lengths(sound) == [1280, 720]
    assert torch.equal(codec.decode(encoded).x, sound.x)
    for row in range(2):  # neither its place nor its neighbours matter
        close(codec.decode(encoded[row : row + 1]).x, sound.x[row : row + 1])
    close(codec.decode(encoded[torch.tensor([1, 0])]).x, sound.x.flip(0))
    longer = codec.encode(Batch(*(torch.nn.functional.pad(part, (0, 640)) for part in (batch.x, batch.mask))))
    close(codec.decode(longer).x[..., :1280], sound.x)
    other = Spectrogram(**Spectrogram().fit(batch), vocoder=made)  # however the other model standardises
    close(other.decode(other.encode(batch)).x, sound.x)
    different = codec.decode(encoded.with_x(encoded.x * 0.9))
    assert (different.x - sound.x).abs().max() > 1e-2


def test_the_seed_and_the_steps_are_its_own(vocoder: Path, made: DiffusionVocoder) -> None:
    encoded = Spectrogram().encode(voices())
    sounds = [
        Spectrogram(vocoder=DiffusionVocoder(str(vocoder), steps, polish=0, seed=seed)).decode(encoded).x
        for steps, seed in ((2, 0), (2, 1), (3, 0))
    ]
    assert torch.equal(sounds[0], Spectrogram(vocoder=made).decode(encoded).x)
    assert (sounds[1] - sounds[0]).abs().max() > 1e-2
    assert (sounds[2] - sounds[0]).abs().max() > 1e-3


def test_polishing_brings_its_bands_to_the_spectrogram(vocoder: Path) -> None:
    errors = []
    for polish in (0, 4, 16):
        codec, batch = Spectrogram(vocoder=DiffusionVocoder(str(vocoder), 2, polish)), voices()
        encoded = codec.encode(batch)
        sound = codec.decode(encoded)
        close(codec.decode(encoded[1:]).x, sound.x[1:], atol=1e-3)  # iterations magnify the last digits
        errors.append(float(((codec.encode(sound).x - encoded.x) * encoded.mask).square().mean()))
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


def test_its_weights_are_no_part_of_the_codec(made: DiffusionVocoder) -> None:
    Spectrogram(vocoder=made).decode(Spectrogram().encode(voices()))
    assert made.state_dict() == {}
    assert list(made.parameters()) == []


@pytest.mark.parametrize(
    "options", [{"hop": 64}, {"warp": [[40, 1], [16, 2]]}, {"mels": 40, "sample_rate": RATE}, {"floor": 0.1}], ids=str
)
def test_a_vocoder_of_other_spectrograms_is_refused(made: DiffusionVocoder, options: dict) -> None:
    codec = Spectrogram(**options, vocoder=made)
    with pytest.raises(UserError, match=r"made for 64 bands of window=256, hop=80, floor=0.01, but the codec has"):
        codec.decode(codec.encode(voices()))


def test_a_model_that_is_no_vocoder_is_refused(trained: Path) -> None:
    codec = Spectrogram(vocoder=DiffusionVocoder(str(trained)))
    with pytest.raises(UserError, match="this model is no vocoder"):
        codec.decode(codec.encode(voices()))


@pytest.fixture(scope="module")
def cascade(vocoder: Path, sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of spectrograms of two steps, with the vocoder behind it."""
    chosen = (
        "vocoder=diffusion",
        f"codec.vocoder.weights={vocoder}",
        "codec.vocoder.steps=2",
        "codec.vocoder.polish=2",
    )
    return train(tmp_path_factory.mktemp("cascade") / "run", *audio(sounds), *chosen, "preview.n=0")


def test_the_cascade_trains_and_samples(cascade: Path, tmp_path: Path) -> None:
    model = core.load(cascade, device="cpu")
    assert isinstance(model.codec.vocoder, DiffusionVocoder)
    assert not any("vocoder" in name for name in model.denoiser.state_dict())
    drawn = model.sample(n=3, steps=2, label="low")
    assert drawn.x.isfinite().all()
    alone = model.sample(n=1, steps=2, label="low", length=lengths(drawn)[0] / RATE)
    close(alone.x, drawn.x[:1, :, : alone.x.shape[2]], atol=1e-4)
    sample(cascade, tmp_path / "own", "cond.label=high")
    assert (tmp_path / "own" / "00003.wav").exists()


def test_a_models_vocoder_is_a_choice_of_sampling(cascade: Path, vocoder: Path, tmp_path: Path) -> None:
    arrays = []
    for choice in ([], ["vocoder=griffin_lim"], ["codec.vocoder.seed=1"]):
        folder = tmp_path / str(len(arrays))
        sample(cascade, folder, "n=2", *choice)
        with np.load(folder / "samples.npz") as file:
            arrays.append(file["x"])
    assert arrays[0].shape == arrays[1].shape == arrays[2].shape
    assert np.abs(arrays[1] - arrays[0]).max() > 1e-2
    assert np.abs(arrays[2] - arrays[0]).max() > 1e-3


# A vocoder on its own


@pytest.fixture(scope="module")
def follower(vocoder: Path) -> Model:
    return core.load(vocoder, device="cpu")


def test_a_vocoder_follows_the_sounds_of_a_folder(follower: Model, sounds: Path) -> None:
    drawn = follower.sample(n=3, steps=2, input=str(sounds / "low"))
    assert drawn.x.shape[2] % MULTIPLE == 0
    assert lengths(drawn) == [800, 840, 880]
    assert drawn.cond == {}


def test_a_vocoder_follows_held_out_sounds_where_none_are_given(follower: Model, sounds: Path) -> None:
    from core.build import part

    data = part(follower.config, "data")
    template = follower.template(4, source=data.test)
    expected = follower.codec.encode(data.test.batch(range(4)))
    assert torch.equal(template.cond["spectrogram"], expected.cond["spectrogram"])
    assert torch.equal(template.mask, expected.mask)
    assert not template.x.any()
    with pytest.raises(UserError, match=r"n=999: the conditions come from held-out data, and there are only 8"):
        follower.template(999, source=data.test)
    given = follower.template(2, {"input": str(sounds / "low")}, data.test)
    assert (
        given.cond["spectrogram"] - template.cond["spectrogram"][:2, :, : given.mask.shape[-1] // 80]
    ).abs().max() > 0


def test_a_vocoder_at_the_command_line(
    vocoder: Path, sounds: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    done = command(
        "sample",
        f"checkpoint={vocoder}",
        f"cond.input={sounds / 'high'}",
        "n=2",
        "steps=2",
        "device=cpu",
        f"out={tmp_path}",
    )
    assert done.code == 0, done.err
    assert sf.info(tmp_path / "00001.wav").samplerate == RATE
