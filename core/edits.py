"""Edits of a file by a trained model: of what is kept of it, of what it measures, and of what lies between two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.batch import Batch, concatenate
from core.build import build_sampler
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


def measured(model: Model, known: Batch, operator: Operator, config: DictConfig) -> tuple[Batch, Measurement]:
    """(a template of samples, what is measured of them). `known` is that measurement, or is measured first.

    known: in data units. config.degrade: whether it is measured first. config.noise: the standard deviation of the
    measurement's noise. UserError if it is not the size of a measurement, or cannot be measured.
    """
    given = model.codec.encode(known)
    if config.degrade:
        template, observed = given, _applied(operator, given.x)
        noise = normal(keys(config.seed, Stream.KNOWN, torch.arange(len(known))), observed.shape[1:], observed.dtype)
        observed = observed + config.noise * noise
    else:
        blank = given if _keeps_shape(operator, given.x) else model.template(len(known))
        template, observed = Batch(blank.x, blank.mask, given.cond), given.x
        if (wanted := _applied(operator, template.x)).shape != observed.shape:
            sizes = " but ".join("x".join(map(str, shape[1:])) for shape in (observed.shape, wanted.shape))
            raise UserError(f"input has {sizes} is this measurement of a sample; degrade=true measures the input first")
    return template, Measurement(operator, observed, config.noise)


def _keeps_shape(operator: Operator, x: Tensor) -> bool:
    """Whether a sample of which x is the measurement is as large as x, such as a sound of any length."""
    try:
        return operator(x).shape == x.shape
    except ValueError:
        return False


def _applied(operator: Operator, x: Tensor) -> Tensor:
    try:
        measurement: Tensor = operator(x)
    except ValueError as error:
        raise UserError(f"measurement: {error}") from error
    return measurement


def agreeing(model: Model, template: Batch, measurement: Measurement, config: DictConfig, console: Console) -> Batch:
    """Samples that agree with a measurement, decoded."""
    return _drawn(model, template, config, console, measurement)


def ends(model: Model, first: Batch, second: Batch) -> tuple[Batch, Batch]:
    """One sample of each, in diffusion coordinates. UserError if they differ in size."""
    one, other = (model.codec.trim(model.codec.encode(batch[:1])) for batch in (first, second))
    if one.x.shape != other.x.shape or not torch.equal(one.mask, other.mask):
        sizes = " and ".join("x".join(map(str, end.x.shape[1:])) for end in (one, other))
        raise UserError(f"input and to differ in size ({sizes}): there is nothing between them")
    return one, other


def between(model: Model, first: Batch, second: Batch, config: DictConfig, console: Console) -> Batch:
    """config.n samples on the way from one end to another, both of them the first and the last; decoded."""
    denoiser = model.modality.windowed(model.guided(config), first, model.codec)
    _, times = build_sampler(config, denoiser)
    here = [end.to(model.device) for end in (first, second)]
    with counting(console, "on the way", config.n) as done:
        x0 = interpolate(denoiser, here[0], here[1], torch.linspace(0, 1, config.n), times)
        done(config.n)
    mask = here[0].mask.expand(config.n, *here[0].mask.shape[1:])
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
