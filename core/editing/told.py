"""A network that has been trained with parts kept is told which they are: nothing else has to be done."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from core.batch import expand
from core.denoiser import BaseDenoiser, Cond
from core.editing.measurement import Kept, Measurement, Method
from core.guidance import Wrapper
from core.reverse import Denoised
from core.samplers.loop import Sampler


@dataclass(frozen=True)
class Told(Method):
    """The kept part enters the network without noise, alpha_t K x_0, and `cond["keep"]` says which part it is.

    What is drawn follows p(rest | kept) as the network has learned it (`Denoiser.loss` with `cond["keep"]`), at one
    evaluation a step and with any sampler: diffusion in `space.beside(keep)`. ValueError for a network that has not
    been trained so.
    """

    of_kept = True

    def __call__(
        self, denoiser: BaseDenoiser, sampler: Sampler, measurement: Measurement
    ) -> tuple[BaseDenoiser, Sampler]:
        assert isinstance(measurement, Kept)
        if not any(getattr(part, "kept", False) is True for part in denoiser.modules()):
            raise ValueError("Told needs a network that has been trained with kept parts; Replace works with any")
        return _Telling(denoiser, measurement), sampler


class _Telling(Wrapper):
    def __init__(self, denoiser: BaseDenoiser, known: Kept) -> None:
        super().__init__(denoiser)
        self.known = known

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: Cond) -> Denoised:
        known, x_0 = self.known, self.known.known.x
        alpha_t, _ = self.schedule(t)
        x_t = known.put(x_t, expand(alpha_t, x_t) * x_0)
        denoised = self.denoiser(x_t, t, mask, {**cond, "keep": known.keep})
        return replace(denoised, x0=known.put(denoised.x0, x_0))
