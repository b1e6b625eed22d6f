"""DiffWave (Kong et al. 2021): dilated convolutions on the raw waveform, at its full rate in every layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.batch import is_full
from core.layers.embedding import ConditionEmbedding, Features, LogSnrFeatures, StepFeatures
from core.layers.init import zero
from core.layers.masks import masked, spatial_mask
from core.layers.norm import over_positions


class TabledStepFeatures(StepFeatures):
    """DiffWave's features of a 0-based step, sin and cos of 10^(4 j / 63) t for j = 0 ... 63 (eq. 5).

    Their fastest turn many times between one step and the next, so that training, on whole steps, says nothing about
    the times between. There the features of the two steps around are interpolated. Before the first step they are the
    first's.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__(width, max_period=1e4, scale=1e4)

    def forward(self, x: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
        step = x.float().clamp(min=0)
        before = step.floor()
        return torch.lerp(super().forward(before), super().forward(before + 1), (step - before)[:, None])


class Upsampler(nn.Module):
    """A spectrogram at the waveform's rate, by one transposed convolution (3 bands wide) for each stride."""

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides, self.hop = tuple(strides), math.prod(strides)
        # a kernel of two strides, and as much padding as makes each frame exactly `stride` long
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(1, 1, (3, 2 * s), stride=(1, s), padding=(1, (s + 1) // 2), output_padding=(0, s % 2))
            for s in strides
        )

    def forward(
        self, spectrogram: Float[Tensor, "batch 1 frames bands"], real: Float[Tensor, "batch 1 frames_or_1"]
    ) -> Float[Tensor, "batch bands samples"]:
        """real: 1 for the frames that have real samples, (B, 1, 1) where all have."""
        x = spectrogram.transpose(2, 3)
        for layer, stride in zip(self.layers, self.strides, strict=True):
            x = F.leaky_relu(layer(masked(x, real[:, None])), 0.4)
            real = real if is_full(real) else real.repeat_interleave(stride, dim=-1)
        return x[:, 0]


class DilatedLayer(nn.Module):
    """A gated dilated convolution, told the embedding and the local condition; gives the next layer's input and a skip.

    bands: channels of the local condition, 0 for none.
    """

    def __init__(self, channels: int, dilation: int, embedding: int, bands: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(embedding, channels)
        self.dilated = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation)
        self.local = nn.Conv1d(bands, 2 * channels, 1) if bands else None
        self.out = nn.Conv1d(channels, 2 * channels, 1)

    def forward(
        self,
        x: Float[Tensor, "batch channels samples"],
        embedding: Float[Tensor, "batch width"],
        local: Float[Tensor, "batch bands samples_or_1"] | None,
        mask: Float[Tensor, "batch 1 samples_or_1"],
    ) -> tuple[Float[Tensor, "batch channels samples"], Float[Tensor, "batch channels samples"]]:
        # masked after the embedding is added: a convolution's own padding is zero too
        h = self.dilated(masked(x + over_positions(self.embedding(embedding), x), mask))
        if self.local is not None:
            h = h + self.local(local)
        gate, content = h.chunk(2, dim=1)
        residual, skip = self.out(gate.sigmoid() * content.tanh()).chunk(2, dim=1)
        return (x + residual) / math.sqrt(2), skip


class DiffWave(nn.Module):
    """The network of DiffWave on waveforms of one channel and any length; its output starts at 0.

    conditions: categorical ones by name, see `core.layers.embedding.Conditions`; {} for none
    layers:     layer i has dilation 2^(i mod cycle): each output sees 1 + 2 * (their sum) samples
    channels:   of every layer
    embedding:  width of the vector that carries noise level and conditions
    bands:      of the local condition `cond["spectrogram"]` (B, 1, frames, bands), 0 for a network without one; a
                sample whose conditions are dropped, and a batch that has none, gets zeros after the upsampling
    strides:    of the upsampling: a frame covers their product of samples
    features:   of c_noise; the default, `LogSnrFeatures(128)`, wants a log-SNR, `TabledStepFeatures` the paper's step
    checkpoint: recompute each layer's activations in the backward pass: much less memory, about a third more time
    """

    def __init__(
        self,
        conditions: Mapping[str, Sequence[str] | int] | None = None,
        *,
        layers: int = 30,
        cycle: int = 10,
        channels: int = 64,
        embedding: int = 512,
        bands: int = 0,
        strides: Sequence[int] = (16, 16),
        features: Features | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1 or cycle < 1:
            raise ValueError(f"{layers=}, {cycle=}: both must be at least 1")
        self.bands, self.checkpoint = bands, checkpoint
        self.embed = ConditionEmbedding(features or LogSnrFeatures(128), embedding, conditions)
        self.upsample = Upsampler(strides) if bands else None
        self.input = nn.Conv1d(1, channels, 1)
        self.layers = nn.ModuleList(DilatedLayer(channels, 2 ** (i % cycle), embedding, bands) for i in range(layers))
        self.skip = nn.Conv1d(channels, channels, 1)
        self.out = nn.Conv1d(channels, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
        zero(self.out)

    def forward(
        self,
        x: Float[Tensor, "batch 1 samples"],
        c_noise: Float[Tensor, " batch"],
        mask: Float[Tensor, "batch 1 samples_or_1"],
        cond: Mapping[str, Tensor],
    ) -> Float[Tensor, "batch 1 samples"]:
        if x.ndim != 3 or x.shape[1] != 1:
            raise ValueError(f"x has shape {tuple(x.shape)}; this network wants waveforms (batch, 1, samples)")
        mask = spatial_mask(mask, x)
        embedding = self.embed(c_noise, cond)
        local = None if self.upsample is None else self._local(self.upsample, x, mask, cond)
        h, skips = F.relu(self.input(x)), x.new_zeros(())
        for layer in self.layers:
            h, skip = self._run(layer, h, embedding, local, mask)
            skips = skips + skip
        h = F.relu(self.skip(skips / math.sqrt(len(self.layers))))
        return masked(self.out(h), mask)

    def _local(self, upsample: Upsampler, x: Tensor, mask: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The spectrogram at the rate of x, (B, bands, samples), or its null, zeros; (B, bands, 1) if it is absent."""
        if "spectrogram" not in cond:
            return x.new_zeros(len(x), self.bands, 1)
        spectrogram, samples = cond["spectrogram"], x.shape[-1]
        expected = (len(x), 1, -(-samples // upsample.hop), self.bands)
        if spectrogram.shape != expected:
            raise ValueError(
                f"the spectrogram has shape {tuple(spectrogram.shape)}; {samples} samples need {expected}, "
                f"a frame for every {upsample.hop}"
            )
        real = mask if is_full(mask) else F.max_pool1d(mask, upsample.hop, ceil_mode=True)
        local = upsample(spectrogram.to(x.dtype), real)[..., :samples]
        return local.masked_fill(cond["drop"].bool()[:, None, None], 0) if "drop" in cond else local

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)
