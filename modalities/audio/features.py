"""What the metrics of sounds listen through: a feature extractor that knows the rate it hears at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.features import FeatureExtractor, Features


class Listener(FeatureExtractor):
    """Clips (B, 1, L) at `sample_rate`, 0 in the padding, -> `Features`, however far the clips are padded.

    conditions: what it recognises, by name, and the names of the values; `label` is what the features' logits are for.
    """

    sample_rate: int
    conditions: Mapping[str, Sequence[str]] = {}

    def recognise(self, features: Float[Tensor, "batch dim"]) -> dict[str, Float[Tensor, "batch values"]]:
        """The scores of the values of each of `conditions`."""
        return {}


def listen(listener: Listener, batch: Batch, sample_rate: int, batch_size: int = 128) -> Features:
    """The features of clips at `sample_rate`, resampled to the listener's where that is another."""
    parts = []
    for start in range(0, len(batch), batch_size):
        x = (batch.x * batch.mask)[start : start + batch_size]
        if sample_rate != listener.sample_rate:
            from torchaudio.functional import resample

            x = resample(x, sample_rate, listener.sample_rate)
        parts.append(listener(x))
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)
