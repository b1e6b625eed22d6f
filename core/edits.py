"""Edits of a file by a trained model: of what is kept of it, of what it measures, and of what lies between two."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.batch import Batch, concatenate
from core.build import build_sampler
from core.editable import EditRequest
from core.editing import Measurement, Operator, from_level, interpolate
from core.errors import UserError
from core.model import Model
from core.progress import counting
from core.random import Stream, keys, normal

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console


def edited(model: Model, known: Batch, config: DictConfig, console: Console) -> Batch:
    """Samples like `known`, in data units; `cond["keep"]` marks what stays. config: names method and strength too."""
    drawn = _drawn(model, model.codec.known(known), config, console)
    return model.modality.finished(drawn, known) if "keep" in known.cond else drawn


def agreeing(
    model: Model, request: EditRequest, operator: Operator, config: DictConfig, console: Console
) -> tuple[Tensor, Batch]:
    """(the measurement, decoded; samples that agree with it). The input is that measurement, or is measured first.

    config.degrade: whether it is measured first. config.noise: the standard deviation of the measurement's noise.
    """
    given = model.codec.encode(model.modality.known(request))
    if config.degrade:
        template, observed = given, operator(given.x)
        noise = normal(keys(config.seed, Stream.KNOWN, torch.arange(request.n)), observed.shape[1:], observed.dtype)
        observed = observed + config.noise * noise
    else:
        blank = model.template(request.n)
        template, observed = Batch(blank.x, blank.mask, given.cond), given.x
        if (wanted := operator(template.x).shape) != observed.shape:
            sizes = " but ".join("x".join(map(str, shape[1:])) for shape in (observed.shape, wanted))
            raise UserError(
                f"{request.input} has {sizes} is this measurement of a sample; degrade=true measures it first"
            )
    drawn = _drawn(model, template, config, console, Measurement(operator, observed, config.noise))
    return model.codec.decode(Batch.full(observed)).x, drawn


def between(model: Model, first: EditRequest, second: EditRequest, config: DictConfig, console: Console) -> Batch:
    """n samples on the way from one input to another, both of them the first and the last."""
    denoiser = model.guided(config)
    ends = [model.codec.trim(model.codec.encode(model.modality.known(replace(r, n=1)))) for r in (first, second)]
    if ends[0].x.shape != ends[1].x.shape or not torch.equal(ends[0].mask, ends[1].mask):
        sizes = " and ".join("x".join(map(str, end.x.shape[1:])) for end in ends)
        raise UserError(f"{first.input} and {second.input} differ in size ({sizes}): there is nothing between them")
    _, times = build_sampler(config, denoiser)
    here = [end.to(model.device) for end in ends]
    with counting(console, "on the way", first.n) as done:
        x0 = interpolate(denoiser, here[0], here[1], torch.linspace(0, 1, first.n), times)
        done(first.n)
    mask = here[0].mask.expand(first.n, *here[0].mask.shape[1:])
    return model.codec.decode(Batch(x0, mask)).to("cpu")


def _drawn(
    model: Model, template: Batch, config: DictConfig, console: Console, measurement: Measurement | None = None
) -> Batch:
    size, steps = (
        int(config.micro_batch),
        len(from_level(build_sampler(config, model.denoiser)[1], config.strength)) - 1,
    )
    with counting(console, "editing", steps * -(-len(template) // size)) as done:

        def told(step: int, s: Tensor, x_s: Tensor) -> None:
            done(min(step, 1))

        parts = model.stream(
            template, config, seed=config.seed, micro_batch=size, callback=told, measurement=measurement
        )
        return concatenate(list(parts))
