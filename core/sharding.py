"""Training that is shared out over devices: each holds a part of the weights, gradients, optimiser state and average.

PyTorch's `fully_shard` (Zhao et al. 2023; ZeRO stage 3 of Rajbhandari et al. 2020): a block's weights are gathered
when it is reached and let go when it is left. In checkpoints all is whole, as any other run writes it, so a run may be
resumed on one device or on another number of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from core.denoiser import Denoiser
from core.module import DiffusionModule


def local(tensor: Tensor) -> Tensor:
    """This process's part of a shared-out tensor, in the same memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a shared-out tensor, for which all processes must ask at once; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tree: Any) -> Any:
    """A tree with its shared-out tensors whole and on the CPU, one after another; all processes must ask at once."""
    return tree_map(lambda value: value.full_tensor().cpu() if isinstance(value, DTensor) else value, tree)


def shared_out(values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors shared out as those of the same name are; the others as they are."""
    return {name: _like(value, like[name]) if name in like else value for name, value in values.items()}


def _like(value: Any, other: Tensor) -> Any:
    if not isinstance(other, DTensor) or not isinstance(value, Tensor) or value.shape != other.shape:
        return value
    # each process has read the same checkpoint: none needs to be told
    there = value.to(other.device)
    return distribute_tensor(there, other.device_mesh, other.placements, src_data_rank=None)


class Sharded(DDPStrategy):
    """Lightning's strategy of several processes, with the denoiser shared out where the other has a replica in each."""

    blank: Denoiser  # a denoiser of its own that is not shared out, on the CPU: to be filled with weights

    def configure_ddp(self) -> None:
        assert isinstance(self.model, DiffusionModule)
        self.blank = deepcopy(self.model.denoiser).cpu()
        self.shard(self.model.denoiser.network)

    def shard(self, network: nn.Module) -> None:
        """Shares out the elements of the network's lists of blocks, and then what is left of it."""
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for module in reversed(list(network.modules())):  # the innermost first
            for block in module if isinstance(module, nn.ModuleList) else ():
                if any(parameter.requires_grad for parameter in block.parameters()):
                    fully_shard(block, mesh=mesh)
        # after the forward pass too: the average changes places with the weights after validation, which has no other
        fully_shard(network, mesh=mesh, reshard_after_forward=True)

    def whole_denoiser(self) -> Denoiser:
        """A denoiser with the weights of now, on this process's device; all processes must ask for it at once."""
        module = self.lightning_module
        assert isinstance(module, DiffusionModule)
        copy = deepcopy(self.blank).to(self.root_device)
        own = dict(copy.named_parameters()) | dict(copy.named_buffers())
        with torch.no_grad():
            for name, value in [*module.denoiser.named_parameters(), *module.denoiser.named_buffers()]:
                own[name].copy_(whole(value))
        return copy.train(module.denoiser.training)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        state: dict[str, Any] = gathered(self.lightning_module.state_dict())
        return state

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        self.lightning_module.load_state_dict(shared_out(checkpoint["state_dict"], own), strict=strict)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state: dict[str, Any] = gathered(super().optimizer_state(optimizer))
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            moments = {
                place: {name: _like(value, parameters[int(place)]) for name, value in entries.items()}
                for place, entries in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": moments})

    def teardown(self) -> None:
        """Without the move to the CPU: what is shared out belongs to its devices."""
        assert self.accelerator is not None
        assert self.cluster_environment is not None
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
        self.cluster_environment.teardown()


def is_sharded(trainer: pl.Trainer) -> bool:
    return isinstance(trainer.strategy, Sharded)


def denoiser_of(trainer: pl.Trainer) -> Denoiser:
    """The denoiser that is trained, whole: itself, or a copy where it is shared out. All processes must ask at once."""
    if isinstance(trainer.strategy, Sharded):
        return trainer.strategy.whole_denoiser()
    assert isinstance(trainer.lightning_module, DiffusionModule)
    return trainer.lightning_module.denoiser
