"""Noise schedules: one curve, the log signal-to-noise ratio over time, and a scale.

    x_t = alpha_t x_0 + sigma_t eps,      log_snr(t) = log(alpha_t^2 / sigma_t^2),      t = 0 data, t = 1 noise

Everything else (a table of betas, the transition s -> t, Karras' sigma = sigma_t / alpha_t) follows from these.
Times and coefficients are float64 on the CPU for sampling grids and float32 inside the network; each method keeps the
dtype and the device of its argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Times = Float[Tensor, "*batch"]


class Schedule:
    """A decreasing curve log_snr(t) on [0, 1] and a scale; variance-preserving unless a subclass says otherwise.

    log_snr_min, log_snr_max: the finite ends, in nats. The curve is clamped from below at `log_snr_min`, so that
    t = 1 is almost pure noise with alpha > 0; it reaches +inf at t = 0, the data. Training draws its times between
    the ends; time grids that are laid out in log-SNR span them and then step to t = 0.
    A subclass gives the natural curve (`_log_snr`) and its inverse (`_inverse`).
    """

    def __init__(self, log_snr_min: float, log_snr_max: float) -> None:
        if not (math.isfinite(log_snr_min) and math.isfinite(log_snr_max) and log_snr_min < log_snr_max):
            raise ValueError(f"log_snr_min={log_snr_min}, log_snr_max={log_snr_max}: need two finite, increasing ends")
        self.log_snr_min, self.log_snr_max = log_snr_min, log_snr_max

    def _log_snr(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _inverse(self, log_snr: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def ends(self) -> tuple[float, float]:
        """(lowest, highest) finite log-SNR, of training and of time grids."""
        return self.log_snr_min, self.log_snr_max

    def log_snr(self, t: Times) -> Times:
        """log(alpha_t^2 / sigma_t^2) for t in [0, 1]; +inf at 0 (t = 0 *is* the data), at least `log_snr_min`."""
        return torch.where(t > 0, self._log_snr(t).clamp(min=self.log_snr_min), math.inf)

    def inverse(self, log_snr: Times) -> Times:
        """The time t in [0, 1] at which the curve passes `log_snr`."""
        return self._inverse(log_snr).clamp(0, 1)

    def alpha_sigma(self, log_snr: Times) -> tuple[Times, Times]:
        """(alpha, sigma) at a log-SNR: the scale. Here alpha^2 + sigma^2 = 1."""
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()

    def moved(self, t: Times, log_snr_shift: float) -> Times:
        """The times whose log-SNR on the natural, unclamped curve is that of t plus `log_snr_shift`."""
        return self._inverse(self._log_snr(t) + log_snr_shift)

    def __call__(self, t: Times) -> tuple[Times, Times]:
        """(alpha_t, sigma_t)."""
        return self.alpha_sigma(self.log_snr(t))

    def transition(self, s: Times, t: Times) -> tuple[Times, Times]:
        """(alpha_ts, var_ts) of q(x_t | x_s) = N(alpha_ts x_s, var_ts), for s < t (Kingma et al. 2021, eq. 18-19)."""
        log_snr_s, log_snr_t = self.log_snr(s), self.log_snr(t)
        (alpha_s, _), (alpha_t, sigma_t) = self.alpha_sigma(log_snr_s), self.alpha_sigma(log_snr_t)
        return alpha_t / alpha_s, -(sigma_t**2) * torch.expm1(log_snr_t - log_snr_s)


class Cosine(Schedule):
    """alpha_t = cos(pi t / 2), sigma_t = sin(pi t / 2): log_snr = -2 log tan(pi t / 2)."""

    def __init__(self, log_snr_min: float = -9.0, log_snr_max: float = 9.0) -> None:
        super().__init__(log_snr_min, log_snr_max)

    def _log_snr(self, t: Tensor) -> Tensor:
        # cos(pi/2) is negative in float32: clamp inside the logarithm, not its output
        angle = t * (math.pi / 2)
        return 2 * (angle.cos().clamp(min=torch.finfo(t.dtype).tiny).log() - angle.sin().log())

    def _inverse(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


class LinearPath(Schedule):
    """alpha_t = 1 - t, sigma_t = t: the straight path of flow matching (Lipman et al. 2023; Liu et al. 2023)."""

    def __init__(self, log_snr_min: float = -14.0, log_snr_max: float = 14.0) -> None:
        super().__init__(log_snr_min, log_snr_max)

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def _inverse(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)

    def alpha_sigma(self, log_snr: Times) -> tuple[Times, Times]:
        """Here alpha + sigma = 1."""
        return torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2)


class VarianceExploding(Schedule):
    """alpha_t = 1, sigma_t = sigma_max t^rho: the noise levels of Karras et al. 2022, eq. 5, ending at 0."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: need 0 < sigma_min < sigma_max")
        super().__init__(-2 * math.log(sigma_max), -2 * math.log(sigma_min))
        self.rho = rho

    def _log_snr(self, t: Tensor) -> Tensor:
        return self.log_snr_min - 2 * self.rho * t.log()

    def _inverse(self, log_snr: Tensor) -> Tensor:
        return torch.exp((self.log_snr_min - log_snr) / (2 * self.rho))

    def alpha_sigma(self, log_snr: Times) -> tuple[Times, Times]:
        """Here alpha = 1."""
        return torch.ones_like(log_snr), torch.exp(-log_snr / 2)


