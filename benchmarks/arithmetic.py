"""What of a step is the network's own arithmetic: its matrix products and convolutions, recorded and done again alone.

All else in a step (norms, activations, noise, the optimiser, Python) is not arithmetic in this sense. How fast the
products could be is bounded in two ways: by the machine's peak, that of the best of some large products and
convolutions; and by the very same products, of the same shapes, with nothing between them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from benchmarks.common import timed

aten = torch.ops.aten
# attention on CPUs, which the counter does not know: what it does is part of the arithmetic, but not of its operations
UNCOUNTED = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
}
PRODUCTS = {*flop_registry, *UNCOUNTED}


@dataclass
class Arithmetic:
    """The products of a piece of work; `again` does them once more. operations: multiplications and additions."""

    calls: list[Callable[[], object]] = field(default_factory=list)
    operations: int = 0

    @torch.no_grad()
    def again(self) -> None:
        for call in self.calls:
            call()

    @classmethod
    def of(cls, work: Callable[[], object]) -> Arithmetic:
        """Does the work once and records it. The tensors that it multiplied stay in memory."""
        with FlopCounterMode(display=False) as counter, _Recorder() as recorder:
            work()
        return cls(recorder.calls, counter.get_total_flops())


class _Recorder(TorchDispatchMode):
    """calls: the products of what is done inside, each to be done again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in PRODUCTS:
            self.calls.append(lambda: func(*args, **kwargs))
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Peak:
    """A product or convolution of `operations` multiplications and additions, which the device does fastest."""

    name: str
    work: Callable[[], object]
    operations: int

    @classmethod
    def of(cls, device: str = "cpu", tries: int = 5) -> Peak:
        """The fastest of the candidates, by the median of `tries`."""

        def speed(candidate: Peak) -> float:
            task = timed(candidate.work, device)
            task()
            return candidate.operations / statistics.median(task() for _ in range(tries))

        return max(candidates(device), key=speed)


def candidates(device: str = "cpu") -> list[Peak]:
    """Square products, and 3 x 3 convolutions of batches of pictures, channels last."""
    found = []
    for n in (512, 1024, 2048) if device == "cpu" else (2048, 4096, 8192):
        a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
        found.append(Peak(f"{n} x {n} product", torch.no_grad()(lambda a=a, b=b: a @ b), 2 * n**3))
    for channels, side in ((64, 14), (128, 14), (256, 14)):
        x = torch.randn(32, channels, side, side, device=device).to(memory_format=torch.channels_last)
        kernel = torch.randn(channels, channels, 3, 3, device=device).to(memory_format=torch.channels_last)
        work = torch.no_grad()(lambda x=x, kernel=kernel: F.conv2d(x, kernel, padding=1))
        with FlopCounterMode(display=False) as counter:
            work()
        found.append(Peak(f"convolution, {channels} channels", work, counter.get_total_flops()))
    return found
