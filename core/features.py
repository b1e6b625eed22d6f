"""What metrics look through: a feature extractor turns samples into vectors, and perhaps into class scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from core.modality import Instrument


class Features(NamedTuple):
    """One vector per sample, and the logits of a classifier where the extractor is one."""

    features: Float[Tensor, "batch dim"]
    logits: Float[Tensor, "batch classes"] | None


class FeatureExtractor(Instrument):
    """Decoded samples x (B, *S) -> `Features`, without gradients.

    classes: what the logits are scores for; on data of the same classes the label accuracy means something.
    """

    classes: Sequence[str] = ()

    def __call__(self, x: Float[Tensor, "batch *shape"]) -> Features:
        raise NotImplementedError


def extract(extractor: FeatureExtractor, x: Float[Tensor, "n *shape"], batch_size: int = 256) -> Features:
    """The features of many samples, a batch at a time."""
    parts = [extractor(piece) for piece in x.split(batch_size)]
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)
