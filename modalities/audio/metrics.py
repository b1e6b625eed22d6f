"""How good sounds are, as a listener, a tuner and an engineer hear them; and whether they are copies.

Figures through a feature extractor: the Fréchet distance and its company, and whether what was asked for is recognised.
Without one: pitch, faults (tails, clipping, clicks), the spectrum against the real one, memorisation. The same figures
of real clips are the ones to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from core.batch import Batch
from core.features import Features
from core.metrics import Headline, K, frechet_distance, inception_score, label_accuracy, memorisation, precision_recall
from modalities.audio.distances import WINDOWS, log_spectral_distance, mel_error, multi_resolution_distance
from modalities.audio.features import Listener, listen
from modalities.audio.levels import (
    band_edges,
    band_levels,
    clicks_per_second,
    clipped_share,
    mel_levels,
    tail_level,
)
from modalities.audio.logmel import log_mel
from modalities.audio.pitch import Track, cents_error, harmonic_to_noise_ratio, pitch_strength, track

IN_TUNE = 50  # cents
CHUNK = 256  # clips at a time
COPY_BANDS, COPY_WINDOW, COPY_HOP, COPY_FLOOR_DB = 32, 0.032, 0.016, -60.0  # the spectrograms that copies share


def evaluate(
    samples: Batch,
    reference: Batch,
    training: Batch | None,
    extractor: Listener | None,
    sample_rate: int,
    conditions: Mapping[str, Sequence[str]],
    unpitched: Sequence[str] = (),
    paired: bool = False,
) -> dict[str, float]:
    """Every figure of `samples` against held-out `reference` clips, both (B, 1, L) in [-1, 1] at `sample_rate`.

    Also called with real clips as `samples`: that is the floor, to be printed beside the figures at the same n.
    conditions: the names of the values of each. A condition `pitch` names MIDI notes.
    unpitched:  the labels that have no pitch, whatever their condition says.
    paired:     whether sample i should be reference clip i: then their distances are measured too.
    With `training`, the nearest-training-neighbour figures are added. Figures for which there are too few clips are
    left out (see `too_few`).
    """
    samples, reference = _whole(samples), _whole(reference)
    figures = {"n": float(len(samples))}
    if extractor is not None:
        ours, real = listen(extractor, samples, sample_rate), listen(extractor, reference, sample_rate)
        known = (training or reference).cond.get("label")
        figures |= _heard(ours, real, extractor, samples.cond, conditions, known)
    figures |= _tuned(samples, sample_rate, conditions, unpitched)
    figures |= _faults(samples, sample_rate) | _spectrum(samples, reference, sample_rate)
    if training is not None:
        figures |= memorisation(*_spectrograms([samples, reference, _whole(training)], sample_rate))
    if paired:
        figures |= _distances(samples, reference, sample_rate)
    return figures


def headlines(
    samples: Batch,
    reference: Batch,
    extractor: Listener | None,
    sample_rate: int,
    conditions: Mapping[str, Sequence[str]],
) -> dict[str, Headline]:
    """The Frechet distance, whether what was asked for is heard, and the pitch strength, where `evaluate` has them."""
    samples, reference = _whole(samples), _whole(reference)
    found = {}
    if extractor is not None:
        ours, real = listen(extractor, samples, sample_rate), listen(extractor, reference, sample_rate)
        found = _heard_headlines(ours, real, extractor, samples.cond, conditions)
    tracks, strata = tuple(track(samples.x, samples.mask, sample_rate)), samples.cond.get("label")
    strength = Headline(lambda *columns: pitch_strength(Track(*columns)), tracks, strata=strata)
    return found | {"pitch_strength": strength}


def _heard_headlines(
    ours: Features,
    real: Features,
    extractor: Listener,
    asked: Mapping[str, Tensor],
    conditions: Mapping[str, Sequence[str]],
) -> dict[str, Headline]:
    found = {}
    if min(len(ours.features), len(real.features)) > 1:
        distance = partial(frechet_distance, real.features)
        found["frechet_distance"] = Headline(distance, (ours.features,), True, asked.get("label"))
    for name, scores in extractor.recognise(ours.features).items():
        if name in asked and list(extractor.conditions[name]) == list(conditions.get(name, [])):
            found[f"{name}_accuracy"] = Headline(label_accuracy, (scores, asked[name]), strata=asked.get("label"))
    return found


def too_few(n: int) -> str:
    """Which figures n clips are too few for, as a sentence; "" if none."""
    if n > K:
        return ""
    names = "precision and recall" if n > 1 else "the Frechet distance, precision and recall"
    return f"n={n} clips are too few for {names}"


def modified_inception_score(logits: Float[Tensor, "n classes"]) -> float:
    r"""$\exp E_{x, x'} KL(p(y|x) \,\|\, p(y|x'))$ over all pairs of samples. (Gurumurthy et al. 2017)

    The mean over pairs factors into two means over samples.
    """
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    return ((p * log_p).sum(dim=1).mean() - (p.mean(0) * log_p.mean(0)).sum()).exp().item()


def am_score(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " m"]) -> float:
    r"""$KL(p_\mathrm{train}(y) \,\|\, E_x p(y|x)) + E_x H(p(y|x))$, lower is better. (Zhou et al. 2018, eq. 19)

    labels: of the training data (or any with the same shares of the classes).
    """
    log_p = logits.double().log_softmax(dim=1)
    shares = labels.bincount(minlength=logits.shape[1]).double() / len(labels)
    log_marginal = log_p.logsumexp(dim=0) - torch.tensor(len(logits), dtype=torch.float64).log()
    divergence = torch.xlogy(shares, shares).sum() - (shares * log_marginal).sum()
    return (divergence - (log_p.exp() * log_p).sum(dim=1).mean()).item()


def _whole(batch: Batch) -> Batch:
    """Float, silent in the padding, and the mask as long as the clips."""
    x = batch.x.float()
    mask = batch.mask.expand_as(x)
    return Batch(x * mask, mask, batch.cond)


def _heard(
    ours: Features,
    real: Features,
    extractor: Listener,
    asked: Mapping[str, Tensor],
    conditions: Mapping[str, Sequence[str]],
    known: Tensor | None,
) -> dict[str, float]:
    headlines = _heard_headlines(ours, real, extractor, asked, conditions)
    figures = {name: headline.value for name, headline in headlines.items()}
    if min(len(ours.features), len(real.features)) > K:
        figures["precision"], figures["recall"] = precision_recall(real.features, ours.features)
    if ours.logits is not None:
        figures["inception_score"] = inception_score(ours.logits)
        figures["modified_inception_score"] = modified_inception_score(ours.logits)
        if known is not None and list(extractor.classes) == list(conditions.get("label", [])):
            figures["am_score"] = am_score(ours.logits, known)
    return figures


def _tuned(
    batch: Batch, sample_rate: int, conditions: Mapping[str, Sequence[str]], unpitched: Sequence[str]
) -> dict[str, float]:
    strength = pitch_strength(track(batch.x, batch.mask, sample_rate))
    figures = {"pitch_strength": strength, "hnr_db": harmonic_to_noise_ratio(strength)}
    if "pitch" not in conditions or "pitch" not in batch.cond:
        return figures
    pitched = torch.ones(len(batch), dtype=torch.bool)
    for label in unpitched:
        if label in conditions.get("label", []) and "label" in batch.cond:
            pitched &= batch.cond["label"] != list(conditions["label"]).index(label)
    if pitched.any():
        notes = torch.tensor([int(name) for name in conditions["pitch"]])[batch.cond["pitch"]]
        error = cents_error(batch.x[pitched], batch.mask[pitched], sample_rate, notes[pitched])
        figures["pitch_within_50_cents"] = (error <= IN_TUNE).double().mean().item()
        figures["pitch_error_cents"] = error.median().item()
    return figures


def _faults(batch: Batch, sample_rate: int) -> dict[str, float]:
    return {
        "tail_db": tail_level(batch.x, batch.mask, sample_rate).median().item(),
        "clipped_share": clipped_share(batch.x, batch.mask).mean().item(),
        "clicks_per_second": clicks_per_second(batch.x, batch.mask, sample_rate).mean().item(),
    }


def _spectrum(samples: Batch, reference: Batch, sample_rate: int) -> dict[str, float]:
    """How much louder or softer than in real clips each octave is, on average; and the whole spectrum's distance."""
    ours, real = (band_levels(batch.x, batch.mask, sample_rate).mean(0) for batch in (samples, reference))
    gaps = (ours - real).tolist()
    figures = {f"band_{low}_{high}_hz_db": gap for (low, high), gap in zip(band_edges(sample_rate), gaps, strict=True)}
    ours, real = (mel_levels(batch.x, batch.mask, sample_rate).mean(0) for batch in (samples, reference))
    return figures | {"spectral_distance_db": (ours - real).square().mean().sqrt().item()}


