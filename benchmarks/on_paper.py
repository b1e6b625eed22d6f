"""python -m benchmarks.on_paper [utilisation=.35]: what training would take on many GPUs, computed and not measured.

FLOPs of a step are counted by PyTorch on networks without memory (the meta device): matrix products and convolutions,
forward and backward, a multiplication and an addition being two. The rest is arithmetic with the data sheets' peaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import count, markdown_table
from core.cli import with_options
from core.errors import UserError
from core.layers.embedding import LogSnrFeatures
from core.runs import Reporter, write_json
from modalities.audio.diffwave import DiffWave
from modalities.audio.unet import SpectrogramUNet
from modalities.image.unet import UNet2d
from modalities.molecules.egnn import Egnn

GB = 1e9
STATE = {"weights": 4, "gradients": 4, "Adam": 8, "average": 4}  # bytes for each parameter, all float32
PER_NODE = 8  # GPUs


@dataclass(frozen=True)
class Device:
    """A GPU of a data sheet: dense bf16 FLOP/s, bytes/s to the seven others of its machine, both ways together."""

    peak: float
    nvlink: float


DEVICES = {"A100": Device(312e12, 600e9), "H100": Device(989e12, 900e9)}
INFINIBAND, ETHERNET = 400e9, 25e9  # bytes/s each way, of a machine: 8 x 400 Gb/s, 200 Gb/s
PLACES = {"1 GPU": (1, INFINIBAND), "8": (8, INFINIBAND), "64": (64, INFINIBAND), "64, Ethernet": (64, ETHERNET)}
Figures = dict[str, float]


@dataclass(frozen=True)
class Size:
    """A network, the shape of one sample, and how many samples a GPU takes in a step."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int


DIGITS = {"label": 10}
_IMAGENET = partial(UNet2d, 3, 1000, (192, 384, 576, 768), blocks=3, attention=(1, 2, 3), groups=32, heads=12)
_DIFFWAVE = partial(DiffWave, DIGITS, layers=36, cycle=12, channels=256, features=LogSnrFeatures(128))
_SPECTRA = partial(SpectrogramUNet, 80, DIGITS, (128, 256, 384, 512), blocks=2, attention=(2, 3), patch_size=2, heads=8)
_DRUGS = partial(Egnn, 16, width=256, depth=4)
SIZES = {
    "ImageNet-64, U-Net": Size(_IMAGENET, (3, 64, 64), 32),
    "10 s at 16 kHz, DiffWave": Size(_DIFFWAVE, (1, 160_000), 2),
    "10 s at 22 kHz, spectrogram U-Net": Size(_SPECTRA, (1, 864, 80), 16),
    "GEOM-drugs, 44 atoms, EGNN": Size(_DRUGS, (44, 19), 64),
    "GEOM-drugs, 181 atoms, EGNN": Size(_DRUGS, (181, 19), 4),
}


@dataclass(frozen=True)
class Step:
    """What a training step takes: parameters, and for each sample FLOPs and bytes kept for the backward pass.

    kept: every tensor at 2 bytes an element, as in bf16; without network.checkpoint, before torch.compile fuses.
    """

    parameters: int
    flops: int
    kept: int


