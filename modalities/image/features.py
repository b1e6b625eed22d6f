"""What the metrics look through: a feature extractor turns images into vectors, and perhaps into class scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from core.cli import say
from core.errors import UserError
from core.modality import Instrument
from modalities.image.codec import as_float


class Features(NamedTuple):
    """One vector per image, and the logits of a classifier where the extractor is one."""

    features: Float[Tensor, "batch dim"]
    logits: Float[Tensor, "batch classes"] | None


class FeatureExtractor(Instrument):
    """Images (B, C, H, W) in [0, 1] -> `Features`, without gradients.

    classes: what the logits are scores for; on data of the same classes the label accuracy means something.
    """

    classes: Sequence[str] = ()

    def __call__(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        raise NotImplementedError


class InceptionV3(FeatureExtractor):
    """The Inception-v3 of the published FID and IS: 2048 features, 1008 ImageNet logits (without bias, as IS has it).

    The network and its resizing to 299x299 are torch-fidelity's. One channel is repeated to three.
    weights: a file of torch-fidelity's `inception-v3-compat` weights; None downloads them once (91 MB).

    Raises UserError if torch-fidelity is missing or the weights cannot be had. Nothing is loaded before the first call.
    """

    name = "Inception-v3"

    def __init__(self, weights: str | None = None, device: str = "cpu") -> None:
        self.weights = weights
        self.device = device
        self._network: torch.nn.Module | None = None

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        if self._network is None:
            if self.weights is None:
                say("loading Inception-v3 (downloads 91 MB the first time)")
            self._network = self._load().to(self.device)
        pixels = (images.to(self.device).clamp(0, 1) * 255).round().to(torch.uint8)
        features, logits = self._network(pixels.expand(-1, 3, -1, -1))
        return Features(features.float().cpu(), logits.float().cpu())

    def _load(self) -> torch.nn.Module:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError(
                "Inception-v3 needs torch-fidelity: pip install torch-fidelity (or set modality.extractor)"
            ) from error
        try:
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=self.weights
            )
        except Exception as error:  # a download fails in many ways: no network, a proxy's page, a full disk
            where = f"read from {self.weights}" if self.weights else "downloaded; give a local file as weights=..."
            raise UserError(f"the weights of Inception-v3 could not be {where} ({error})") from error


def extract(extractor: FeatureExtractor, images: Tensor, batch_size: int = 256) -> Features:
    """The features of many images (N, C, H, W), uint8 or in [0, 1], a batch at a time."""
    parts = [extractor(as_float(piece)) for piece in images.split(batch_size)]
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)