def _spectrograms(batches: Sequence[Batch], sample_rate: int) -> list[Float[Tensor, "n cells"]]:
    """Log-mel spectrograms of clips scaled to one peak, flat, padded with silence to one length."""
    longest = max(batch.x.shape[2] for batch in batches) + round(COPY_WINDOW * sample_rate)  # all frames of all clips

    def cells(x: Tensor) -> Tensor:
        x = F.pad(x, (0, longest - x.shape[2])) / x.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        return log_mel(x, sample_rate, COPY_BANDS, COPY_WINDOW, COPY_HOP, COPY_FLOOR_DB).flatten(1)

    return [torch.cat([cells(x) for x in batch.x.split(CHUNK)]) for batch in batches]


def _distances(samples: Batch, reference: Batch, sample_rate: int) -> dict[str, float]:
    if len(samples) != len(reference):
        raise ValueError(f"{len(samples)} samples have no pairs in {len(reference)} reference clips")
    x = F.pad(samples.x, (0, reference.x.shape[2] - samples.x.shape[2]))  # a negative number cuts
    clips = (x, reference.x, reference.mask)
    figures = {f"log_spectral_distance_{w}": log_spectral_distance(*clips, w).mean().item() for w in WINDOWS}
    figures["multi_resolution_stft"] = multi_resolution_distance(*clips).mean().item()
    return figures | {"mel_error_db": mel_error(*clips, sample_rate).mean().item()}
