"""From data back to the noise that DDIM makes it of."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.denoiser import BaseDenoiser
from core.process import eps_from_x_0, move_along_eps
from core.samplers.loop import Callback, Denoise, X


@torch.no_grad()
def invert(
    denoiser: BaseDenoiser,
    batch: Batch,
    times: Float[Tensor, " steps_plus_1"],
    *,
    refinements: int = 2,
    callback: Callback | None = None,
) -> X:
    """x at times[-1] from which `DDIM()` over the reversed times leads to the data: Song, Meng & Ermon 2021, sec. 4.3.

    batch: data in diffusion coordinates. times: increasing, from 0. A step s -> t solves DDIM's own step t -> s for
    x_t, whose noise is evaluated at x_t itself: by fixed-point iteration, which without `refinements` is the usual
    inversion. The first step, from t = 0, has no noise to follow yet: x = alpha x_0 at times[1]. Evaluations:
    (len(times) - 2) (1 + refinements).
    """
    if len(times) < 2 or bool((times.diff() <= 0).any()) or times[0] != 0 or times[-1] > 1:
        raise ValueError(f"times must increase from 0 within [0, 1], got {times.tolist()}")
    if refinements < 0:
        raise ValueError(f"refinements={refinements}: must not be negative")
    schedule, denoise = denoiser.schedule, Denoise(denoiser, batch)
    told = callback or (lambda done, t, x: None)
    told(0, times[0], batch.x)
    x_s = schedule(times[1])[0] * batch.x
    told(1, times[1], x_s)
    for i, (s, t) in enumerate(pairwise(times[1:])):
        x_t = schedule(t)[0] / schedule(s)[0] * x_s  # where the path would be without noise
        for _ in range(1 + refinements):
            eps = eps_from_x_0(schedule, x_t, denoise(x_t, t).x0, t)
            x_t = move_along_eps(schedule, x_s, eps, s, t)
        x_s = x_t
        told(i + 2, t, x_s)
    return x_s
