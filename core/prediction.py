"""What the network outputs: one linear combination F of the data and the noise, which each class states in one line.

    F = w_x x_0 + w_eps eps     with     x_t = alpha_t x_0 + sigma_t eps

Solving the two equations for x_0 gives the denoiser (Karras et al. 2022, eq. 7) of every one of them:

    x_0 = c_skip x_t + c_out F(c_in x_t, c_noise),
    c_out = sigma_t / d,  c_skip = -w_eps / d,  d = sigma_t w_x - alpha_t w_eps
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Level = Float[Tensor, "b *ones"]  # a per-sample number, already broadcastable against x


class Prediction:
    """The network's output F = w_x x_0 + w_eps eps, and how its input is scaled and its noise level told.

    num_steps: None hands the network the log-SNR as c_noise; a number T hands it the paper's 0-based step, t T - 1.
    """

    def __init__(self, num_steps: int | None = None) -> None:
        self.num_steps = num_steps

    def target_weights(self, alpha: Level, sigma: Level) -> tuple[Level, Level]:
        """(w_x, w_eps)."""
        raise NotImplementedError

    def target(self, x_0: Tensor, eps: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """F for known data and noise: what the network is trained to output."""
        w_x, w_eps = self.target_weights(alpha, sigma)
        return w_x * x_0 + w_eps * eps

    def c_skip_out(self, alpha: Level, sigma: Level) -> tuple[Level, Level]:
        """(c_skip, c_out)."""
        w_x, w_eps = self.target_weights(alpha, sigma)
        determinant = sigma * w_x - alpha * w_eps
        return -w_eps / determinant, sigma / determinant

    def c_in(self, alpha: Level, sigma: Level) -> Level:
        """Keeps the network's input at unit variance for data of unit variance; exactly 1 if alpha^2 + sigma^2 = 1."""
        return torch.rsqrt(alpha**2 + sigma**2)

    def c_noise(self, log_snr: Float[Tensor, " b"], t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return log_snr if self.num_steps is None else t * self.num_steps - 1


class Epsilon(Prediction):
    """F = eps, the noise: Ho et al. 2020, eq. 11."""

    def target_weights(self, alpha: Level, sigma: Level) -> tuple[Level, Level]:
        return torch.zeros_like(sigma), torch.ones_like(sigma)


class Sample(Prediction):
    """F = x_0, the data."""

    def target_weights(self, alpha: Level, sigma: Level) -> tuple[Level, Level]:
        return torch.ones_like(sigma), torch.zeros_like(sigma)


class Velocity(Prediction):
    """F = v = alpha_t eps - sigma_t x_0: Salimans & Ho 2022, appendix D."""

    def target_weights(self, alpha: Level, sigma: Level) -> tuple[Level, Level]:
        return -sigma, alpha


class Flow(Prediction):
    """F = eps - x_0, the velocity dx_t / dt of the straight path (`LinearPath`)."""

    def target_weights(self, alpha: Level, sigma: Level) -> tuple[Level, Level]:
        return -torch.ones_like(sigma), torch.ones_like(sigma)

    def c_in(self, alpha: Level, sigma: Level) -> Level:
        return torch.ones_like(sigma)


class Karras(Prediction):
    """The preconditioning of Karras et al. 2022, table 1, for any scale: F has unit variance at every noise level.

    sigma_data: the standard deviation of the data, a number, or one per column (the last axis of x).
    """

    def __init__(self, sigma_data: float | Sequence[float] = 0.5, num_steps: int | None = None) -> None:
        super().__init__(num_steps)
        self.sigma_data = torch.as_tensor(sigma_data, dtype=torch.float64)
        if not bool((self.sigma_data > 0).all()):
            raise ValueError(f"sigma_data={sigma_data}: standard deviations must be positive")

    def _scales(self, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        sigma_data = self.sigma_data.to(alpha.device, alpha.dtype)
        return sigma_data, torch.sqrt((alpha * sigma_data) ** 2 + sigma**2)

    def target_weights(self, alpha: Level, sigma: Level) -> tuple[Level, Level]:
        sigma_data, total = self._scales(alpha, sigma)
        return sigma / (sigma_data * total), -alpha * sigma_data / total

    def c_in(self, alpha: Level, sigma: Level) -> Level:
        return 1 / self._scales(alpha, sigma)[1]
