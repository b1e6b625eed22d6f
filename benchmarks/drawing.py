"""Samples of a trained model by any sampler and number of evaluations, kept on disk and never drawn twice."""

from __future__ import annotations

import hashlib
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import core
from benchmarks.common import compose
from core import output
from core.batch import Batch, concatenate
from core.build import build_sampler, part, plain
from core.data import Data, whole
from core.denoiser import BaseDenoiser
from core.model import Model
from core.reverse import Denoised
from core.runs import write_json
from core.samplers import sample
from core.schedules import Schedule
from core.space import Euclidean

if TYPE_CHECKING:
    from omegaconf import DictConfig

MADE = "made.json"


def names(group: str) -> list[str]:
    """The configs of a group: a new modality or sampler is found by its file."""
    paths = (Path(entry.name) for entry in (files("configs") / group).iterdir())
    return sorted(path.stem for path in paths if path.suffix == ".yaml")


@dataclass(frozen=True)
class Subject:
    """A trained model, the held-out samples that it is measured against, and as many others: the floor.

    Of both there are n, or, where the held-out data are too few, what there is: the reference comes first.
    """

    name: str
    run: str
    model: Model
    data: Data
    reference: Batch
    floor: Batch
    digest: str  # of the weights

    @classmethod
    def of(cls, name: str, run: str | Path, n: int, data: Mapping[str, object] | None = None) -> Subject:
        """data: what of the data's config is different here, such as its path."""
        model = core.load(run, device="cpu")
        model.config.data = {**model.config.data, **(data or {})}
        held = part(model.config, "data")
        samples = whole(held.test, 2 * n)
        return cls(name, str(run), model, held, samples[:n], samples[n:], _digest(model))

    def requesting(self, sampler: str, steps: int, times: str = "own") -> DictConfig:
        """The model's config with other values of what samples follow from; times: `own` are the model's own."""
        config = self.model.config.copy()
        chosen = compose(f"modality={self.name}", f"sampler={sampler}", *([] if times == "own" else [f"times={times}"]))
        config.sampler, config.steps = chosen.sampler, steps
        if times != "own":
            config.times = chosen.times
        return config


def _digest(model: Model) -> str:
    found = hashlib.sha256()
    for key, value in model.denoiser.state_dict().items():
        found.update(key.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Drawn:
    """Samples, the network's evaluations of each (guidance makes two of a step), and the CPU seconds of each."""

    samples: Batch
    nfe: float
    seconds: float


def draw(
    subject: Subject,
    config: DictConfig,
    n: int,
    micro_batch: int,
    seed: int,
    folder: Path,
    label: str,
    count: Callable[[int], object] = lambda steps: None,
    clock: Callable[[], float] = time.process_time,
) -> Drawn:
    """n samples as the modality's template orders them; kept in `folder` as they come.

    Those drawn together are about equally large. label: begins the name of their folder there, which ends with a digest
    of all that they follow from: the weights and the request (but not the samplers' code: remove the folder where that
    has changed). count: told how many of the sampler's steps were done since the last call, of config.steps for each
    micro-batch; at first, of all those that are kept already. clock: of the seconds, the process's own unless given.
    """
    config.n, config.seed, config.micro_batch, config.cond = n, seed, micro_batch, {}
    request = output.request(subject.digest, config) | {"codec": plain(config.codec)}
    digest = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()[:12]
    home = folder / f"{label}-{digest}"
    home.mkdir(parents=True, exist_ok=True)
    made = json.loads((home / MADE).read_text()) if (home / MADE).exists() else {"seconds": 0.0, "nfe": 0.0}
    parts = {first: home / f"{first:08d}.npz" for first in range(0, n, micro_batch)}
    missing = [first for first, path in parts.items() if not path.exists()]
    count(int(config.steps) * (len(parts) - len(missing)))

    template = subject.model.template(n)
    order = template.mask.flatten(1).sum(1).argsort(stable=True)
    stream = subject.model.stream(
        template[order],
        config,
        seed=seed,
        micro_batch=micro_batch,
        wanted=lambda first: first in missing,
        callback=lambda done, s, x_s: count(1) if done else None,  # it is told the start too
    )
    for first, (batch, seconds) in zip(missing, _timed(stream, clock), strict=True):
        made = {"seconds": made["seconds"] + seconds, "nfe": subject.model.nfe}
        write_json(home / MADE, {**made, "request": request})
        output.write_arrays(parts[first], batch)
    samples = concatenate([output.read_arrays(path) for path in parts.values()])[order.argsort()]
    return Drawn(samples, made["nfe"], made["seconds"] / n)


def _timed(batches: Iterator[Batch], clock: Callable[[], float]) -> Iterator[tuple[Batch, float]]:
    begun = clock()
    for batch in batches:
        yield batch, clock() - begun
        begun = clock()


def steps_within(evaluations: int, config: DictConfig, schedule: Schedule) -> int:
    """The most steps, at least one and at most as many as the evaluations, that need no more evaluations.

    Found by sampling from a denoiser that costs nothing, since a sampler alone knows how many a step of it takes.
    """

    def cost(steps: int) -> int:
        config.steps = steps
        return _evaluations(config, schedule)

    if cost(evaluations) <= evaluations:
        return evaluations
    return max(1, bisect_right(range(1, evaluations + 1), evaluations, key=cost))


def _evaluations(config: DictConfig, schedule: Schedule) -> int:
    denoiser = _Counting(schedule)
    sampler, times = build_sampler(config, denoiser)
    sample(denoiser, sampler, Batch.full(torch.zeros(1, 2)), times)
    return denoiser.calls


class _Counting(BaseDenoiser):
    """Says 0 and counts how often it was asked."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.space, self.calls = schedule, Euclidean(), 0

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Mapping[str, Tensor]) -> Denoised:
        self.calls += 1
        return Denoised(torch.zeros_like(x_t))
