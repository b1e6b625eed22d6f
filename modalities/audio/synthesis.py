"""Notes of five instruments, computed: each differs by its index in brightness, attack, decay, vibrato and loudness.

All partials of a note lie below 0.475 of the sampling rate, and its fundamental is exact: 440 Hz 2^((pitch - 69) / 12).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from core import random

INSTRUMENTS = ("plucked", "bowed", "blown", "struck", "drum")
SEED = 20  # of all notes; another one makes other variations
HIGHEST = 0.475  # of the sampling rate: 3.8 kHz at 8 kHz
PEAK = 0.9  # of the loudest note
ONSET, RELEASE = 0.002, 0.02  # seconds in which every note rises from 0 and returns to it
CHUNK = 16  # notes at a time: what is added up stays in the processor's cache


def frequency(pitch: float) -> float:
    """The fundamental of a MIDI pitch, in Hz."""
    return 440 * 2 ** ((pitch - 69) / 12)


def synthesise(
    label: Int64[np.ndarray, " n"],
    pitch: Int64[np.ndarray, " n"],
    index: Int64[np.ndarray, " n"],
    sample_rate: int,
    length: int,
) -> Float32[np.ndarray, "n length"]:
    """Notes of `length` samples within [-0.9, 0.9].

    label: places in `INSTRUMENTS`; pitch: MIDI; index: what chooses a note's variation, and nothing else does.
    """
    label, pitch, index = (np.asarray(values, dtype=np.int64) for values in (label, pitch, index))
    out = np.zeros((len(label), length), dtype=np.float32)
    for instrument, note in np.unique(np.stack([label, pitch]), axis=1).T if len(label) else ():
        rows = np.flatnonzero((label == instrument) & (pitch == note))
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            voice = _Voice(frequency(float(note)), index[some], sample_rate, length)
            out[some] = voice.finish(_PLAYERS[instrument](voice))
    return out


@dataclass
class _Voice:
    """Several notes of one instrument and pitch: f0 in Hz, arrays (n, length)."""

    f0: float
    index: Int64[np.ndarray, " n"]
    sample_rate: int
    length: int

    def __post_init__(self) -> None:
        self.t = (np.arange(self.length) / self.sample_rate)[None, :]  # seconds
        self.t32 = self.t.astype(np.float32)
        keys = random.keys(SEED, torch.from_numpy(self.index))
        self._u = random.uniform(keys, (16,), torch.float64).numpy()
        self._drawn = 0

    def draw(self, low: float, high: float) -> Float64[np.ndarray, "n 1"]:
        """The next property of each note, uniform between two bounds."""
        self._drawn += 1
        return low + (high - low) * self._u[:, self._drawn - 1, None]

    def noise(self) -> Float32[np.ndarray, "n length"]:
        return random.normal(random.keys(SEED + 1, torch.from_numpy(self.index)), (self.length,)).numpy()

    def fading(self, rate: Float64[np.ndarray, "n 1"]) -> Float32[np.ndarray, "n length"]:
        """exp(-rate t), rate in 1/s."""
        return np.exp(-rate.astype(np.float32) * self.t32)

    def swelling(self, seconds: Float64[np.ndarray, "n 1"]) -> Float32[np.ndarray, "n length"]:
        """From 0 to 1 within some seconds, along half a cosine."""
        part = np.minimum(self.t32 / seconds.astype(np.float32), 1)
        return 0.5 - 0.5 * np.cos(np.float32(np.pi) * part)

    def phase(self, vibrato_cents: Float64[np.ndarray, "n 1"] | float = 0.0) -> Float64[np.ndarray, "n length"]:
        """The fundamental's phase, from a random start; vibrato is a sine around the pitch that averages to it."""
        phase = 2 * np.pi * (self.f0 * self.t + self.draw(0, 1))
        if np.any(vibrato_cents):
            rate, start = self.draw(4.5, 6.5), self.draw(0, 2 * np.pi)  # Hz, radians
            depth = self.f0 * np.log(2) / 1200 * vibrato_cents  # Hz, to first order
            phase = phase - depth / rate * np.cos(2 * np.pi * rate * self.t + start)
        return phase

    def harmonics(
        self,
        amplitude: Callable[[int], Float64[np.ndarray, "n 1"]],
        phase: Float64[np.ndarray, "n length"],
        damping: Float64[np.ndarray, "n 1"] | float = 0.0,
    ) -> Float32[np.ndarray, "n length"]:
        """The sum over k of amplitude(k) exp(-damping (k - 1) t) sin(k phase).

        Horner's rule in z = exp(i phase - damping t): a multiplication and an addition per partial.
        """
        count = int(HIGHEST * self.sample_rate / (1.01 * self.f0))  # 1.01: vibrato raises them
        phase = np.remainder(phase, 2 * np.pi).astype(np.float32)
        turn = np.cos(phase) + 1j * np.sin(phase)
        z = turn * np.exp(-np.float32(1) * np.asarray(damping, dtype=np.float32) * self.t32)
        total = np.zeros_like(z)
        for k in range(count, 0, -1):
            total = total * z + amplitude(k).astype(np.float32)
        return (total * turn).imag

    def finish(self, x: Float32[np.ndarray, "n length"]) -> Float32[np.ndarray, "n length"]:
        """Edges at 0, and a peak between half of the loudest and the loudest."""
        edges = np.minimum(self.t / ONSET, 1) * np.clip((self.t[:, -1:] - self.t) / RELEASE, 0, 1)
        x = x * (np.sin(np.pi / 2 * edges) ** 2).astype(np.float32)
        loudness = PEAK * self.draw(0.5, 1)
        return x * (loudness / np.abs(x).max(1, keepdims=True)).astype(np.float32)


