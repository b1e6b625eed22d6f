"""Molecules led to a property by the gradient of a regressor: see `core.guidance.ClassifierGuided`."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser import Cond
from modalities.molecules.codec import ELEMENT_SCALE
from modalities.molecules.inputs import POSITIONS
from modalities.molecules.regressor import Regressor

SHARPNESS = 8.0  # of the choice among elements: a score of 1 beside zeros counts for more than .998


class Property(nn.Module):
    """log N(target; f(x_0), tolerance^2 + spread^2 |grad f|^2), up to a constant, for a property f of molecules.

    regressor: a file of `python -m modalities.molecules.regressor`, or what is in it. Nothing in it is unpickled.
    target, tolerance: in the units of the data that the regressor has learned from. spread: how far the denoised data
    may be from the truth, in diffusion coordinates: f is then no surer than its slope lets it be, and where it is steep
    it does not tear molecules apart. Its variance is taken as it is, without a gradient of its own. name: of the
    property, where the regressor knows several. scale: of the one-hot elements in diffusion coordinates, the codec's.

    Elements are decoded by a softmax of their scores, so that the gradient moves them too and f never sees what is no
    mixture of elements. Their columns must be the regressor's, in its order.
    """

    def __init__(
        self,
        regressor: str | Path | Regressor,
        target: float,
        tolerance: float = 0.5,
        spread: float = 0.1,
        name: str | None = None,
        scale: float = ELEMENT_SCALE,
    ) -> None:
        super().__init__()
        if not math.isfinite(target):
            raise ValueError(f"target={target}: must be a finite number")
        if not (0 < tolerance < math.inf and 0 <= spread < math.inf):
            raise ValueError(f"tolerance={tolerance}, spread={spread}: must be above 0, and at least 0")
        self.regressor = regressor if isinstance(regressor, Regressor) else Regressor.load(regressor)
        self.regressor.requires_grad_(False)
        known = list(self.regressor.properties)
        if name not in known and (name is not None or len(known) > 1):
            raise ValueError(f"name={name}: the regressor knows {', '.join(known)}")
        self.column = 0 if name is None else known.index(name)
        self.target, self.tolerance, self.spread, self.scale = target, tolerance, spread, scale

    def forward(self, x0: Float[Tensor, "b n c"], mask: Float[Tensor, "b n 1"], cond: Cond) -> Float[Tensor, " b"]:
        with torch.enable_grad():
            x = x0 if x0.requires_grad else x0.detach().requires_grad_()
            found = self.found(x, mask)
            (slope,) = torch.autograd.grad(found.sum(), x, retain_graph=True)
        variance = self.tolerance**2 + self.spread**2 * slope.detach().square().flatten(1).sum(1)
        return -((found - self.target) ** 2) / (2 * variance)

    def found(self, x0: Float[Tensor, "b n c"], mask: Float[Tensor, "b n 1"]) -> Float[Tensor, " b"]:
        """f of denoised molecules in diffusion coordinates."""
        elements = len(self.regressor.elements)
        if x0.shape[-1] < POSITIONS + elements:
            raise ValueError(f"{x0.shape[-1] - POSITIONS} columns of elements, but the regressor knows {elements}")
        scores = x0[..., POSITIONS : POSITIONS + elements] / self.scale
        soft = torch.cat([x0[..., :POSITIONS], (SHARPNESS * scores).softmax(-1) * mask], dim=-1)
        weights = self.regressor.out.weight
        standardised = self.regressor(soft.to(weights), mask.to(weights))[:, self.column].to(x0)
        mean, std = list(self.regressor.properties.values())[self.column]
        return mean + std * standardised
