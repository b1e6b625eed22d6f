"""Figures of samples beside the same figures of real data: the floor that no sample can be expected to beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.codec import LossyCodecError
from core.data import Data, spread, whole
from core.errors import UserError
from core.likelihood import variational_bound
from core.output import ALL, Share, read_arrays, write_samples
from core.progress import counting
from core.reverse import Large, LogInterpolated
from core.runs import Reporter, write_json
from core.times import LogSNR, Uniform

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from core.batch import Batch
    from core.modality import Modality
    from core.model import Model

FIGURES = "evaluation.json"
LIKELIHOOD_BATCH = 128
TRAINING_BYTES = 2**31  # of training data, as float32, that samples are compared with
Table = dict[str, dict[str, float]]


def compare(modality: Modality, samples: Batch, reference: Batch, floor: Batch | None, training: Batch | None) -> Table:
    """The modality's figures of the samples and, as `real`, of other real data, both against the reference."""
    columns = {"samples": modality.metrics(samples, reference, training)}
    if floor is not None and len(floor):
        columns["real"] = modality.metrics(floor, reference, training, floor=True)
    return columns


def evaluate_model(
    model: Model,
    data: Data,
    config: DictConfig,
    folder: Path,
    report: Reporter,
    request: Mapping[str, object],
    likelihood: int = 0,
    likelihood_steps: int = 1000,
    share: Share = ALL,
) -> Table | None:
    """Draws config.n samples into `folder` and measures them against the first n held-out ones.

    The floor is measured on the n held-out samples after those; where the test split has fewer, on n of the validation
    split; where that has fewer too, on as many as the test split has. request: see `write_samples`. likelihood:
    held-out samples whose variational bound to compute too, 0 for none. share: of this process, see `write_samples`.
    Of a large training split (see `TRAINING_BYTES`) memorisation and novelty see a part, and the title says how many.
    None on all processes but the first.
    """
    n = int(config.n)
    samples = write_samples(model, config, folder, report.console, request, share, data.test)
    if samples is None:
        return None
    held_out = whole(data.test, 2 * n)
    reference, floor = held_out[:n], held_out[n:]
    if len(floor) < n <= len(data.val):
        floor = whole(data.val, n)
    training = spread(data.train, TRAINING_BYTES)
    table = compare(model.modality, samples, reference, floor, training)
    if likelihood:
        table["held-out data"] = log_likelihood(model, data, likelihood, likelihood_steps, config.seed, report)
    title = f"{len(samples)} samples against {len(reference)} held-out ones"
    if len(training) < len(data.train):
        title += f", and {len(training):,} of {len(data.train):,} training ones"
    publish(table, n, folder / FIGURES, title, model.modality, report)
    if len(reference) < n:
        report(f"n={n}: the test split has {len(reference)} samples, so no figure is at equal n")
    if not len(floor):
        report("there is no column real: no held-out samples are left for it")
    elif len(floor) < n:
        report(f"the column real is of {len(floor)} held-out samples: its figures are not at equal n")
    return table


def log_likelihood(model: Model, data: Data, n: int, steps: int, seed: int, report: Reporter) -> dict[str, float]:
    """The variational bound of the first n held-out samples on a grid of `steps` steps.

    In bits per true degree of freedom, by its parts; and in nats a sample, with the modality's `log_prior` (of the
    size, say). UserError for a codec that loses information.
    """
    held_out = whole(data.test, n)
    learned = model.denoiser.learned_variance is not None
    # equal steps of log-SNR make the tightest bound; a model of numbered steps knows only its own
    grid = Uniform if learned or model.denoiser.prediction.num_steps else LogSNR
    times = grid(steps)(model.denoiser.schedule)
    parts: dict[str, list[Tensor]] = {"prior": [], "diffusion": [], "decoder": []}
    nats = []
    batches = math.ceil(len(held_out) / LIKELIHOOD_BATCH)
    with counting(report.console, "terms of the variational bound", batches * steps) as count:
        for first in range(0, len(held_out), LIKELIHOOD_BATCH):
            batch = held_out[first : first + LIKELIHOOD_BATCH].to(model.device)
            try:
                bound = variational_bound(
                    model.denoiser,
                    model.codec,
                    batch,
                    times,
                    variance=LogInterpolated() if learned else Large(),
                    seed=seed,
                    indices=torch.arange(first, first + len(batch)),
                    callback=lambda done: count(1),
                )
            except LossyCodecError as error:
                raise UserError(str(error)) from error
            nats.append(bound.nats.cpu() - model.modality.log_prior(batch.to("cpu")))
            for name, values in parts.items():
                values.append(getattr(bound, name) / (bound.dim * math.log(2)))
    figures = {f"bits_per_dim_{name}": float(torch.cat(values).mean()) for name, values in parts.items()}
    return {"bits_per_dim": sum(figures.values()), **figures, "nats": float(torch.cat(nats).mean())}


def publish(table: Table, n: int, path: Path, title: str, modality: Modality, report: Reporter) -> None:
    """One table with both columns, for a person and as JSON, with what measured them; and what is missing in it."""
    instrument = None if modality.instrument is None else modality.instrument.name
    report.figures(f"{title}, through {instrument}" if instrument else title, table)
    if missing := modality.missing(n):
        report(missing)
    write_json(path, {"title": title, "instrument": instrument, "missing": missing, **table})


def read_samples(folder: Path, read_files: Callable[[Path], Batch]) -> Batch:
    """The samples in a folder: its samples.npz if there is one, else its files as the modality reads them."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of samples")
    arrays = folder / "samples.npz"
    return read_arrays(arrays) if arrays.exists() else read_files(folder)