def _plucked(v: _Voice) -> Float32[np.ndarray, "n length"]:
    """A string plucked at a point, whose upper partials fade first."""
    slope, place = v.draw(0.6, 1.2), v.draw(0.12, 0.4)  # the brightness; where along the string
    decay, damping = v.draw(3.0, 6.0), v.draw(0.4, 1.2)  # 1/s
    tone = v.harmonics(lambda k: np.sin(np.pi * k * place) / k**slope, v.phase(), damping)
    return tone * v.fading(decay)


def _bowed(v: _Voice) -> Float32[np.ndarray, "n length"]:
    """A sawtooth through a body's resonance, with vibrato, that swells and holds."""
    slope, centre, strength = v.draw(0.9, 1.3), v.draw(700, 1600), v.draw(0.5, 2.0)
    attack, vibrato = v.draw(0.06, 0.15), v.draw(4, 12)  # seconds; cents

    def amplitude(k: int) -> Float64[np.ndarray, "n 1"]:
        return (1 + strength * np.exp(-(((k * v.f0 - centre) / 400) ** 2))) / k**slope

    release = v.swelling(np.full_like(attack, 0.08))[:, ::-1]
    return v.harmonics(amplitude, v.phase(vibrato)) * v.swelling(attack) * release


def _blown(v: _Voice) -> Float32[np.ndarray, "n length"]:
    """Odd partials and breath, with a soft attack."""
    slope, even, breath = v.draw(1.2, 1.9), v.draw(0.02, 0.1), v.draw(0.015, 0.05)
    attack, sag = v.draw(0.04, 0.1), v.draw(0.0, 0.8)  # seconds; how it weakens, 1/s
    tone = v.harmonics(lambda k: (1.0 if k % 2 else even) / k**slope, v.phase())
    noise = v.noise()
    noise = noise + np.roll(noise, 1, axis=1)  # breath is darker than white
    envelope = v.swelling(attack) * v.fading(sag) * v.swelling(np.full_like(attack, 0.1))[:, ::-1]
    return (tone + breath.astype(np.float32) * noise) * envelope


def _struck(v: _Voice) -> Float32[np.ndarray, "n length"]:
    """A bar: its fundamental, and partials near 4 and 10 times as high that fade at once."""
    decay = v.draw(5.0, 10.0)
    x = np.sin(v.phase()) * v.fading(decay)
    for ratio, strength, haste in (
        (v.draw(3.9, 4.0), v.draw(0.3, 0.7), 3.0),
        (v.draw(9.6, 10.0), v.draw(0.1, 0.3), 8.0),
    ):
        audible = ratio * v.f0 < HIGHEST * v.sample_rate
        start = v.draw(0, 2 * np.pi)
        x += audible * strength * np.sin(2 * np.pi * ratio * v.f0 * v.t + start) * v.fading(haste * decay)
    return x.astype(np.float32)


def _drum(v: _Voice) -> Float32[np.ndarray, "n length"]:
    """A skin that falls to half the pitch's frequency, and a burst of noise."""
    decay, fall, reach = v.draw(9.0, 16.0), v.draw(25, 45), v.draw(1.0, 2.0)  # 1/s, 1/s, of the last frequency
    last = v.f0 / 2
    sweep = 2 * np.pi * last * (v.t + reach / fall * (1 - v.fading(fall))) + v.draw(0, 2 * np.pi)
    burst = v.draw(0.15, 0.4).astype(np.float32) * v.noise() * v.fading(v.draw(25, 50))
    return (np.sin(sweep) * v.fading(decay)).astype(np.float32) + burst


_PLAYERS = (_plucked, _bowed, _blown, _struck, _drum)
