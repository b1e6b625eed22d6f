"""What is known of a sample: a linear measurement of it, y = A x_0 + std z; and how sampling is made to follow it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from core.denoiser import BaseDenoiser
from core.samplers.loop import Denoise, Noise, Sampler, Time
from core.space import Space

X = Float[Tensor, "b *s"]
Y = Float[Tensor, "b *y"]


class Operator:
    """A: a linear map of samples in diffusion coordinates, each sample for itself: holes, blur, fewer pixels."""

    def __call__(self, x: X) -> Y:
        """A x."""
        raise NotImplementedError


class Measurement:
    """y = A x_0 + std z of every sample.

    operator: A, an `Operator` or any linear function that torch can differentiate. observed: y, in the units of A z for
    z in diffusion coordinates. std: of the measurement's noise; 0 is exact.
    """

    def __init__(self, operator: Callable[[X], Y], observed: Y, std: float = 0.0) -> None:
        if std < 0:
            raise ValueError(f"std={std}: must not be negative")
        self.operator, self.observed, self.std = operator, observed, std

    def of(self, rows: slice) -> Measurement:
        """The same of some of the samples."""
        return Measurement(self.operator, self.observed[rows], self.std)

    def to(self, device: torch.device | str) -> Measurement:
        """The same on another device; an operator with tensors of its own follows its argument's."""
        return Measurement(self.operator, self.observed.to(device), self.std)

    def residual(self, x0: X) -> Y:
        """y - A x_0."""
        return self.observed - self.operator(x0)

    def adjoint(self, like: X) -> Callable[[Y], X]:
        """y -> A^T y, for samples shaped like `like`."""
        with torch.enable_grad():
            leaf = torch.zeros_like(like, requires_grad=True)
            image = self.operator(leaf)

        def transposed(y: Y) -> X:
            (back,) = torch.autograd.grad(image, leaf, y, retain_graph=True)
            return back

        return transposed


class Kept(Measurement):
    """Some of a sample's elements, known exactly: A = K, the space's projector onto them.

    known: values in diffusion coordinates; keep: broadcastable to them, 1 where they stay. In a space without a centre,
    points are kept relative to the centre of the kept ones: where that is, is for the model to find.
    """

    def __init__(self, space: Space, known: Batch, keep: Tensor) -> None:
        if not bool(((keep == 0) | (keep == 1)).all()):
            raise ValueError("keep must be 1 where elements stay and 0 elsewhere")
        if not bool(((keep.expand_as(known.x) * known.mask).flatten(1).sum(1) > 0).all()):
            raise ValueError("keep has a sample of which nothing is kept")
        projector = space.restrict(keep)

        def operator(x: X) -> X:
            return projector.project(x, known.mask)

        super().__init__(operator, operator(known.x))
        self.known, self.keep = known, keep

    def put(self, x: X, values: X) -> X:
        """x with its kept part replaced by that of `values`: x + K (values - x), which stays in the space."""
        return x + self.operator(values - x)

    def step(self, sampler: Sampler, denoise: Denoise, x_t: X, t: Time, s: Time, noise: Noise) -> X:
        """A step of the sampler, then the kept part of x_s a draw of q(x_s | known): Lugmayr et al. 2022, eq. 8."""
        x_s, _ = sampler.step(denoise, x_t, t, s, None, noise)
        return self.put(x_s, noised(denoise, self.known.x, s, noise))


def noised(denoise: Denoise, x0: X, t: Time, noise: Noise) -> X:
    """A draw of q(x_t | x_0); x_0 itself, without a draw, at t = 0."""
    alpha_t, sigma_t = denoise.schedule(t)
    return alpha_t * x0 + sigma_t * noise() if t > 0 else x0


class Method:
    """How sampling is made to follow a measurement: a denoiser and a sampler in place of the given ones.

    of_kept: whether it can follow parts of the sample alone, a `Kept`.
    """

    of_kept = False

    def __call__(
        self, denoiser: BaseDenoiser, sampler: Sampler, measurement: Measurement
    ) -> tuple[BaseDenoiser, Sampler]:
        raise NotImplementedError


Columns = float | Sequence[float]  # a number for all columns of the last axis, or one for each


def check_columns(name: str, values: Columns) -> None:
    """ValueError unless all are positive."""
    if not bool((torch.as_tensor(values) > 0).all()):
        raise ValueError(f"{name}={values}: must be positive")


def of_columns(name: str, values: Columns, x: X) -> Tensor:
    """As a tensor that broadcasts to x. ValueError for another number of values than x has columns."""
    tensor = torch.as_tensor(values).to(x)
    if tensor.ndim and tensor.shape != x.shape[-1:]:
        raise ValueError(f"{name} has {len(tensor)} values, but the last axis of a sample has {x.shape[-1]} columns")
    return tensor
