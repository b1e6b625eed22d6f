"""A trained model with all that is needed to use it: `core.load("runs/...").sample(n=16, steps=20, label=3)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import Module

from core import checkpoint
from core.batch import Batch, concatenate, padded
from core.build import build_method, build_modality, build_sampler, guided, load_denoiser
from core.codec import Codec
from core.data import Source, whole
from core.denoiser import BaseDenoiser, Denoiser
from core.editing import Measurement, edit
from core.errors import UserError
from core.modality import Modality
from core.samplers import Callback

if TYPE_CHECKING:
    from omegaconf import DictConfig

MICRO_BATCH = 128


class Model:
    """A denoiser with its codec, its modality and the config that names its sampler."""

    def __init__(self, denoiser: Denoiser, codec: Codec, modality: Modality, config: DictConfig) -> None:
        self.denoiser, self.codec, self.modality, self.config = denoiser, codec, modality, config
        self.nfe = 0.0  # network evaluations for each sample of the last request; guidance makes two of a step

    def to(self, device: torch.device | str) -> Model:
        self.denoiser.to(device)
        return self

    def template(self, n: int, cond: Mapping[str, object] | None = None, source: Source | None = None) -> Batch:
        """What n samples are drawn for, in diffusion coordinates.

        cond: as the modality takes them. source: for a codec whose conditions come from data (see `Codec.conditions`),
        where they are taken from if `cond` is empty. UserError if they can be taken from neither.
        """
        if not self.codec.conditions or cond:
            return self.codec.template(self.modality.template(n, cond))
        if source is None:
            followed = ", ".join(self.codec.conditions)
            raise UserError(f"this model's samples follow the {followed} of data: name some (cond.input=a/folder)")
        if len(source) < n:
            raise UserError(f"n={n}: the conditions come from held-out data, and there are only {len(source)}")
        return self.codec.template(whole(source, n))

    def sample(self, n: int = 16, *, steps: int | None = None, seed: int = 0, **cond: object) -> Batch:
        """n samples, decoded to data units.

        steps: of the sampler, the config's unless given. cond: as the modality takes them, such as label=3. Sample i
        depends on (seed, i) and its conditions alone.
        """
        config = self.config.copy()
        if steps is not None:
            config.steps = steps
        return concatenate(list(self.stream(self.template(n, cond), config, seed=seed)))

    def guided(self, config: DictConfig) -> BaseDenoiser:
        """The denoiser inside the config's guidance and clipping."""
        return guided(config, self.denoiser, self.codec).eval()

    def draw(
        self,
        template: Batch,
        config: DictConfig,
        seed: int,
        indices: Int[Tensor, " b"],
        callback: Callback | None = None,
        measurement: Measurement | None = None,
        denoiser: BaseDenoiser | None = None,
    ) -> Batch:
        """Decoded samples number `indices` of a request for the template, in one batch on the model's device.

        Where the template has `cond["keep"]`, its values are known there: they are kept as `Modality.holding` says, or
        by the config's `method`, see `core.editing.edit`; `strength` and `measurement` as there. denoiser: what
        `guided` makes for the config, where it is there already.
        """
        denoiser = denoiser or self.guided(config)
        sampler, times = build_sampler(config, self.denoiser)
        template = template.to(self.device)
        measurement = None if measurement is None else measurement.to(self.device)
        known = self.codec.trim(template)
        cond = {name: value for name, value in known.cond.items() if name != "keep"}
        shape, keep = Batch(known.x, known.mask, cond), known.cond.get("keep")
        if keep is not None and (holding := self.modality.holding(denoiser, shape, keep)) is not None:
            denoiser, keep = holding, None
        x0 = edit(
            self.modality.windowed(denoiser, shape, self.codec),
            sampler,
            shape,
            keep,
            times,
            strength=config.get("strength", 1.0),
            measurement=measurement,
            method=build_method(config)
            or (None if keep is None else self.modality.method(self.codec, self.denoiser.network)),
            seed=seed,
            indices=indices,
            callback=callback,
        )
        return self.codec.decode(Batch(padded(x0, template.x), template.mask, cond))

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def stream(
        self,
        template: Batch,
        config: DictConfig,
        *,
        seed: int = 0,
        micro_batch: int = MICRO_BATCH,
        wanted: Callable[[int], bool] = lambda first: True,
        callback: Callback | None = None,
        measurement: Measurement | None = None,
    ) -> Iterator[Batch]:
        """Decoded samples for the template in micro-batches, as they are made.

        config: names sampler, times, steps, guidance and clip. wanted: which micro-batches to make, by the number of
        their first sample. callback: see `core.samplers.sample`; its states are in diffusion coordinates.
        measurement: of the samples, see `core.editing.edit`.
        """
        n = len(template)
        rows_evaluated, rows_drawn, denoiser = 0, 0, self.guided(config)

        def count(network: Module, arguments: tuple[Tensor, ...]) -> None:
            nonlocal rows_evaluated
            rows_evaluated += len(arguments[0])

        hook = self.denoiser.network.register_forward_pre_hook(count)
        try:
            for first in filter(wanted, range(0, n, micro_batch)):
                rows = slice(first, min(first + micro_batch, n))
                part, measured = template[rows], None if measurement is None else measurement.of(rows)
                drawn = self.draw(part, config, seed, torch.arange(n)[rows], callback, measured, denoiser)
                rows_drawn += len(part)
                self.nfe = rows_evaluated / rows_drawn
                yield drawn.to("cpu")
        finally:
            hook.remove()


def load(
    path: str | Path,
    *,
    averaged: bool = True,
    which: Literal["last", "best"] = "last",
    device: str | None = None,
    allow: Sequence[str] = (),
) -> Model:
    """The model of a run folder or of one of its step folders, on the best device there is (or `device`).

    averaged: the averaged weights, rather than the raw ones. which: `last` or `best`. allow: packages besides ours
    whose classes the config may name. Nothing in a checkpoint is executed or unpickled. UserError if there is none.
    """
    denoiser, codec, config = load_denoiser(checkpoint.find(path, which), averaged, allow)
    return Model(denoiser, codec, build_modality(config), config).to(_device(device))


def _device(wanted: str | None) -> str:
    """UserError if this machine has no such device."""
    try:
        return wanted if wanted and torch.empty(0, device=wanted) is not None else best_device()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        there = ", ".join(sorted({"cpu", best_device()}))
        raise UserError(f"device={wanted} is not there; this machine has {there}") from error


def best_device() -> str:
    """An accelerator if there is one; of several, the one of this process where a launcher has numbered it."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return "cpu"
    rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID")
    return accelerator.type if rank is None else f"{accelerator.type}:{int(rank) % torch.accelerator.device_count()}"
