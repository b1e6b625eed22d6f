"""Equal Gaussians in the plane, and what learns to draw from them in a given CPU time: a GAN and our diffusion.

The GAN is that of Metz et al. 2017 (Unrolled GAN, appendix A) without unrolling, as VEEGAN and PacGAN compare with: a
generator of 2 hidden layers of 128 ReLU, a discriminator, orthogonal weights of gain .8, Adam at a constant rate. What
differs: its discriminator has 2 such layers too (Metz et al. 1, PacGAN 3); its latent is of 2 numbers, as in PacGAN's
code. Batches are of 256 on both sides (Metz et al. 256 and 512; PacGAN's code 100).

Both work on data of standard deviation 1. Both may be shown waves of x, sines and cosines, which a perceptron needs to
bend fast: the denoiser, and the discriminator.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.common import count
from core.batch import Batch
from core.denoiser import Cond, Denoiser
from core.descent import Descent, Update
from core.levels import LogNormal
from core.module import Optimisation
from core.prediction import Karras
from core.samplers import Heun, sample
from core.schedules import Cosine
from core.times import LogSNR
from core.weighting import NetworkLoss

BATCH, WIDTH, LATENT = 256, 128, 2
STEPS = 20  # of Heun's method
EMA = 0.999


@dataclass(frozen=True)
class Modes:
    """Equal, round Gaussians of equal weight in the plane."""

    centres: Float[Tensor, "k 2"]
    std: float

    def draw(self, n: int) -> Float[Tensor, "n 2"]:
        return self.centres[torch.randint(len(self.centres), (n,))] + self.std * torch.randn(n, 2)

    @property
    def scale(self) -> float:
        """The data's standard deviation, of each coordinate."""
        return math.sqrt(float(self.centres.square().mean()) + self.std**2)


_angles = torch.arange(8) * (math.pi / 4)
SETS = {  # as in PacGAN's code
    "grid": Modes(torch.tensor([[i, j] for i in range(-4, 5, 2) for j in range(-4, 5, 2)]).float(), 0.05),
    "ring": Modes(torch.stack([_angles.cos(), _angles.sin()], 1), 0.01),
}


def perceptron(inputs: int, hidden: int, outputs: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """`hidden` layers of `WIDTH`."""
    sizes = [inputs, *[WIDTH] * hidden]
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


class Waves(nn.Module):
    """x and, of its first two columns, sines and cosines at the frequencies 2^lowest, ..., 2^(highest - 1)."""

    def __init__(self, lowest: int, highest: int) -> None:
        super().__init__()
        self.register_buffer("rates", 2.0 ** torch.arange(lowest, highest))

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b d"]:
        angles = (x[:, :2, None] * self.rates).flatten(1)
        return torch.cat([x, angles.sin(), angles.cos()], 1)


def shown(
    waves: bool, hidden: int, outputs: int, activation: type[nn.Module] = nn.ReLU, more: int = 0
) -> nn.Sequential:
    """A perceptron of points in the plane and `more` numbers, with or without waves of the points."""
    if not waves:
        return perceptron(2 + more, hidden, outputs, activation)
    return nn.Sequential(Waves(0, 5), *perceptron(2 + more + 2 * 2 * 5, hidden, outputs, activation))


class Setting(NamedTuple):
    optimisation: Optimisation
    waves: bool


class Trained(NamedTuple):
    """draw: n samples by the weights, or by their average. parameters: of all networks that were trained."""

    draw: dict[str, Callable[[int], Tensor]]
    steps: int
    seconds: float
    parameters: int


def train_gan(modes: Modes, setting: Setting, seconds: float, seed: int) -> Trained:
    """The standard game with the loss that does not saturate: Goodfellow et al. 2014, section 3."""
    generator, discriminator = perceptron(LATENT, 2, 2), shown(setting.waves, 2, 1)
    for layer in [*generator, *discriminator]:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, 0.8)
            nn.init.zeros_(layer.bias)
    move_generator, move_discriminator = (
        Update(generator, setting.optimisation),
        Descent(discriminator, setting.optimisation),
    )

    def step() -> None:
        fake = generator(torch.randn(BATCH, LATENT))
        real_or_fake = discriminator(torch.cat([modes.draw(BATCH) / modes.scale, fake.detach()]))
        move_discriminator((softplus(-real_or_fake[:BATCH]) + softplus(real_or_fake[BATCH:])).mean())
        discriminator.requires_grad_(False)
        move_generator(softplus(-discriminator(fake)).mean())
        discriminator.requires_grad_(True)

    taken = _train(step, seconds)
    draw = {
        name: lambda n, network=network: modes.scale * network(torch.randn(n, LATENT))
        for name, network in {"weights": generator, "average": move_generator.average}.items()
    }
    return Trained(draw, move_generator.steps, taken, count(generator) + count(discriminator))


class Told(nn.Module):
    """A perceptron that is told the log-SNR, as waves."""

    def __init__(self, waves: bool) -> None:
        super().__init__()
        self.level, self.layers = Waves(-4, 1), shown(waves, 3, 2, nn.SiLU, 1 + 2 * 5)

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: Cond) -> Tensor:
        return self.layers(torch.cat([x, self.level(c_noise[:, None])], 1))


def train_diffusion(modes: Modes, setting: Setting, seconds: float, seed: int) -> Trained:
    """The objective of Karras et al. 2022, on a variance-preserving path."""
    denoiser = Denoiser(Told(setting.waves), Cosine(-9.0, 10.0), Karras(1.0), weighting=NetworkLoss())
    levels, update, strata = LogNormal(), Update(denoiser, setting.optimisation), torch.arange(BATCH)

    def step() -> None:
        u = (strata + torch.rand(BATCH).clamp(1e-3, 1 - 1e-3)) / BATCH
        x_0 = modes.draw(BATCH) / modes.scale
        t = levels(u, denoiser.schedule)
        update(denoiser.loss(Batch.full(x_0), t, torch.randn_like(x_0)).mean())

    def drawn(model: Denoiser, n: int) -> Tensor:
        template, times = Batch.full(torch.zeros(n, 2)), LogSNR(STEPS)(model.schedule)
        return modes.scale * sample(model, Heun(), template, times, seed=seed)

    taken = _train(step, seconds)
    draw = {"weights": lambda n: drawn(denoiser, n), "average": lambda n: drawn(update.average, n)}
    return Trained(draw, update.steps, taken, count(denoiser))


def _train(step: Callable[[], None], seconds: float) -> float:
    """Steps until the CPU seconds are over; returns those taken."""
    begun = time.process_time()
    while (taken := time.process_time() - begun) < seconds:
        step()
    return taken


def _settings(rates: tuple[float, float], beta_1: float, clip_norm: float | None) -> dict[str, Setting]:
    """Two learning rates, each with waves and without."""
    return {
        f"lr {lr:g}, {'waves' if waves else 'no waves'}": Setting(
            Optimisation(lr, (beta_1, 0.999), weight_decay=0.0, warmup=0, clip_norm=clip_norm, ema_decay=EMA), waves
        )
        for lr in rates
        for waves in (False, True)
    }


CONTENDERS = {"GAN": train_gan, "diffusion": train_diffusion}
SETTINGS = {  # 1e-4 and 0.5 are Metz et al.'s
    "GAN": _settings((1e-3, 1e-4), 0.5, None),
    "diffusion": _settings((1e-3, 3e-3), 0.9, 1.0),
}