def counted(network: nn.Module, *inputs: object) -> Step:
    """One forward and backward pass through the network, of which only shapes matter (the meta device)."""
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}  # by memory, and so held that no memory is counted as another's

    def keep(tensor: Tensor) -> Tensor:
        if (memory := tensor.untyped_storage()._cdata) not in own:
            kept[memory] = tensor
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(*inputs).sum().backward()
    elements = sum(t.untyped_storage().nbytes() // t.element_size() for t in kept.values())
    return Step(count(network), int(counter.get_total_flops()), 2 * elements)


def of_size(size: Size) -> Step:
    with torch.device("meta"):
        network = size.build().to("meta")  # tables of constants that NumPy has made too
        x, mask = torch.empty(1, *size.shape), torch.ones(1, *(1 for _ in size.shape))
        return counted(network, x, torch.empty(1), mask, {})


def all_reduce(parameters: int, n: int) -> float:
    """Bytes that each of n devices sends in a step of trainer=ddp: a ring gives the float32 gradients twice around."""
    return 2 * (n - 1) / n * STATE["gradients"] * parameters


def sharded(parameters: int, n: int) -> float:
    """The same of trainer=fsdp: the weights are gathered forward and backward, the gradients scattered once."""
    return (n - 1) / n * (2 * STATE["weights"] + STATE["gradients"]) * parameters


def seconds(sent: float, n: int, device: Device, network: float) -> float:
    """Of a ring over n devices: within a machine NVLink carries it, between machines what all GPUs of each share."""
    return sent / (device.nvlink / 2 if n <= PER_NODE else min(device.nvlink / 2, network))


@dataclass
class Options:
    utilisation: float = 0.35  # assumed share of the peak that a step reaches
    out: str = "benchmarks/out/on_paper"


def main(options: Options) -> dict[str, object]:
    """Tables of the sizes and of their throughput, as Markdown and JSON too; returns what the JSON holds."""
    if not 0 < options.utilisation <= 1:
        raise UserError(f"utilisation={options.utilisation}: must be above 0 and at most 1")
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    steps = {name: of_size(size) for name, size in SIZES.items()}
    sizes = {name: state(step, SIZES[name].batch) for name, step in steps.items()}
    report.figures("one step, trainer=ddp and trainer=fsdp", sizes)
    throughput = {
        f"{name}, {card}": {
            where: speed(step, SIZES[name].batch, *place, device, options.utilisation)
            for where, place in PLACES.items()
        }
        for name, step in steps.items()
        for card, device in DEVICES.items()
    }
    for name, figures in throughput.items():
        report.figures(f"{name}, at {options.utilisation:.0%} of the peak", figures)
    found: dict[str, object] = {"options": asdict(options), "sizes": sizes, "throughput": throughput}
    write_json(folder / "on_paper.json", found)
    (folder / "on_paper.md").write_text("\n\n".join(markdown(sizes, throughput)) + "\n")
    return found


def state(step: Step, batch: int) -> Figures:
    """A size in numbers; the shared-out ones over the eight GPUs of a machine."""
    whole = {f"{what}, GB": size * step.parameters / GB for what, size in STATE.items()}
    return {
        "parameters, millions": step.parameters / 1e6,
        "GFLOP a sample": step.flops / 1e9,
        "samples a GPU": batch,
        **whole,
        "ddp: state, GB": sum(whole.values()),
        "fsdp over 8: state, GB": sum(whole.values()) / PER_NODE,
        "kept for backward, GB": batch * step.kept / GB,
        "ddp over 8: sent, GB": all_reduce(step.parameters, PER_NODE) / GB,
        "fsdp over 8: sent, GB": sharded(step.parameters, PER_NODE) / GB,
    }


def speed(step: Step, batch: int, n: int, network: float, device: Device, utilisation: float) -> Figures:
    """Times of a step on n GPUs, and samples a second where sending waits for computing or goes on beside it."""
    computing = batch * step.flops / (device.peak * utilisation)
    figures = {"computing, ms": 1e3 * computing}
    for way, sent in {"ddp": all_reduce, "fsdp": sharded}.items():
        sending = seconds(sent(step.parameters, n), n, device, network)
        figures |= {
            f"{way}: sending, ms": 1e3 * sending,
            f"{way}: sending, % of both": 100 * sending / (computing + sending),
            f"{way}: samples/s, in turn": n * batch / (computing + sending),
            f"{way}: samples/s, at once": n * batch / max(computing, sending),
        }
    return figures


def markdown(sizes: dict[str, Figures], throughput: dict[str, dict[str, Figures]]) -> tuple[str, str]:
    """The tables of docs/scale.md; in the second, samples a second, and how much of a step is sending if in turn."""
    names = next(iter(sizes.values()))
    rows = [[what, *(_short(figures[what]) for figures in sizes.values())] for what in names]
    speeds = []
    for name, places in throughput.items():
        cells = (
            f"{_short(f['ddp: samples/s, at once'])} ({f['ddp: sending, % of both']:.0f}%)" for f in places.values()
        )
        speeds.append([name, *cells])
    return markdown_table(["", *sizes], rows), markdown_table(["ddp", *PLACES], speeds)


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    with_options(Options, main)
