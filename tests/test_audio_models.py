"""The shipped models of sound: small, loadable, and saying what they are asked to say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import ROOT

import core
from modalities.audio.judge import Judge
from modalities.audio.vocoder import MODELS, DiffusionVocoder

NAMES = sorted(folder.name for folder in MODELS.iterdir() if folder.is_dir())


def test_all_of_them_together_are_small() -> None:
    assert {"fsdd", "fsdd_waveform", "tones", "vocoder_fsdd"} <= set(NAMES)
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < 12 * 2**20  # 12 MiB


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_names_no_place_of_a_machine(name: str) -> None:
    folder = MODELS / name
    assert core.load(folder, device="cpu").config.data.get("path") is None
    text = (folder / "config.yaml").read_text()
    assert not any(f"{root}/" in text for root in ("/home", "/root", "/tmp", "/mnt", "/data", str(ROOT)))


def test_the_digit_that_was_asked_for_is_spoken() -> None:
    samples = core.load(MODELS / "fsdd", device="cpu").sample(n=10, steps=15)
    heard = Judge("fsdd")(samples.x).logits.argmax(1)
    assert int((heard == samples.cond["label"]).sum()) >= 9


def test_the_note_that_was_asked_for_is_played() -> None:
    model = core.load(MODELS / "tones", device="cpu")
    notes = [48, 55, 60, 67, 72]
    samples = model.sample(n=5, steps=20, label="bowed", pitch=notes)
    heard = Judge("tones")(samples.x).logits.argmax(1)
    assert int((heard == samples.cond["label"]).sum()) >= 4
    figures = model.modality.metrics(samples, samples, samples)
    assert figures["pitch_within_50_cents"] >= 0.8


def test_its_vocoder_keeps_the_spectrogram() -> None:
    """The cascade of both shipped models: the vocoder's sound has the bands that were drawn."""
    model = core.load(MODELS / "fsdd", device="cpu")
    encoded = model.codec.encode(model.sample(n=2, steps=5))
    model.codec.vocoder = DiffusionVocoder(steps=4)
    again = model.codec.encode(model.codec.decode(encoded))
    real = encoded.mask.expand_as(encoded.x)
    assert float(((again.x - encoded.x) ** 2 * real).sum() / real.sum()) < 0.1
    assert torch.equal(again.mask, encoded.mask)


def test_they_say_how_they_were_made() -> None:
    card = (Path(MODELS) / "README.md").read_text()
    for name in NAMES:
        assert f"`{name}`" in card
    assert "python -m core.train" in card
