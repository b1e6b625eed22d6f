"""Class-conditional models: ours as `core.train` has it, of any data, and other libraries', of the default data.

A peer is there twice. By its own recipe: loss, table of betas, sampler and optimiser of its documentation's example.
And helped by what makes ours good in a short training: the velocity as output, the cosine table, ten times the learning
rate with our schedule of it, and guidance. Both have our clipping and an average of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import Run, count
from benchmarks.peers import STEPS, WIDTHS, nearest, unet_2d
from core.batch import Batch
from core.build import build_sampler, guided
from core.denoiser import Denoiser
from core.errors import UserError
from core.module import Optimisation
from core.samplers import sample

DROP_RATE = 0.1
GUIDANCE = 1.5  # as in configs/guidance/classifier_free.yaml


class Contender(Protocol):
    """model: what is trained and averaged."""

    model: nn.Module

    def loss(self, batch: Batch, step: int) -> Tensor:
        """The training loss of encoded data with its conditions."""
        ...

    def sample(self, model: nn.Module, template: Batch, places: Tensor, steps: int) -> Tensor:
        """x_0 for the template (in diffusion coordinates, its values are not read) by the (averaged) model.

        places: the samples' numbers, of which random numbers may be a function.
        """
        ...


class Polydiffusion:
    """The run's own network, objective and sampler."""

    def __init__(self, run: Run) -> None:
        self.model: nn.Module = run.denoiser
        self.run = run
        self.objective = run.objective()

    @staticmethod
    def positions(batch: Batch) -> Tensor:
        """Where its samples stand in the global batch: this is the only process."""
        return torch.arange(len(batch))

    def loss(self, batch: Batch, step: int) -> Tensor:
        positions = self.positions(batch)
        assert isinstance(self.model, Denoiser)
        return self.objective.training(self.model, batch, step, positions, len(batch)).loss.mean()

    def sample(self, model: nn.Module, template: Batch, places: Tensor, steps: int) -> Tensor:
        assert isinstance(model, Denoiser)
        config = self.run.config.copy()
        config.steps = steps
        sampler, times = build_sampler(config, model)
        denoiser = guided(config, model, self.run.codec)
        return sample(denoiser, sampler, template, times, seed=config.seed, indices=places)


class DdpmPytorch:
    """denoising-diffusion-pytorch's module of classifier-free guidance.

    drop_rate, guidance, rescaled: of its documentation's example, and its defaults. plain: guided as ours is, without
    the projection that its guidance applies otherwise.
    """

    def __init__(
        self,
        run: Run,
        drop_rate: float = 0.5,
        guidance: float = 6.0,
        rescaled: float = 0.7,
        plain: bool = False,
        **options: Any,
    ) -> None:
        from denoising_diffusion_pytorch import classifier_free_guidance as library

        library.tqdm = lambda steps, **_: steps  # its progress bar would count against it
        self.shape, num_classes = run.data.facts["shape"], run.data.facts["num_classes"]
        self.guiding = {"cond_scale": guidance, "rescaled_phi": rescaled}

        class Unet(library.Unet):
            def forward_with_cond_scale(self, *arguments: Any, **keywords: Any) -> Any:
                return super().forward_with_cond_scale(*arguments, remove_parallel_component=not plain, **keywords)

        def build(dim: int, middle: int, last: int) -> nn.Module:
            return Unet(
                dim=dim, num_classes=num_classes, cond_drop_prob=drop_rate, dim_mults=(1, middle, last), channels=1
            )

        sizes = [(dim, middle, last) for dim in range(10, 25, 2) for middle in (2, 3) for last in (3, 4, 5)]
        unet = nearest(count(run.denoiser), build, sizes).to(memory_format=torch.channels_last)  # faster so
        self.model: nn.Module = library.GaussianDiffusion(unet, image_size=self.shape[-1], timesteps=STEPS, **options)

    def loss(self, batch: Batch, step: int) -> Tensor:
        return self.model((batch.x + 1) / 2, classes=batch.cond["label"])

    def sample(self, model: nn.Module, template: Batch, places: Tensor, steps: int) -> Tensor:
        labels = template.cond["label"]
        model.sampling_timesteps = steps
        return model.ddim_sample(labels, (len(labels), *self.shape), **self.guiding) * 2 - 1


