"""A picture of many sounds on one scale, placed in inches: waveforms, log-mel spectrograms and words around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from modalities.audio.artefacts import Clip
from modalities.audio.logmel import filters, log_mel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANGE_DB = 80.0  # from the loudest point of a picture down to what is drawn as silence
FLOOR_DB = -140.0  # below what 16 bits can hold
WINDOW_SECONDS, HOP_SECONDS, BANDS = 0.032, 0.004, 64
FINE = 4096  # steps of frequency in which the bands are sought that ticks point to
TICKS = (0.5, 1, 2, 4, 8, 16)  # kHz
COLORS = "magma"
ENDED, WAVE, INK = "#ebebef", "#51127c", "#333338"  # where a clip has ended, its waveform, ticks and words
DPI = 120

Mel = Float[np.ndarray, "bands frames"]


def peak(clip: Clip) -> float:
    """The largest amplitude, and a millionth for silence."""
    return max(float(np.abs(clip).max(initial=0.0)), 1e-6)


def decibels(clip: Clip, sample_rate: int) -> Mel:
    """The log-mel spectrogram in dB, a row for each band, low frequencies first."""
    x = torch.from_numpy(clip)[None, None]
    return log_mel(x, sample_rate, BANDS, WINDOW_SECONDS, HOP_SECONDS, FLOOR_DB)[0].T.numpy()


class Scale:
    """What panels have in common, so that they can be compared.

    seconds: of the longest clip.  loudest: the upper end of the colours, in dB.
    """

    def __init__(self, clips: Sequence[Clip], sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.seconds = max(max(map(len, clips)) / sample_rate, HOP_SECONDS)
        self.loudest = max(FLOOR_DB + RANGE_DB, *(float(decibels(clip, sample_rate).max()) for clip in clips))

    def mel(self, clip: Clip) -> Mel:
        """A clip's spectrogram in [0, 1]: 1 is the loudest point of all, 0 lies RANGE_DB below it or deeper."""
        return ((decibels(clip, self.sample_rate) - self.loudest) / RANGE_DB + 1).clip(0, 1)

    def height(self, frequency: float) -> float:
        """Where a frequency in Hz stands in a spectrogram, from 0 (bottom) to 1 (top)."""
        weights = filters(self.sample_rate, 2 * FINE, BANDS).double().numpy()  # (FINE + 1, BANDS)
        hertz = np.linspace(0, self.sample_rate / 2, FINE + 1)
        centres = hertz @ weights / weights.sum(axis=0)
        return float(np.interp(frequency, centres, (np.arange(BANDS) + 0.5) / BANDS))


