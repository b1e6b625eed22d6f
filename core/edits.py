"""Edits of a file by a trained model: of what is kept of it, of what it measures, and of what lies between two."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from core.sample import open_model
from core.samplers import Callback

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console


KEYS = ("method", "measurement", "strength", "degrade", "noise")  # of an edit's config, beside those of sampling


def opened(config: DictConfig) -> tuple[Model, DictConfig]:
    """The checkpoint's model, and its config with what the edit's config says."""
    model, drawing = open_model(config)
    for key in KEYS:
        drawing[key] = config.get(key)
    return model, drawing


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
        noise = normal(
            keys(config.seed, Stream.MEASUREMENT, torch.arange(len(known))), observed.shape[1:], observed.dtype
        )
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
    with counting(console, "to the noise of both and back", 3 * (len(times) - 1)) as done:
        shares = torch.linspace(0, 1, config.n)
        x0 = interpolate(denoiser, here[0], here[1], shares, times, callback=_steps(done))
    mask = here[0].mask.expand(config.n, *here[0].mask.shape[1:])
    return model.codec.decode(Batch(x0, mask)).to("cpu")


def _drawn(
    model: Model, template: Batch, config: DictConfig, console: Console, measurement: Measurement | None = None
) -> Batch:
    size, (_, times) = int(config.micro_batch), build_sampler(config, model.denoiser)
    steps = len(from_level(times, config.strength)) - 1
    with counting(console, "editing", steps * math.ceil(len(template) / size)) as done:
        try:
            options = {"seed": config.seed, "micro_batch": size, "callback": _steps(done)}
            return concatenate(list(model.stream(template, config, measurement=measurement, **options)))
        except ValueError as error:  # a method that does not fit the samples
            raise UserError(f"the edit is not possible: {error}") from error


def _steps(done: Callable[[int], None]) -> Callback:
    """Tells `done` of each step; the start is none."""
    return lambda step, s, x_s: done(min(step, 1))