class PolynomialAlpha(Schedule):
    """alpha_t^2 = (1 - 2 precision) (1 - t^power)^2 + precision (Hoogeboom et al. 2022, appendix B), for molecules.

    The highest level is that of t = `t_min`, the first of the paper's 1000 steps: t = 0 is the data itself.
    """

    def __init__(self, power: float = 2.0, precision: float = 1e-5, t_min: float = 1e-3) -> None:
        if not (power > 0 and 0 < precision < 0.5):
            raise ValueError(f"power={power}, precision={precision}: need power > 0 and precision in (0, 0.5)")
        self.power, self.precision = power, precision
        end = math.log1p(-precision) - math.log(precision)
        super().__init__(-end, float(self._log_snr(torch.tensor(t_min, dtype=torch.float64))))

    def _log_snr(self, t: Tensor) -> Tensor:
        square = (1 - 2 * self.precision) * (1 - t**self.power) ** 2 + self.precision
        return square.log() - torch.log1p(-square)

    def _inverse(self, log_snr: Tensor) -> Tensor:
        square = (log_snr.sigmoid() - self.precision) / (1 - 2 * self.precision)
        return (1 - square.clamp(0, 1).sqrt()) ** (1 / self.power)


class BetaTable(Schedule):
    """Any table of T betas, q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t); step i from 0 is t = (i + 1) / T.

    Between two steps the log-SNR is interpolated linearly; before the first, sigma_t^2 / alpha_t^2 grows linearly from
    0 at t = 0. So fewer sampling steps are a coarser list of times, never a second table.

    betas: (T,), each in (0, 1].
    """

    def __init__(self, betas: Sequence[float] | Float[Tensor, " steps"], log_snr_min: float = -20.0) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas <= 1)).all()):
            raise ValueError(f"betas must be at least two numbers in (0, 1], got {betas}")
        log_alpha_bar = torch.log1p(-betas).cumsum(0)
        knots = (log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))).clamp(min=log_snr_min)
        super().__init__(float(knots[-1]), float(knots[0]))
        self.betas, self.num_steps = betas, len(betas)
        self._knots = {betas.device: knots}  # one copy per device, so that training does not transfer it at each step

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._knots:
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._knots[device] = self._knots[torch.device("cpu")].to(device, dtype)
        return self._knots[device]

    def _log_snr(self, t: Tensor) -> Tensor:
        knots = self._table(t.device)
        step = t.to(knots.dtype) * self.num_steps - 1  # the paper's 0-based step, not rounded
        i = step.floor().clamp(0, self.num_steps - 2).long()
        inside = torch.lerp(knots[i], knots[i + 1], step - i)
        return torch.where(step < 0, knots[0] - torch.log(step + 1), inside).to(t.dtype)

    def _inverse(self, log_snr: Tensor) -> Tensor:
        knots = self._table(log_snr.device)
        wanted = log_snr.to(knots.dtype)
        i = (torch.searchsorted(-knots, -wanted) - 1).clamp(0, self.num_steps - 2)
        drop = (knots[i] - knots[i + 1]).clamp(min=torch.finfo(knots.dtype).tiny)
        step = i + ((knots[i] - wanted) / drop).clamp(0, 1)
        before = torch.exp((knots[0] - wanted).clamp(max=0)) - 1
        return ((torch.where(wanted > knots[0], before, step) + 1) / self.num_steps).to(log_snr.dtype)


class LinearBeta(BetaTable):
    """Ho et al. 2020: `num_steps` betas equally spaced from `beta_start` to `beta_end`."""

    def __init__(self, num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        super().__init__(torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64))


class CosineBeta(BetaTable):
    """Nichol & Dhariwal 2021, eq. 17: alpha_bar = cos^2((t + offset) / (1 + offset) pi / 2), no beta above `cap`."""

    def __init__(self, num_steps: int = 1000, offset: float = 0.008, cap: float = 0.999) -> None:
        t = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((t + offset) / (1 + offset) * (math.pi / 2)) ** 2
        super().__init__((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=cap))


class SigmoidBeta(BetaTable):
    """Betas on a sigmoid over [-width, width], from `beta_start` to `beta_end` (Xu et al. 2022, GeoDiff)."""

    def __init__(
        self, num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, width: float = 6.0
    ) -> None:
        ramp = torch.linspace(-width, width, num_steps, dtype=torch.float64).sigmoid()
        super().__init__(beta_start + (beta_end - beta_start) * ramp)


class Shifted(Schedule):
    """Another schedule with its log-SNR moved by `log_snr_shift` at every time, between the same ends.

    Negative shifts put more of the time at high noise, as larger images need (Hoogeboom et al. 2023, simple diffusion).
    """

    def __init__(self, schedule: Schedule, log_snr_shift: float) -> None:
        super().__init__(schedule.log_snr_min, schedule.log_snr_max)
        self.schedule, self.log_snr_shift = schedule, log_snr_shift

    def _log_snr(self, t: Tensor) -> Tensor:
        # the natural curve, not the clamped one: else an upward shift would lift the end above `log_snr_min`
        return self.schedule._log_snr(t) + self.log_snr_shift

    def _inverse(self, log_snr: Tensor) -> Tensor:
        return self.schedule._inverse(log_snr - self.log_snr_shift)

    def alpha_sigma(self, log_snr: Times) -> tuple[Times, Times]:
        return self.schedule.alpha_sigma(log_snr)
