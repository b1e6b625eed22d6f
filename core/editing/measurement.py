"""What is known of a sample: a linear measurement of it, y = A x_0 + std z."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.denoiser import BaseDenoiser
from core.samplers.loop import Sampler
from core.space import Space

X = Float[Tensor, "b *s"]
Y = Float[Tensor, "b *y"]


class Operator:
    """A: a linear map of samples in diffusion coordinates, each sample for itself: holes, blur, fewer pixels."""

    def __call__(self, x: X) -> Y:
        """A x."""
        raise NotImplementedError


@dataclass(frozen=True)
class Measurement:
    """y = A x_0 + std z of every sample.

    operator: A, an `Operator` or any linear function that torch can differentiate. observed: y, in the units of A z for
    z in diffusion coordinates. std: of the measurement's noise; 0 is exact.
    """

    operator: Callable[[X], Y]
    observed: Y
    std: float = 0.0

    def __post_init__(self) -> None:
        if self.std < 0:
            raise ValueError(f"std={self.std}: must not be negative")

    def of(self, rows: slice) -> Measurement:
        """The same of some of the samples."""
        return Measurement(self.operator, self.observed[rows], self.std)

    def to(self, device: torch.device | str) -> Measurement:
        """The same on another device; an operator with tensors of its own follows its argument's."""
        return Measurement(self.operator, self.observed.to(device), self.std)

    def residual(self, x0: X) -> Y:
        """y - A x_0."""
        return self.observed - self.operator(x0)

    def adjoint(self, x: X) -> tuple[Y, Callable[[Y], X]]:
        """A x and the function y -> A^T y, for samples shaped like x."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            image = self.operator(leaf)

        def transposed(y: Y) -> X:
            (back,) = torch.autograd.grad(image, leaf, y, retain_graph=True)
            return back

        return image.detach(), transposed


class Method:
    """How sampling is made to follow a measurement: a denoiser and a sampler in place of the given ones."""

    def __call__(
        self, denoiser: BaseDenoiser, sampler: Sampler, measurement: Measurement
    ) -> tuple[BaseDenoiser, Sampler]:
        raise NotImplementedError


class Kept(Measurement):
    """Some of a sample's elements, known exactly: A = K, the space's projector onto them.

    known: values in diffusion coordinates; keep: broadcastable to them, 1 where they stay. In a space without a centre,
    points are kept relative to the centre of the kept ones: where that is, is for the model to find.
    """

    keep: Tensor
    known: Batch

    def __init__(self, space: Space, known: Batch, keep: Tensor) -> None:
        entire = keep.expand_as(known.x) * known.mask
        if not bool(((keep == 0) | (keep == 1)).all()):
            raise ValueError("keep must be 1 where elements stay and 0 elsewhere")
        if not bool((entire.flatten(1).sum(1) > 0).all()):
            raise ValueError("keep has a sample of which nothing is kept")
        projector = space.restrict(keep)

        def operator(x: X) -> X:
            return projector.project(x, known.mask)

        super().__init__(operator, operator(known.x))
        object.__setattr__(self, "keep", keep)
        object.__setattr__(self, "known", known)

    def put(self, x: X, values: X) -> X:
        """x with its kept part replaced by that of `values`: x + K (values - x), which stays in the space."""
        return x + self.operator(values - x)
