"""Short-time spectra in bands: what a spectrogram keeps of a sound, and the magnitudes that go back from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.audio.frames import stft

WARP = ((32, 1), (16, 2), (16, 4))


class Bands:
    """log(amplitude + floor) of averaged power in bands, for Hann windows on the middle of every `hop` samples.

    window, hop: in samples.
    warp:  (number, width) pairs: so many bands of so many bins each, from bin 0 upwards; the default resolves the
           harmonics of a voice and widens above, as hearing does.
    mels:  that many mel bands instead, for sounds of `sample_rate` (Hz).
    floor: added to the amplitude (a full-scale sine has about window / 4): what is far below it is silence.

    Raises ValueError for a warp with more bins than the window has, or mels without a rate.
    """

    def __init__(
        self,
        window: int = 256,
        hop: int = 80,
        warp: Sequence[Sequence[int]] = WARP,
        mels: int | None = None,
        sample_rate: int | None = None,
        floor: float = 0.01,
    ) -> None:
        if not 0 < hop <= window // 2 or hop % 2 or window % 2:
            raise ValueError(f"window={window}, hop={hop}: both must be even, and hop at most half of the window")
        if floor <= 0:
            raise ValueError(f"floor={floor}: must be positive")
        self.window, self.hop, self.floor = window, hop, floor
        bins = window // 2 + 1
        if mels is None:
            self.average = _warped(warp, bins)
        elif sample_rate is None:
            raise ValueError(f"mels={mels} needs a sample_rate")
        else:
            self.average = _mel(mels, bins, sample_rate)
        # back to bins: each takes the power of the bands that it counts in, by their shares
        shares = self.average / self.average.amax(1, keepdim=True)
        self.spread = shares / shares.sum(0).clamp(min=1e-6)

    @property
    def count(self) -> int:
        return len(self.average)

    def __eq__(self, other: object) -> bool:
        """Whether both see the same in every sound."""
        if not isinstance(other, Bands):
            return NotImplemented
        numbers = (self.window, self.hop, self.floor) == (other.window, other.hop, other.floor)
        return numbers and torch.equal(self.average, other.average)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self.count} bands of window={self.window}, hop={self.hop}, floor={self.floor:g}"

    def analyse(self, x: Float[Tensor, "batch length"]) -> Float[Tensor, "batch frames bands"]:
        """length must be a multiple of hop; there are length / hop frames."""
        return (self.amplitude(stft(x, self.window, self.hop)) + self.floor).log()

    def amplitude(self, spectrum: Float[Tensor, "batch frames bins"]) -> Float[Tensor, "batch frames bands"]:
        """The root mean square of a short-time spectrum in each band."""
        power = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
        return (power @ self.average.to(power).T).sqrt()

    def without_floor(self, log_amplitude: Float[Tensor, "batch frames bands"]) -> Float[Tensor, "batch frames bands"]:
        """The amplitudes that `analyse` took the logarithms of."""
        return (log_amplitude.exp() - self.floor).clamp(min=0)

    def magnitudes(self, log_amplitude: Float[Tensor, "batch frames bands"]) -> Float[Tensor, "batch frames bins"]:
        """The nearest magnitudes of a short-time spectrum: each bin has its bands' amplitude."""
        amplitude = self.without_floor(log_amplitude)
        return (amplitude.square() @ self.spread.to(amplitude)).sqrt()


def _warped(warp: Sequence[Sequence[int]], bins: int) -> Float[Tensor, "bands bins"]:
    widths = [width for number, width in warp for _ in range(number)]
    if not widths or min(widths) < 1 or sum(widths) > bins:
        raise ValueError(f"warp={[list(pair) for pair in warp]}: needs widths of at least 1 and at most {bins} bins")
    average = torch.zeros(len(widths), bins, dtype=torch.float64)
    first = 0
    for band, width in enumerate(widths):
        average[band, first : first + width] = 1 / width
        first += width
    return average


def _mel(mels: int, bins: int, sample_rate: int) -> Float[Tensor, "bands bins"]:
    from torchaudio.functional import melscale_fbanks

    filters = melscale_fbanks(bins, 0.0, sample_rate / 2, mels, sample_rate, norm=None, mel_scale="slaney").T.double()
    if bool((filters.sum(1) == 0).any()):
        raise ValueError(f"mels={mels}: too many for {bins} bins, some would be empty; a longer window has more bins")
    return filters / filters.sum(1, keepdim=True)
