"""The graph network on molecules against the usual arrangement of the same one: a training step, per molecule.

Ours does the first layer on pairs once per atom, in batches of molecules of about one size. The usual arrangement, that
of the reference implementations, does it on the concatenated pair, in random batches padded to their largest molecule.
The numbers are the same: `disagreement` is looked at before the clock starts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import Comparison, Run, Task, count, race, timed
from core.batch import Batch
from core.denoiser import Denoiser
from core.descent import Update
from core.module import Optimisation
from core.objective import Objective
from modalities.molecules.egnn import EdgeNetwork, Egnn, Layer

MOLECULES = 64  # in a batch
AGREE = 1e-5


class UsualLayer(nn.Module):
    """A layer of the network in the usual arrangement: pairs side by side, then messages gated, masked and summed."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, h: Tensor, positions: Tensor, direction: Tensor, features: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        layer, weight = self.layer, weight[..., None]
        normed = layer.norms[0](h)
        messages = self._edges(layer.message, normed, features)
        if layer.gate is not None:
            messages = messages * layer.gate(messages).sigmoid()
        h = h + layer.node(torch.cat([normed, (messages * weight).sum(2)], -1))
        strength = layer.strength(self._edges(layer.pull, layer.norms[1](h), features))
        if layer.reach is not None:
            strength = layer.reach * strength.tanh()
        return h, positions + (direction * strength * weight).sum(2)

    @staticmethod
    def _edges(edges: EdgeNetwork, h: Tensor, features: Tensor) -> Tensor:
        n = h.shape[1]
        pairs = torch.cat([h[:, :, None].expand(-1, -1, n, -1), h[:, None].expand(-1, n, -1, -1), features], -1)
        return F.silu(edges.second(F.silu(F.linear(pairs, edges.first.weight, edges.first.bias))))


def usual(network: Egnn) -> Egnn:
    """A copy of the network, with equal weights, in the usual arrangement."""
    network = copy.deepcopy(network)
    network.layers = nn.ModuleList(map(UsualLayer, network.layers))
    return network


def disagreement(one: nn.Module, other: nn.Module, batch: Batch) -> float:
    """How far outputs and gradients of two networks with equal parameters differ, relative to the largest of each."""
    c_noise = torch.linspace(-5, 5, len(batch)).to(batch.x)
    results = []
    for network in (one, other):
        out = network(batch.x, c_noise, batch.mask, batch.cond)
        results.append([out.detach(), *torch.autograd.grad(out.square().mean(), list(network.parameters()))])
    scales = [max(float(b.abs().max()), 1e-12) for b in results[1]]
    return max(float((a - b).abs().max()) / scale for a, b, scale in zip(*results, scales, strict=True))


def batches(run: Run, number: int, device: str) -> tuple[list[Batch], list[Batch]]:
    """`number` encoded batches of training molecules: random ones; and, as training has them, neighbours in size.

    The second are evenly spread over all that there are in the training split.
    """
    source, size = run.data.train, number * MOLECULES
    rows = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    by_size = rows[torch.as_tensor(source.sizes)[rows].argsort(stable=True)].split(MOLECULES)
    spread = [by_size[len(by_size) * (2 * k + 1) // (2 * number)] for k in range(number)]

    def encoded(chosen: Sequence[Tensor]) -> list[Batch]:
        return [run.codec.encode(source.batch(part.tolist()).to(device)) for part in chosen]

    return encoded(rows[:size].split(MOLECULES)), encoded(spread)


def molecule_steps(width: int, depth: int, number: int, rounds: int, device: str = "cpu") -> list[Comparison]:
    """Seconds for each molecule in a step of training, over equally many molecules."""
    run = Run.of("modality=molecules", "network=egnn", f"network.width={width}", f"network.depth={depth}")
    mixed, by_size = batches(run, number, device)
    ours = run.denoiser.to(device)
    theirs = copy.deepcopy(ours)
    theirs.network = usual(ours.network)
    if (worst := disagreement(ours.network, theirs.network, mixed[0])) > AGREE:
        raise AssertionError(f"the two arrangements differ by {worst:.1e}, more than {AGREE:g}")
    objective = run.objective()
    what = f"a molecule, {width} x {depth}, {count(ours):,} parameters"
    baseline = {"concatenated pairs, mixed batches": _epoch(theirs, mixed, objective, device)}
    return race(what, _epoch(ours, by_size, objective, device), baseline, rounds, 1 / 3)


def _epoch(denoiser: Denoiser, batches: Sequence[Batch], objective: Objective, device: str) -> Task:
    """A step on each of the batches; seconds for each molecule."""
    update, positions = Update(denoiser, Optimisation()), torch.arange(MOLECULES)

    def steps() -> None:
        for batch in batches:
            update(objective.training(denoiser, batch, update.steps, positions, MOLECULES).loss.mean())

    task = timed(steps, device)
    return lambda: task() / (MOLECULES * len(batches))
