"""How good samples are: Frechet distance, Inception-style score, precision and recall, label accuracy, memorisation.

All of them share one pass of the extractor over the images.
"""

from __future__ import annotations

from functools import partial

from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.features import FeatureExtractor, Features, extract
from core.metrics import Headline, K, frechet_distance, inception_score, label_accuracy, memorisation, precision_recall
from modalities.image.codec import as_float


def evaluate(
    samples: Batch,
    reference: Batch,
    training: Batch | None,
    extractor: FeatureExtractor | None,
    labelled: bool = False,
    paired: bool = False,
) -> dict[str, float]:
    """Every figure of `samples` against held-out `reference` images, both uint8 or float in [0, 1].

    Also called with real images as `samples`: that is the floor, to be printed beside the figures at the same n.
    With `training`, the nearest-training-neighbour figures are added (see `memorisation`), the only ones without an
    extractor. labelled: whether the extractor's classes are the data's, and so the label accuracy means something.
    paired: whether sample i should be reference image i: how near it is to it, and whether it has the same class.
    Figures for which there are too few images are left out (see `too_few`).
    """
    figures = {"n": float(len(samples))}
    if extractor is not None:
        ours, real = (extract(extractor, as_float(batch.x)) for batch in (samples, reference))
        figures |= {name: headline.value for name, headline in _headlines(ours, real, samples, labelled).items()}
        if min(len(samples), len(reference)) > K:
            figures["precision"], figures["recall"] = precision_recall(real.features, ours.features)
        if ours.logits is not None:
            figures["inception_score"] = inception_score(ours.logits)
        if paired and ours.logits is not None and real.logits is not None:
            figures["same_class"] = (ours.logits.argmax(1) == real.logits.argmax(1)).double().mean().item()
    if paired:
        figures["psnr"] = psnr(as_float(samples.x), as_float(reference.x)).mean().item()
    if training is not None:
        figures |= memorisation(*(as_float(batch.x).flatten(1) for batch in (samples, reference, training)))
    return figures


def psnr(images: Float[Tensor, "n c h w"], reference: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """The peak signal-to-noise ratio of each image in [0, 1], in dB; at most 100."""
    mean_square = (images - reference).square().flatten(1).mean(1)
    return -10 * mean_square.clamp(min=1e-10).log10()


def headlines(
    samples: Batch, reference: Batch, extractor: FeatureExtractor | None, labelled: bool = False
) -> dict[str, Headline]:
    """The Frechet distance and the label accuracy, where `evaluate` has them."""
    if extractor is None:
        return {}
    ours, real = (extract(extractor, as_float(batch.x)) for batch in (samples, reference))
    return _headlines(ours, real, samples, labelled)


def _headlines(ours: Features, real: Features, samples: Batch, labelled: bool) -> dict[str, Headline]:
    found, labels = {}, samples.cond.get("label")
    if min(len(ours.features), len(real.features)) > 1:
        distance = partial(frechet_distance, real.features)
        found["frechet_distance"] = Headline(distance, (ours.features,), True, labels)
    if ours.logits is not None and labelled and labels is not None:
        found["label_accuracy"] = Headline(label_accuracy, (ours.logits, labels), strata=labels)
    return found


def too_few(n: int) -> str:
    """Which figures n images are too few for, as a sentence; "" if none."""
    if n > K:
        return ""
    names = "precision and recall" if n > 1 else "the Frechet distance, precision and recall"
    return f"n={n} images are too few for {names}"
