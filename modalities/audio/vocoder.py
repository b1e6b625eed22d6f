"""From a spectrogram back to sound: by iterated phases, or by a diffusion model of waveforms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.batch import Batch
from core.errors import UserError
from modalities.audio.bands import Bands
from modalities.audio.consistency import consistent
from modalities.audio.frames import mask_of_frames

if TYPE_CHECKING:
    from core.model import Model

MODELS = Path(__file__).with_name("models")


class Vocoder(nn.Module):
    """Log-amplitudes in bands -> sound."""

    def forward(
        self, logs: Float[Tensor, "batch frames bands"], mask: Float[Tensor, "batch frames 1"], bands: Bands
    ) -> Float[Tensor, "batch length"]:
        """logs: as `bands.analyse` gives them. mask: 1 on real frames, or (B, 1, 1). length = frames * bands.hop.

        A clip's sound depends on that clip alone: not on its neighbours, nor on any random state.
        """
        raise NotImplementedError


class GriffinLim(Vocoder):
    """Phases that fit the magnitudes, by alternating projections with momentum (Griffin & Lim 1984; Perraudin 2013).

    iterations: 32 are enough with momentum .99. They begin from equal phases, not from random ones.
    """

    def __init__(self, iterations: int = 32, momentum: float = 0.99) -> None:
        super().__init__()
        if iterations < 1 or not 0 <= momentum < 1:
            raise ValueError(f"iterations={iterations}, momentum={momentum}: at least 1, and in [0, 1)")
        self.iterations, self.momentum = iterations, momentum

    def forward(
        self, logs: Float[Tensor, "batch frames bands"], mask: Float[Tensor, "batch frames 1"], bands: Bands
    ) -> Float[Tensor, "batch length"]:
        from torchaudio.functional import griffinlim

        magnitudes = bands.magnitudes(logs) * mask
        # torchaudio centres frames on multiples of the hop, ours are half a hop later; so much silence that neither its
        # reflection at the ends matters, nor whether more of it follows
        around = -(-bands.window // bands.hop)
        padded = F.pad(magnitudes, (0, 0, around, around)).transpose(1, 2)
        window = torch.hann_window(bands.window, dtype=logs.dtype, device=logs.device)
        sound = griffinlim(
            padded,
            window,
            n_fft=bands.window,
            hop_length=bands.hop,
            win_length=bands.window,
            power=1.0,
            n_iter=self.iterations,
            momentum=self.momentum,
            length=(padded.shape[-1] - 1) * bands.hop,
            rand_init=False,
        )
        first = around * bands.hop - bands.hop // 2
        return sound[:, first : first + magnitudes.shape[1] * bands.hop]


class DiffusionVocoder(Vocoder):
    """A diffusion model of waveforms given their spectrogram, such as `experiment=vocoder_fsdd` trains.

    weights: the name of a shipped model, or a run folder. steps: of its sampler. seed: of its noise.
    polish:  iterations that bring the sound's bands to those of the spectrogram, with momentum (`consistency`): the
             model gives the phases and what is within a band; 0 leaves its sound as it is.

    The weights are read when they are first needed. Raises UserError then if there are none.
    """

    def __init__(
        self, weights: str = "vocoder_fsdd", steps: int = 20, polish: int = 200, momentum: float = 0.99, seed: int = 0
    ) -> None:
        super().__init__()
        if steps < 1 or polish < 0 or not 0 <= momentum < 1:
            raise ValueError(f"steps={steps}, polish={polish}, momentum={momentum}: at least 1, at least 0, in [0, 1)")
        self.polish, self.momentum = polish, momentum
        self.weights, self.steps, self.seed = weights, steps, seed
        self._model: Model | None = None  # not a submodule: its weights are no part of another model's checkpoint

    def model(self, device: torch.device) -> Model:
        from core.model import load

        if self._model is None:
            shipped = MODELS / self.weights
            self._model = load(shipped if shipped.is_dir() else self.weights, device=str(device))
        return self._model.to(device)

    @torch.no_grad()
    def forward(
        self, logs: Float[Tensor, "batch frames bands"], mask: Float[Tensor, "batch frames 1"], bands: Bands
    ) -> Float[Tensor, "batch length"]:
        from modalities.audio.vocoding import Vocoding

        model = self.model(logs.device)
        codec = model.codec
        if not isinstance(codec, Vocoding):
            raise UserError(f"codec.vocoder.weights={self.weights}: this model is no vocoder")
        if codec.spectrogram.bands != bands:
            known = codec.spectrogram.bands
            raise UserError(f"codec.vocoder.weights={self.weights}: made for {known}, but the codec has {bands}")
        spectrogram = codec.spectrogram.standardise(logs)[:, None] * mask[:, None]
        length = logs.shape[1] * bands.hop
        sound_mask = mask_of_frames(mask[:, None], bands.hop)
        template = Batch(logs.new_zeros(len(logs), 1, length), sound_mask, {"spectrogram": spectrogram})
        config = model.config.copy()
        config.steps = self.steps
        # every clip gets the noise of sample 0: the sound is a function of the spectrogram alone
        numbers = torch.zeros(len(logs), dtype=torch.int64)
        sound = model.draw(template, config, self.seed, numbers).x[:, 0].to(logs)
        return consistent(sound, bands.without_floor(logs), mask, bands, self.polish, self.momentum)
