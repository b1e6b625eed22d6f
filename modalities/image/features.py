"""Inception-v3, through which published figures look at pictures."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from core.cli import say
from core.errors import UserError
from core.features import FeatureExtractor, Features


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
