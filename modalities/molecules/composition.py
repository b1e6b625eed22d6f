"""Sampling with a known formula: which elements there are is known, which atom is which is for the model to find."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from core.denoiser import BaseDenoiser, Cond
from core.guidance import Wrapper
from core.reverse import Denoised

POSITIONS = 3  # columns before the elements
SETTLED = 0.0  # log-SNR from which on single atoms' elements can be told: sigma = alpha, in angstrom


class Composed(Wrapper):
    """x_0 with the elements of a formula, given to the atoms as they fit the network's x_0 best.

    Early, while x_0 says nothing of single atoms yet, its elements are only moved to the formula's shares. Keeping the
    elements of chosen atoms instead, with noise of their own (`core.editing.Known`), does not work: at the levels at
    which bonds are laid, an element at a quarter of an angstrom's scale cannot be seen, so the molecule is built for
    others.

    rows: (B, N, 3 + F), the elements that are known in diffusion coordinates, of atoms in any order.
    """

    def __init__(self, denoiser: BaseDenoiser, rows: Float[Tensor, "b n c"]) -> None:
        super().__init__(denoiser)
        self.rows = rows[..., POSITIONS:]

    def forward(
        self, x_t: Float[Tensor, "b n c"], t: Float[Tensor, " b"], mask: Float[Tensor, "b n 1"], cond: Cond
    ) -> Denoised:
        denoised = self.denoiser(x_t, t, mask, cond)
        found, rows = denoised.x0[..., POSITIONS:], self.rows.to(denoised.x0)
        if float(self.schedule.log_snr(t[:1])) < SETTLED:
            elements = found + (rows - found).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        else:
            elements = torch.stack([_assigned(*pair) for pair in zip(found, rows, strict=True)])
        x0 = torch.cat([denoised.x0[..., :POSITIONS], elements * mask], dim=-1)
        return replace(denoised, x0=x0)


def _assigned(found: Float[Tensor, "n f"], rows: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
    """The rows in the order that is nearest to what was found. Padding, zero in both, counts as one more element."""
    padding = (rows == 0).all(1)
    cost = -(found @ rows.T)
    # a padded atom takes a padded row: both come last, and equally many
    n = int((~padding).sum())
    _, places = linear_sum_assignment(cost[:n, :n].double().cpu().numpy())
    return torch.cat([rows[torch.as_tensor(places, device=rows.device)], rows[n:]])