class Diffusers:
    """A class-conditional UNet2DModel; the label after the last stands for none, as diffusers has no such thing.

    table: of its schedulers. guidance: the scale, for which a tenth of the labels are dropped; None for none.
    """

    def __init__(self, run: Run, guidance: float | None = None, spacing: str = "leading", **table: Any) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler

        self.shape, self.null = run.data.facts["shape"], run.data.facts["num_classes"]
        self.model: nn.Module = nearest(count(run.denoiser), unet_2d(self.shape[-1], self.null + 1), WIDTHS)
        self.guidance = guidance
        self.noising = DDPMScheduler(num_train_timesteps=STEPS, **table)
        self.scheduler = DDIMScheduler(num_train_timesteps=STEPS, clip_sample=True, timestep_spacing=spacing, **table)

    def loss(self, batch: Batch, step: int) -> Tensor:
        x, labels = batch.x, batch.cond["label"]
        noise, steps = torch.randn_like(x), torch.randint(0, STEPS, (len(x),))
        if self.guidance is not None:
            labels = labels.masked_fill(torch.rand(len(x)) < DROP_RATE, self.null)
        noised = self.noising.add_noise(x, noise, steps)
        output = self.model(noised, steps, labels, return_dict=False)[0]
        is_velocity = self.noising.config.prediction_type == "v_prediction"
        return F.mse_loss(output, self.noising.get_velocity(x, noise, steps) if is_velocity else noise)

    @torch.no_grad()
    def sample(self, model: nn.Module, template: Batch, places: Tensor, steps: int) -> Tensor:
        labels = template.cond["label"]
        self.scheduler.set_timesteps(steps)
        x = torch.randn(len(labels), *self.shape)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self._output(model, x, t, labels), t, x).prev_sample
        return x

    def _output(self, model: nn.Module, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        if self.guidance is None:
            return model(x, t, labels, return_dict=False)[0]
        both = torch.cat([labels, torch.full_like(labels, self.null)])
        conditional, unconditional = model(torch.cat([x, x]), t, both, return_dict=False)[0].chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)


@dataclass(frozen=True)
class CosineAfterWarmup(Optimisation):
    """diffusers' `get_cosine_schedule_with_warmup`: nothing falls before the warm-up is over."""

    def factor(self, step: int, total: int | None) -> float:
        if step < self.warmup or total is None:
            return min(1.0, (step + 1) / max(self.warmup, 1))
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup) / max(total - self.warmup, 1))))


@dataclass(frozen=True)
class Recipe:
    """package: which it needs. settings: what of the optimisation is not as in our run. optimisation: its schedule."""

    package: str
    build: Callable[[Run], Contender]
    settings: dict[str, Any] = field(default_factory=dict)
    optimisation: type[Optimisation] = Optimisation


HELP = {"lr": 1e-3, "warmup": 20}  # their steps are fewer than ours, and larger ones diverge
FLAT = {"lr": 1e-4, "warmup": 0, "flat": 1.0, "weight_decay": 0.0, "ema_decay": 0.995}
COSINE = {"lr": 1e-4, "betas": (0.9, 0.999), "warmup": 500}
RECIPES: dict[str, Recipe] = {
    "polydiffusion": Recipe("core", Polydiffusion),
    "denoising-diffusion-pytorch": Recipe("denoising_diffusion_pytorch", DdpmPytorch, FLAT),
    "denoising-diffusion-pytorch-helped": Recipe(
        "denoising_diffusion_pytorch",
        partial(
            DdpmPytorch,
            drop_rate=DROP_RATE,
            guidance=GUIDANCE,
            rescaled=0.0,
            plain=True,
            objective="pred_v",
            ddim_sampling_eta=0.0,
        ),
        HELP,
    ),
    "diffusers": Recipe("diffusers", Diffusers, COSINE, CosineAfterWarmup),
    "diffusers-helped": Recipe(
        "diffusers",
        partial(
            Diffusers,
            guidance=GUIDANCE,
            spacing="trailing",
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
        ),
        HELP,
    ),
}


def recipe(name: str) -> Recipe:
    """UserError where its package is missing."""
    if find_spec(RECIPES[name].package) is None:
        raise UserError(f"{name} is not installed: pip install 'polydiffusion[peers]', or leave it out of contenders=")
    return RECIPES[name]
