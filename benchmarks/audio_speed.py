"""Our networks for sound against DiffWave's with equally many parameters: a training step, per second of sound."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import Comparison, Run, Task, compose, count, race, timed, training_step
from benchmarks.peers import nearest
from core.batch import Batch
from core.data import ArraySource
from core.denoiser import Denoiser
from core.levels import Discrete
from core.module import Optimisation
from core.objective import Objective
from core.prediction import Epsilon
from core.schedules import LinearBeta
from modalities.audio.diffwave import DiffWave, TabledStepFeatures

RATE = 8000  # Hz
MULTIPLE = 640  # samples, of every length
CLASSES = [str(digit) for digit in range(10)]
STEPS = 200  # of DiffWave's table
CHANNELS = range(8, 257)  # that it may have
ROUTES = {"spectrograms": [], "waveforms": ["codec=waveform", "network=unet1d"]}  # from modality=audio


class Noise:
    """Noise in the place of spoken digits, which take as long; no data set is needed."""

    name, classes = "noise", CLASSES

    def __init__(self, clips: int, seconds: float) -> None:
        length = -(-round(RATE * seconds) // MULTIPLE) * MULTIPLE
        rng = np.random.default_rng(0)
        x = (0.1 * rng.normal(size=(clips, 1, length))).clip(-1, 1).astype(np.float32)
        self.train = self.val = self.test = ArraySource(x, {"label": np.arange(clips) % len(CLASSES)})
        self.seconds = clips * length / RATE  # of all clips together
        self.facts: dict[str, object] = {
            "sample_rate": RATE,
            "max_length": length,
            "multiple": MULTIPLE,
            "classes": CLASSES,
            "conditions": {"label": CLASSES},
            "lengths": [],
        }

    def describe(self) -> str:
        return f"{len(self.train)} clips of noise"

    def augment(self, batch: Batch, u: Tensor) -> Batch:
        return batch


def waveform_steps(clips: int, seconds: float, rounds: int, device: str = "cpu") -> list[Comparison]:
    """Seconds for each second of sound in a step that begins with waveforms; each route with its peer."""
    data = Noise(clips, seconds)
    batch = data.train.batch(range(clips)).to(device)
    compared = []
    for name, overrides in ROUTES.items():
        run = Run.on(compose("modality=audio", *overrides), data)
        objective, denoiser = run.objective(), run.denoiser.to(device)
        ours = training_step(denoiser, batch, objective, Optimisation(), run.codec.encode)
        network = diffwave(count(run.denoiser), {"label": CLASSES})
        peer = Denoiser(network, LinearBeta(STEPS), Epsilon(num_steps=STEPS)).to(device)
        step = training_step(peer, batch, Objective(Discrete(STEPS)), Optimisation())
        what = f"a second by {name}, {count(denoiser):,} parameters"
        theirs = {f"DiffWave, {count(peer):,}": _per_second(timed(step, device), data.seconds)}
        compared += race(what, _per_second(timed(ours, device), data.seconds), theirs, rounds, 0.1)
    return compared


def diffwave(parameters: int, conditions: Mapping[str, Sequence[str]]) -> nn.Module:
    """DiffWave as published, told the conditions, but for its channels, which make up the number of parameters."""
    build = partial(DiffWave, conditions, layers=30, cycle=10, features=TabledStepFeatures())

    def of_channels(channels: int) -> nn.Module:
        return build(channels=channels)

    with torch.device("meta"):  # each more channel is more parameters
        above = bisect_left(CHANNELS, parameters, key=lambda channels: count(of_channels(channels)))
    return nearest(parameters, of_channels, [(channels,) for channels in CHANNELS[max(above - 1, 0) : above + 1]])


def _per_second(task: Task, seconds: float) -> Task:
    return lambda: task() / seconds