class Panels:
    """A figure of width x height inches, whose contents are placed by their left upper corners, in inches from its own.

    size: (width, height) of a spectrogram; all time axes are `scale.seconds` long.
    """

    def __init__(self, scale: Scale, width: float, height: float, size: tuple[float, float]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.scale, self.size = scale, size
        self.figure: Figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)  # no global state, no display
        # one set of axes for all: a set for each panel takes ten times as long
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self.axes.set_axis_off()

    def title(self, left: float, base: float, words: str) -> None:
        """Words above a panel, beside which a number has room: long ones are smaller, and cut off at last."""
        short = words if len(words) <= 20 else f"{words[:19]}…"
        self.text(left, base, short, 7 * min(1, 15 / max(len(short), 1)))

    def text(self, left: float, base: float, words: str, size: float = 7, **style: object) -> None:
        """Words of `size` points that stand on a line at `base`."""
        style = {"va": "baseline", "color": INK, **style}
        self.axes.text(left, base, words.replace("$", r"\$"), fontsize=size, **style)

    def waveform(self, left: float, top: float, height: float, clip: Clip) -> None:
        """As high as its peak: the range of the clip in each of at most 200 stretches of time."""
        width = self.size[0] * len(clip) / self.scale.sample_rate / self.scale.seconds
        stretches = np.array_split(clip, min(len(clip), 200))
        low, high = (np.array([edge(s) for s in stretches]) for edge in (np.min, np.max))
        middle, unit = top + height / 2, height / 2 / peak(clip)
        x = left + np.linspace(0, width, len(stretches))
        self.axes.fill_between(x, middle - high * unit, middle - low * unit, color=WAVE, linewidth=0.5)

    def spectrogram(self, left: float, top: float, clip: Clip) -> None:
        """Low frequencies below; grey where the clip has ended."""
        from matplotlib.patches import Rectangle

        mel = self.scale.mel(clip)
        shown = self.size[0] * len(clip) / self.scale.sample_rate / self.scale.seconds
        self.axes.add_patch(Rectangle((left, top), *self.size, color=ENDED, linewidth=0, zorder=-1))
        extent = (left, left + shown, top + self.size[1], top)
        self.axes.imshow(mel, COLORS, extent=extent, aspect="auto", vmin=0, vmax=1, origin="lower")

    def hertz(self, left: float, top: float) -> None:
        """Ticks of frequency at the left edge of a spectrogram."""
        for kilohertz in TICKS:
            if 2000 * kilohertz <= self.scale.sample_rate:
                y = top + self.size[1] * (1 - self.scale.height(1000 * kilohertz))
                self._tick((left - 0.04, left), (y, y))
                self.text(left - 0.06, y, f"{kilohertz:g}", 6, va="center", ha="right")

    def seconds(self, left: float, top: float) -> None:
        """Ticks of time below a spectrogram whose left upper corner this is."""
        bottom = top + self.size[1]
        for second in _round_steps(self.scale.seconds, 3):
            x = left + self.size[0] * second / self.scale.seconds
            self._tick((x, x), (bottom, bottom + 0.04))
            # words at both ends stay within the panel, or they would run into its neighbour's
            side = "left" if not second else "right" if left + self.size[0] - x < 0.1 else "center"
            self.text(x, bottom + 0.06, f"{second:g}" if second else "0 s", 6, va="top", ha=side)

    def bar(self, left: float, top: float, begin: float, end: float) -> None:
        """A thick line on the upper edge of a spectrogram, from one second to another."""
        ends = [left + self.size[0] * min(second / self.scale.seconds, 1) for second in (begin, end)]
        self.axes.plot(ends, (top, top), color=INK, linewidth=2.5, solid_capstyle="butt", scalex=False, scaley=False)

    def color_bar(self, left: float, top: float, height: float) -> None:
        """What the colours mean."""
        ramp = np.linspace(0, 1, 256)[:, None]
        extent = (left, left + 0.1, top + height, top)
        self.axes.imshow(ramp, COLORS, extent=extent, aspect="auto", vmin=0, vmax=1, origin="lower")
        for decibel in range(0, -int(RANGE_DB) - 1, -20):
            self.text(left + 0.15, top - height * decibel / RANGE_DB, f"{decibel or 0} dB", 6, va="center")

    def save(self, path: Path) -> None:
        """As a PNG of 256 colours, half the size: those of loudness, and from white to those of waveforms and words."""
        self.canvas.draw()
        picture = Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3])
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.quantize(palette=_palette(), dither=Image.Dither.NONE).save(path, optimize=True)

    def _tick(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.axes.plot(x, y, color=INK, linewidth=0.6, scalex=False, scaley=False)


@cache
def _palette() -> Image.Image:
    """A picture that holds the 256 colours."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    loudness = colormaps[COLORS](np.linspace(0, 1, 192))[:, :3]
    shades = [np.linspace((1.0, 1.0, 1.0), to_rgb(color), 31) for color in (WAVE, INK)]
    colors = np.concatenate([loudness, *shades, [to_rgb(ENDED)] * 2])
    picture = Image.new("P", (1, 1))
    picture.putpalette((255 * colors).round().astype(np.uint8).tobytes())
    return picture


def _round_steps(end: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from 0 up to `end`, about so many."""
    power = 10 ** math.floor(math.log10(end / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * end / about)
    return [round(i * step, 9) for i in range(math.floor(end / step + 1e-9) + 1)]
