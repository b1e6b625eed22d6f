r"""Pitch and how strongly it is there, from one autocorrelation.

Each frame x is windowed by w (Hann), and its autocorrelation is divided by the window's own (Boersma 1993, eq. 9):
$r(\tau) = r_{xw}(\tau)/r_{xw}(0) \cdot r_w(0)/r_w(\tau)$. A periodic frame has r(period) = 1, and a periodic one in
white noise has r(period) = H / (H + N): the harmonics' share of the energy. From the same r come

- the pitch strength, the highest peak of r at a lag that is a possible period;
- the harmonic-to-noise ratio, $10 \log_{10} r / (1 - r)$ dB of that peak (Boersma 1993, eq. 4);
- the pitch, after YIN (de Cheveigné & Kawahara 2002): the difference function is d = 2 (1 - r) in units of the frame's
  energy, its cumulative mean normalisation is $d'(\tau) = d(\tau) / \mathrm{mean}_{0 < s \le \tau} d(s)$, and the
  period is the first minimum of d' that is nearly as deep as the deepest. (The highest peak of r alone errs by octaves:
  all multiples of a period have one.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

PERIODS = 2.4  # of the lowest pitch, in a frame: fewer are not enough to see it; in more, a voice has changed its pitch
HOP = 0.01  # seconds
SPEECH = (75.0, 500.0)  # Hz: the range of pitch strength and harmonic-to-noise ratio; frames of 32 ms
LOUD_DB = 20.0  # frames within that many dB of a clip's loudest count
VOICED = 0.45  # strength from which on a loud frame has a pitch
DEPTH = 0.1  # how much shallower than the deepest the first minimum of d' may be
OVERSAMPLING = 4  # lags a sample: r is band-limited, so the zero-padded spectrum gives it exactly between samples
LOST = 2400.0  # cents
LIMIT = 1e-4  # r is kept that far from 0 and 1: ratios end at +-40 dB
ROWS = 2048  # frames at a time: a bounded amount of memory


class Track(NamedTuple):
    """One row a clip, one column a frame."""

    f0: Float[Tensor, "batch frames"]  # Hz; NaN where r has no peak in the range
    strength: Float[Tensor, "batch frames"]  # 0 to 1
    loud: Bool[Tensor, "batch frames"]  # the frames that count, by energy alone
    voiced: Bool[Tensor, "batch frames"]  # loud, and with a pitch


def track(
    x: Float[Tensor, "batch 1 length"],
    mask: Float[Tensor, "batch 1 #length"],
    sample_rate: int,
    f0_range: tuple[float, float] = SPEECH,
) -> Track:
    """Pitch in every frame that lies inside the clip (a shorter clip has one frame, filled up with silence)."""
    low, high = f0_range
    if not 0 < low < high <= sample_rate / 4:
        raise ValueError(
            f"the pitch range {low} to {high} Hz is not within 0 to {sample_rate / 4}, a quarter of the rate"
        )
    width, hop = round(PERIODS / low * sample_rate), round(HOP * sample_rate)
    lengths = mask.expand_as(x).sum(dim=(1, 2))
    x = torch.nn.functional.pad((x * mask)[:, 0], (0, max(width - x.shape[2], 0)))
    frames = x.unfold(1, width, hop)
    start = torch.arange(frames.shape[1], device=x.device) * hop
    inside = (start + width <= lengths[:, None]) | (start == 0)
    f0, strength, energy = (torch.zeros_like(frames[..., 0]) for _ in range(3))
    rows = [_analyse(piece, sample_rate, low, high) for piece in frames[inside].split(ROWS)]
    f0[inside], strength[inside], energy[inside] = (torch.cat(column) for column in zip(*rows, strict=True))
    loud = inside & (energy > energy.amax(dim=1, keepdim=True) * 10 ** (-LOUD_DB / 10))
    return Track(f0, strength, loud, loud & (strength >= VOICED))


def pitch_strength(track: Track) -> float:
    """The median strength of the loud frames of all clips; 0 if all are silent.

    All loud frames count, also unvoiced ones: to leave out those without a pitch would hide noise.
    """
    return track.strength[track.loud].median().nan_to_num(0.0).item()


def harmonic_to_noise_ratio(strength: float) -> float:
    """10 log10(r / (1 - r)) dB, within +-40."""
    r = min(max(strength, LIMIT), 1 - LIMIT)
    return 10 * math.log10(r / (1 - r))


def cents_error(
    x: Float[Tensor, "batch 1 length"],
    mask: Float[Tensor, "batch 1 #length"],
    sample_rate: int,
    midi: Int64[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """How far the pitch (the median of the voiced frames) is from the asked-for note, in cents, always positive.

    The note of MIDI number m has 440 * 2^((m - 69) / 12) Hz. The range that is searched reaches 15 semitones beyond all
    the notes, so an octave error is found as one. At most LOST, which is also the error where nothing has a pitch.
    """
    wanted = note_hertz(midi)
    beyond = 2 ** (15 / 12)
    f0_range = (wanted.min().item() / beyond, min(wanted.max().item() * beyond, sample_rate / 4))
    found = track(x, mask, sample_rate, f0_range)
    f0 = torch.where(found.voiced, found.f0, torch.nan).nanmedian(dim=1).values
    return (1200 * (f0 / wanted).log2()).abs().nan_to_num(LOST).clamp(max=LOST)


def note_hertz(midi: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return 440 * 2 ** ((midi - 69) / 12)


def _analyse(frames: Tensor, sample_rate: int, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """f0, strength and energy of each frame (n, width)."""
    r = _autocorrelation(frames, math.ceil(sample_rate / low) + 1)
    rate = sample_rate * OVERSAMPLING
    first, last = max(math.floor(rate / high), 1), min(math.ceil(rate / low), r.shape[1] - 2)
    value, lag = _peaks(r, first, last)
    strength = value.amax(dim=1).clamp(0, 1)
    difference = 1 - r  # d, but for its factor
    count = torch.arange(1, r.shape[1], device=r.device)
    normalised = torch.ones_like(r)
    normalised[:, 1:] = difference[:, 1:] * count / difference[:, 1:].cumsum(dim=1).clamp(min=1e-9)
    is_peak = value > -torch.inf
    depth = torch.where(is_peak, normalised[:, first : last + 1], torch.inf)
    chosen = (depth <= depth.amin(dim=1, keepdim=True) + DEPTH).to(torch.uint8).argmax(dim=1, keepdim=True)
    f0 = torch.where(is_peak.any(dim=1), rate / lag.gather(1, chosen)[:, 0], torch.nan)
    return f0, strength, frames.var(dim=1, correction=0)


def _autocorrelation(frames: Tensor, lags: int) -> Tensor:
    """r at `lags` samples' worth of lags, OVERSAMPLING to a sample; 0 for silent frames."""
    width = frames.shape[1]
    window = torch.hann_window(width, device=frames.device, dtype=frames.dtype)
    size = 2 ** math.ceil(math.log2(width + lags))

    def correlate(signal: Tensor) -> Tensor:
        power = torch.fft.rfft(signal, size).abs().square()
        return torch.fft.irfft(power, size * OVERSAMPLING)[..., : lags * OVERSAMPLING]

    ours, own = correlate((frames - frames.mean(dim=1, keepdim=True)) * window), correlate(window)
    return ours / ours[:, :1].clamp(min=torch.finfo(frames.dtype).tiny) * (own[0] / own)


def _peaks(r: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Of each lag from first to last that is a local maximum, its parabola's height (others: -inf) and place."""
    before, here, after = r[:, first - 1 : last], r[:, first : last + 1], r[:, first + 1 : last + 2]
    is_peak = (here >= before) & (here > after)
    curvature = (2 * here - before - after).clamp(min=1e-12)
    shift = ((after - before) / (2 * curvature)).clamp(-0.5, 0.5)
    height = here + (after - before) * shift / 4
    lag = torch.arange(first, last + 1, device=r.device) + shift
    return torch.where(is_peak, height, -torch.inf), lag
