"""Other libraries' networks, training losses and samplers, and their networks as ours.

Both peers run on 28x28 images as they are: three levels, 28 -> 14 -> 7, need no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import count
from core.denoiser import Denoiser
from core.prediction import Epsilon
from core.schedules import LinearBeta

STEPS = 1000  # T of the linear table of betas, in every library
TOLERANCE = 0.02  # of equal parameters


class UnetOfDdpm(nn.Module):
    """The U-Net of denoising-diffusion-pytorch as our `Network`: it embeds the step number and has no conditions."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self.unet(x, c_noise)


class UnetOfDiffusers(nn.Module):
    """The UNet2DModel of diffusers as our `Network`."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self.unet(x, c_noise, return_dict=False)[0]


@dataclass(frozen=True)
class Peer:
    """A library with a network of its own.

    network: as ours. loss: its own training loss of images in [-1, 1] (epsilon, uniform steps). average: its own
    update of the averaged weights, after each step. sample: its own DDIM loop with x_0 clipped, (number of samples,
    steps) -> images in [-1, 1].
    """

    name: str
    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    average: Callable[[], object]
    sample: Callable[[int, int], Tensor]

    def denoiser(self) -> Denoiser:
        """Ours around its network: the same table of betas, the same epsilon loss."""
        return Denoiser(self.network, LinearBeta(STEPS), Epsilon(num_steps=STEPS))


def ddpm_pytorch(parameters: int, size: int, device: str = "cpu") -> Peer:
    """denoising-diffusion-pytorch: `Unet`, `GaussianDiffusion` and the averaging of its `Trainer`."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from denoising_diffusion_pytorch import denoising_diffusion_pytorch as library
    from ema_pytorch import EMA

    library.tqdm = lambda steps, **_: steps  # its progress bar would count against it

    def build(dim: int, head: int) -> nn.Module:
        return Unet(dim=dim, dim_mults=(1, 2, 4), channels=1, attn_dim_head=head)

    unet = nearest(parameters, build, [(dim, head) for dim in range(8, 29, 2) for head in (28, 32, 36)])
    unet = unet.to(memory_format=torch.channels_last)  # as ours: it is faster so, diffusers' is not
    # one object for both: its forward is the loss of images that are at unit scale already
    diffusion = GaussianDiffusion(
        unet, image_size=size, timesteps=STEPS, objective="pred_noise", beta_schedule="linear", auto_normalize=False
    ).to(device)

    average = EMA(diffusion, beta=0.995, update_every=10)

    def sample(n: int, steps: int) -> Tensor:
        diffusion.sampling_timesteps = steps
        return diffusion.ddim_sample((n, 1, size, size))

    return Peer("denoising-diffusion-pytorch", UnetOfDdpm(unet), diffusion, average.update, sample)


def diffusers(parameters: int, size: int, device: str = "cpu") -> Peer:
    """diffusers: `UNet2DModel`, the training loop of its documentation, and the loop of its `DDIMPipeline`."""
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.training_utils import EMAModel

    unet = nearest(parameters, unet_2d(size), WIDTHS).to(device)
    noising = DDPMScheduler(num_train_timesteps=STEPS, beta_schedule="linear")
    scheduler = DDIMScheduler(num_train_timesteps=STEPS, beta_schedule="linear", clip_sample=True)
    average = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True)

    def loss(x: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        steps = torch.randint(0, STEPS, (len(x),), device=x.device)
        return F.mse_loss(unet(noising.add_noise(x, noise, steps), steps, return_dict=False)[0], noise)

    @torch.no_grad()
    def sample(n: int, steps: int) -> Tensor:
        scheduler.set_timesteps(steps)
        x = torch.randn(n, 1, size, size, device=device)
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t, return_dict=False)[0], t, x).prev_sample
        return x

    return Peer("diffusers", UnetOfDiffusers(unet), loss, lambda: average.step(unet.parameters()), sample)


# of the three levels; its group norms want multiples of 8
WIDTHS = [(a, b, c) for a in (16, 24, 32) for b in (32, 48, 64) for c in (64, 80, 96) if c > b]


def unet_2d(size: int, num_classes: int | None = None) -> Callable[..., nn.Module]:
    """Builds a UNet2DModel from its widths: one block a level, attention on all but the finest, its usual pattern."""
    from diffusers import UNet2DModel

    def build(*widths: int) -> nn.Module:
        return UNet2DModel(
            sample_size=size,
            in_channels=1,
            out_channels=1,
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            num_class_embeds=num_classes,
        )

    return build


def nearest(parameters: int, build: Callable[..., nn.Module], sizes: Iterable[tuple[int, ...]]) -> nn.Module:
    """The network whose number of parameters is nearest; ValueError if it is further off than `TOLERANCE`."""
    with torch.device("meta"):  # counts without allocating
        counts = {size: count(build(*size)) for size in sizes}
    size = min(counts, key=lambda size: abs(counts[size] - parameters))
    if abs(counts[size] / parameters - 1) > TOLERANCE:
        raise ValueError(f"no size is within {TOLERANCE:.0%} of {parameters:,} parameters; {size} has {counts[size]:,}")
    return build(*size)


def installed(parameters: int, size: int, device: str = "cpu") -> list[Peer]:
    """The peers that are installed, with networks of about so many parameters for size x size images."""
    builders = {"denoising_diffusion_pytorch": ddpm_pytorch, "diffusers": diffusers}
    return [build(parameters, size, device) for package, build in builders.items() if find_spec(package)]
