"""What `benchmarks.scaling` lets grow in each modality, from where on, and what one step at a point of it is.

All data are noise of the right shape: they take as long as real ones, exist at every size, and need no data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch import Tensor

from benchmarks.audio_speed import CLASSES, Noise
from benchmarks.common import Run, compose
from benchmarks.drawing import steps_within
from core.batch import Batch
from core.build import build_sampler, guided
from core.data import ArraySource, Data, Source
from core.samplers import sample

ELEMENTS = ["H", "C", "N", "O", "F"]
SPREAD = 1.4  # angstrom: the standard deviation of QM9's positions
Work = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """A point. batch: samples; size: of each, in the modality's unit; width: of the network; nfe: evaluations of a
    sample.
    """

    batch: int
    size: float
    width: int
    nfe: int


@dataclass(frozen=True)
class Subject:
    """A modality's series: each lets one number of `first` double, with the others as in `held`.

    data: of (samples, size); network: overrides for a width; units: of each number, as labels; proportional: the power
    of n that the amount of data, or the number of weights, grows with, where that is not 1.
    """

    data: Callable[[int, float], Data]
    network: Callable[[int], list[str]]
    held: Setting
    first: Setting
    units: Mapping[str, str]
    proportional: Mapping[str, float]

    def settings(self, axis: str, points: int) -> list[Setting]:
        return [replace(self.held, **{axis: getattr(self.first, axis) * 2**k}) for k in range(points)]


@dataclass
class Made:
    """Data of one split."""

    name: str
    train: Source
    facts: dict[str, object]
    classes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.val = self.test = self.train

    def describe(self) -> str:
        return f"{len(self.train)} samples of noise"

    def augment(self, batch: Batch, u: Tensor) -> Batch:
        return batch


def pictures(number: int, side: float) -> Data:
    """Grey ones of side x side pixels, with ten labels, as digits are."""
    shape = (1, int(side), int(side))
    x = np.random.default_rng(0).integers(0, 256, (number, *shape), dtype=np.uint8)
    facts = {"channels": 1, "size": int(side), "shape": list(shape), "num_classes": len(CLASSES), "classes": CLASSES}
    return Made("pictures", ArraySource(x, {"label": np.arange(number) % len(CLASSES)}), facts, CLASSES)


def clouds(number: int, atoms: float) -> Data:
    """Atoms of the elements in turn at random places, as many in each molecule: nothing is padded."""
    n = int(atoms)
    positions = SPREAD * np.random.default_rng(0).normal(size=(number, n, 3))
    one_hot = np.broadcast_to(np.eye(len(ELEMENTS))[np.arange(n) % len(ELEMENTS)], (number, n, len(ELEMENTS)))
    x, mask = np.concatenate([positions, one_hot], -1).astype(np.float32), np.ones((number, n, 1), np.float32)
    facts = {"elements": ELEMENTS, "scale": SPREAD, "sizes": {n: number}, "properties": {}, "kept": False}
    return Made("clouds", ArraySource(x, mask=mask), facts)


def _two_levels(width: int) -> list[str]:
    return [f"network.widths=[{width},{2 * width}]"]


LABELS = {"batch": "batch", "nfe": "evaluations"}
SUBJECTS: dict[str, Subject] = {
    "image": Subject(
        data=pictures,
        network=_two_levels,
        held=Setting(batch=4, size=32, width=32, nfe=2),
        first=Setting(batch=1, size=8, width=8, nfe=1),
        units={**LABELS, "size": "pixels a side", "width": "channels"},
        proportional={"size": 2, "width": 2},
    ),
    "audio": Subject(
        data=Noise,
        network=_two_levels,
        held=Setting(batch=2, size=0.64, width=64, nfe=2),
        first=Setting(batch=1, size=0.32, width=8, nfe=1),
        units={**LABELS, "size": "seconds", "width": "channels"},
        proportional={"width": 2},
    ),
    "molecules": Subject(
        data=clouds,
        network=lambda width: [f"network.width={width}", f"network.vectors={width // 3}"],
        held=Setting(batch=8, size=16, width=96, nfe=2),
        first=Setting(batch=4, size=8, width=24, nfe=1),
        units={**LABELS, "size": "atoms", "width": "channels"},
        proportional={"width": 2},
    ),
}
AXES: dict[str, tuple[str, ...]] = {  # the numbers of a setting, and the work that each has a part in
    "batch": ("training", "sampling"),
    "size": ("training", "sampling"),
    "width": ("training", "sampling"),
    "nfe": ("sampling",),
}


@dataclass(frozen=True)
class Bench:
    """A modality's default model at a setting, on a device, and a batch in data units."""

    run: Run
    batch: Batch
    nfe: int

    @classmethod
    def of(cls, modality: str, setting: Setting, device: str) -> Bench:
        subject = SUBJECTS[modality]
        data = subject.data(setting.batch, setting.size)
        run = Run.on(compose(f"modality={modality}", *subject.network(setting.width)), data)
        run.denoiser.to(device)
        return cls(run, data.train.batch(range(setting.batch)).to(device), setting.nfe)

    def training(self) -> Work:
        """A step from data on: encoding, loss, gradients, AdamW, and the average of the weights."""
        return self.run.step(self.batch, self.run.codec.encode)

    def sampling(self) -> Work:
        """All steps of the modality's own sampler, times and guidance; what it draws is not decoded."""
        config, denoiser = self.run.config, self.run.denoiser.eval()
        config.steps = steps_within(self.nfe, config, denoiser.schedule)
        around = guided(config, denoiser, self.run.codec)
        sampler, times = build_sampler(config, around)
        return partial(sample, around, sampler, self.run.codec.template(self.batch), times)


WORKS: dict[str, Callable[[Bench], Work]] = {"training": Bench.training, "sampling": Bench.sampling}
