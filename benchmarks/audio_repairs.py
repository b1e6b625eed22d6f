"""How sounds are repaired without a model: linear prediction, folded spectra, splines; and how near a repair comes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from modalities.audio.logmel import stft_magnitude
from modalities.audio.prediction import continued

Sound = Float[np.ndarray, " length"]

FLOOR_DB = -60.0  # below the loudest point of the true sound: what is softer counts as silent
WINDOWS = (512, 128)  # samples, none of which is a codec's
SLOPE = 100.0  # Hz over which a band ends


def bridged(x: Sound, gap: slice, order: int, context: int) -> Sound:
    """The gap by linear prediction from `context` samples on both sides, one faded into the other at equal power."""
    length = gap.stop - gap.start
    before = continued(x[: gap.start][-context:], length, order)
    after = continued(x[gap.stop :][::-1][-context:], length, order)[::-1]
    angle = np.pi / 2 * (np.arange(length) + 0.5) / length
    repaired = x.copy()
    repaired[gap] = np.cos(angle) * before + np.sin(angle) * after
    return repaired


def low(x: Sound, hertz: float, rate: int) -> Sound:
    """What is below a frequency, down to nothing within SLOPE Hz around it."""
    above = (np.fft.rfftfreq(len(x), 1 / rate) - hertz) / SLOPE + 0.5
    return np.fft.irfft(np.fft.rfft(x) * (0.5 + 0.5 * np.cos(np.pi * above.clip(0, 1))), len(x))


def folded(x: Sound, rate: int) -> Sound:
    """A sound below a quarter of its rate with its spectrum mirrored there: every other sample of it taken twice."""
    half = np.where(np.arange(len(x)) % 2, 0, 2 * x)
    return x + half - low(half, rate / 4, rate)


def cut_off(x: Sound, ratio: float) -> float:
    """The level at which clipping takes away a sound that is `ratio` dB softer than x."""
    below, beyond = 0.0, float(np.abs(x).max())
    for _ in range(40):
        level = (below + beyond) / 2
        if sdr(np.clip(x, -level, level), x) < ratio:
            below = level
        else:
            beyond = level
    return level


def splined(x: Sound) -> Sound:
    """A clipped sound with a cubic spline through what was not cut off, from one to three times as far from 0."""
    from scipy.interpolate import CubicSpline

    level, place = np.abs(x).max(), np.arange(len(x))
    cut = np.abs(x) >= 0.999 * level
    outside = np.sign(x[cut]) * CubicSpline(place[~cut], x[~cut])(place[cut])
    repaired = x.copy()
    repaired[cut] = np.sign(x[cut]) * outside.clip(level, 3 * level)
    return repaired


def sdr(x: Sound, truth: Sound) -> float:
    """The truth's energy over that of what x is off, in dB."""
    return float(10 * np.log10((truth @ truth) / max((x - truth) @ (x - truth), 1e-20)))


def gap_distances(x: Sound, truth: Sound, gap: slice) -> dict[str, float]:
    """Log-spectral distances in dB, the mean over the frames whose middle lies in the gap, at each of WINDOWS."""
    found = {}
    for window in WINDOWS:
        off = _off(x, truth, window)
        middle = np.arange(len(off)) * (window // 4)
        found[f"lsd {window}"] = _distance(off[(middle >= gap.start) & (middle < gap.stop)])
    return found


def band_distances(x: Sound, truth: Sound, hertz: float, rate: int) -> dict[str, float]:
    """The same over all frames, of the frequencies above `hertz` and its slope."""
    found = {}
    for window in WINDOWS:
        off = _off(x, truth, window)
        above = np.arange(off.shape[1]) * rate / window > hertz + SLOPE / 2
        found[f"lsd {window}"] = _distance(off[:, above])
    return found


def _off(x: Sound, truth: Sound, window: int) -> Float[np.ndarray, "frames bins"]:
    ours, theirs = (
        stft_magnitude(torch.from_numpy(np.ascontiguousarray(sound))[None, None], window, window // 4)[0].numpy()
        for sound in (x, truth)
    )
    floor = theirs.max() * 10 ** (FLOOR_DB / 20)
    return 20 * np.log10(np.maximum(ours, floor) / np.maximum(theirs, floor))


def _distance(off: Float[np.ndarray, "frames bins"]) -> float:
    return float(np.sqrt((off**2).mean(1)).mean())


def means(scores: Mapping[str, list[float]], best: list[float] | None) -> dict[str, float]:
    """Means with their bootstrap errors, and by how much the first score is less than the best of the others."""
    from core.metrics import Headline

    def mean(values: torch.Tensor) -> float:
        return values.mean().item()

    found = {}
    for name, values in scores.items():
        figure = Headline(mean, (torch.tensor(values, dtype=torch.float64),))
        found |= {name: figure.value, f"{name} error": figure.error()}
    if best is not None:
        gain = torch.tensor(best, dtype=torch.float64) - torch.tensor(next(iter(scores.values())), dtype=torch.float64)
        found |= {
            "gain": mean(gain),
            "gain error": Headline(mean, (gain,)).error(),
            "nearer": mean((gain > 0).double()),
        }
    return found
