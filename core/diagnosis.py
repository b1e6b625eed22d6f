"""Where in a training step numbers cease to be numbers: the first module, on the way forward or back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.denoiser import Denoiser
from core.objective import Objective, Taken


@dataclass(frozen=True)
class Diagnosis:
    """culprit: in words; losses, log_snrs: of each sample of the step; gradients: parameters without a finite one."""

    culprit: str
    losses: list[float]
    log_snrs: list[float]
    gradients: list[str]

    def __str__(self) -> str:
        return self.culprit

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no numbers that are none."""
        numbers = {"losses": [str(loss) for loss in self.losses]}
        return {**asdict(self), **numbers}


def diagnose(denoiser: Denoiser, objective: Objective, taken: Sequence[Taken]) -> Diagnosis:
    """Takes the step again, forward and back, and looks at every module. The weights stay as they are."""
    found: list[str] = []
    losses: list[float] = []
    log_snrs: list[float] = []
    for name, parameter in denoiser.named_parameters():
        if not bool(parameter.isfinite().all()):
            found.append(f"the weights {name} are no numbers")
    for one in taken:
        if not bool(one.batch.x.isfinite().all()):
            rows = (~one.batch.x.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
            found.append(f"the data of the samples {rows[:8]} of the batch are no numbers")
    parameters = [p for p in denoiser.parameters() if p.requires_grad]
    bad: set[str] = set()
    eager = torch.compiler.set_stance("force_eager")  # hooks see nothing of a compiled network
    with torch.random.fork_rng(), eager, torch.enable_grad(), _watched(denoiser, found):
        for one in taken:
            result = objective.again(denoiser, one)
            losses += result.loss.detach().tolist()
            log_snrs += result.log_snr.tolist()
            gradients = torch.autograd.grad(result.loss.mean(), parameters, allow_unused=True)
            for (name, _), gradient in zip(_trained(denoiser), gradients, strict=True):
                if gradient is not None and not bool(gradient.isfinite().all()):
                    bad.add(name)
    if not found and (bad or not all(map(_is_finite, losses))):
        found.append("the loss is no number, though all modules give numbers")
    culprit = found[0] if found else "taken again, all is finite: not in the network, or in another precision"
    return Diagnosis(culprit, losses, log_snrs, sorted(bad))


def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def _is_finite(loss: float) -> bool:
    return bool(torch.tensor(loss).isfinite())


@contextmanager
def _watched(denoiser: nn.Module, found: list[str]) -> Iterator[None]:
    """Notes each module whose output, or whose output's gradient, is the first that is no number."""
    hooks = []

    def watch(name: str, module: nn.Module) -> None:
        what = f"{name} ({type(module).__name__})"

        def forward(module: nn.Module, inputs: object, output: object) -> None:
            for tensor in _tensors(output):
                if not bool(tensor.isfinite().all()):
                    found.append(f"the output of {what} is no number")
                elif tensor.requires_grad:
                    tensor.register_hook(backward)

        def backward(gradient: Tensor) -> None:
            if not bool(gradient.isfinite().all()):
                found.append(f"the gradient after {what} is no number")

        hooks.append(module.register_forward_hook(forward))

    for name, module in denoiser.named_modules():
        if name:
            watch(name, module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
