"""Sampling with a known formula: which elements there are is known, which atom is which is for the model to find."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from core.denoiser import BaseDenoiser, Cond
from core.guidance import Wrapper, tilted, with_slope
from core.reverse import Denoised
from modalities.molecules.inputs import POSITIONS

SETTLED = 0.0  # log-SNR from which on single atoms' elements can be told: sigma = alpha, in angstrom
SPREAD = 0.06  # of an atom's element score, where nothing is known; in sums over atoms, errors partly cancel
RESOLVED = 0.5  # angstrom: sigma / alpha at which half of that variance is left


class Composed(Wrapper):
    """x_0 led to the formula by a gradient, and its elements given to the atoms as they fit the network's x_0 best.

    The number of atoms of each element is a linear measurement of x_0, so samples are guided as for any inverse problem
    (Song et al. 2023, pseudoinverse guidance): x_0 + sigma^2 / alpha grad log N(counts; sum of the network's x_0, r^2),
    through the network, which moves the positions too. r^2 is what the sum is unsure by: n SPREAD^2 at high noise.

    Keeping the elements of chosen atoms instead, with noise of their own (`core.editing.Replace`), fails: at the
    levels at which bonds are laid an element cannot be seen at its scale of a quarter, so the molecule is built for
    others.

    rows: (B, N, 3 + F), the elements that are known in diffusion coordinates, of atoms in any order.
    """

    def __init__(self, denoiser: BaseDenoiser, rows: Float[Tensor, "b n c"]) -> None:
        super().__init__(denoiser)
        self.rows = rows[..., POSITIONS:]

    def forward(
        self, x_t: Float[Tensor, "b n c"], t: Float[Tensor, " b"], mask: Float[Tensor, "b n 1"], cond: Cond
    ) -> Denoised:
        rows, log_snr = self.rows.to(x_t), self.schedule.log_snr(t[:1])
        noise = torch.exp(-log_snr / 2)  # sigma / alpha

        def log_prob(x0: Float[Tensor, "b n c"]) -> Float[Tensor, " b"]:
            """log p(counts | x_t), up to a constant."""
            missed = rows.sum(1) - x0[..., POSITIONS:].sum(1)
            variance = SPREAD**2 * mask.sum(1) * noise**2 / (noise**2 + RESOLVED**2)
            return -(missed**2 / (2 * variance + 1e-6)).sum(1)

        denoised, slope = with_slope(self.denoiser, x_t, t, mask, cond, log_prob)
        denoised = tilted(self, denoised, slope, t, mask)
        if float(log_snr) < SETTLED:
            return denoised
        found = denoised.x0
        elements = torch.stack([_assigned(*pair) for pair in zip(found[..., POSITIONS:], rows, strict=True)])
        return replace(denoised, x0=torch.cat([found[..., :POSITIONS], elements], dim=-1))


def _assigned(found: Float[Tensor, "n f"], rows: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
    """The rows in the order that is nearest to what was found. Padding comes last in both, and stays."""
    n = int((rows != 0).any(1).sum())
    _, places = linear_sum_assignment(-(found[:n] @ rows[:n].T).double().cpu().numpy())
    return torch.cat([rows[torch.as_tensor(places, device=rows.device)], rows[n:]])
