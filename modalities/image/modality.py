"""Images as a modality: how they are written, read, drawn and measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.batch import Batch
from core.modality import Modality
from modalities.image import artefacts, metrics
from modalities.image.features import FeatureExtractor, InceptionV3
from modalities.image.judge import SIZE, Judge


class Image(Modality):
    """Pictures of one size; decoded batches are (B, C, H, W) in [0, 1].

    extractor: what the metrics look through. Unless given, the digit judge for 1x28x28 data, Inception-v3 for other.
    """

    name = "image"

    def __init__(
        self, shape: Sequence[int], classes: Sequence[str] = (), extractor: FeatureExtractor | None = None
    ) -> None:
        super().__init__(shape, classes)
        self.extractor = extractor

    def write(self, batch: Batch, folder: Path, first: int) -> None:
        artefacts.write_pngs(batch.x, folder, first)

    def read(self, folder: Path) -> Batch:
        return artefacts.read_pngs(folder)

    def grid(self, batch: Batch, path: Path) -> None:
        artefacts.save_grid(batch, path)

    def trajectory(self, moments: Sequence[Batch], folder: Path) -> None:
        artefacts.save_strip(moments, folder / artefacts.STRIP)
        artefacts.save_gif(moments, folder / artefacts.GIF)

    def metrics(self, samples: Batch, reference: Batch, training: Batch | None) -> dict[str, float]:
        if self.extractor is None:  # only now: loading it takes time, and Inception-v3 a download
            self.extractor = Judge() if tuple(reference.x.shape[1:]) == (1, SIZE, SIZE) else InceptionV3()
        return metrics.evaluate(samples, reference, training, self.extractor)
