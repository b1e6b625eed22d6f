"""`edit`: one verb for images, sounds and molecules."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core import random
from core.batch import Batch
from core.denoiser import BaseDenoiser
from core.editing.gradient import PiGDM
from core.editing.measurement import Kept, Measurement, Method
from core.editing.replace import Replace
from core.samplers.loop import Callback, NoiseSource, Sampler, sample

Times = Float[Tensor, " steps_plus_1"]


def edit(
    denoiser: BaseDenoiser,
    sampler: Sampler,
    known: Batch,
    keep: Float[Tensor, "b *k"] | None,
    times: Times,
    *,
    strength: float = 1.0,
    measurement: Measurement | None = None,
    method: Method | None = None,
    seed: int = 0,
    indices: Int[Tensor, " b"] | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "b *s"]:
    """Samples like `known`: what `keep` marks stays, a measurement is followed, noise goes no further than `strength`.

    known: the samples to edit, in diffusion coordinates, with the conditions that the edited ones are to have. keep:
    broadcastable to them; 1 where they stay, exactly (in a space without a centre: relative to the centre of what is
    kept). measurement: instead of keep, y = A x_0. strength: the time in (0, 1] from which sampling begins: at 1 from
    pure noise, so that only keep and measurement remain of `known`; below, from `known` noised to that time (SDEdit,
    Meng et al. 2022, algorithm 1), and the times above it are left out. method: `Replace()` unless given, or `PiGDM()`
    for a measurement. times, seed, indices, callback: as of `core.samplers.sample`.

    With neither keep, measurement nor strength it is `sample`. Returns the edited samples, like known.x.
    """
    if keep is not None and measurement is not None:
        raise ValueError("keep and measurement exclude each other: a measurement may have the kept part in it")
    kept = None if keep is None else Kept(denoiser.space, known, keep)
    follow = measurement or kept
    if follow is None and method is not None:
        raise ValueError(f"{type(method).__name__} has nothing to follow: give keep or a measurement")
    times, start = from_level(times, strength), None
    if strength < 1:
        numbers = (torch.arange(len(known)) if indices is None else indices).to(known.x.device)
        eps = NoiseSource(denoiser, known, numbers, seed)(random.Stream.PRIOR, 0)
        start = denoiser.q_sample(known, times[0], eps)
    if follow is not None:
        method = method or (PiGDM() if kept is None else Replace())
        if method.of_kept and kept is None:
            raise ValueError(f"{type(method).__name__} needs parts that stay: follow a measurement by PiGDM or DPS")
        denoiser, sampler = method(denoiser, sampler, follow)
    x = sample(denoiser, sampler, known, times, seed=seed, indices=indices, start=start, callback=callback)
    return x if kept is None else kept.put(x, known.x)


def from_level(times: Times, strength: float) -> Times:
    """The times below `strength`, and itself before them."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}: must lie in (0, 1]")
    if strength >= float(times[0]):
        return times
    return torch.cat([times.new_tensor([strength]), times[times < strength]])
