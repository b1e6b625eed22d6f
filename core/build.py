"""From a run's config to its objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from core.codec import Codec
from core.config import instantiate
from core.denoiser import BaseDenoiser, Denoiser
from core.errors import UserError
from core.modality import Modality
from core.samplers import Sampler

if TYPE_CHECKING:
    from omegaconf import DictConfig

FILLED = ("modality", "network", "codec")  # the parts whose `???` the data's facts may fill


def fill(config: DictConfig, facts: Mapping[str, object]) -> None:
    """Fills the `???` of the config's parts with the data's facts of the same name, in place.

    After this the config describes the model without the data. UserError names a key that no fact fills.
    """
    from omegaconf import OmegaConf

    for part in FILLED:
        for key in [key for key in config[part] if OmegaConf.is_missing(config[part], key)]:
            if key not in facts:
                raise UserError(f"{part}.{key} is not set; the data can fill only: {', '.join(facts)}")
            config[part][key] = facts[key]


def part(config: DictConfig, name: str, **kwargs: object) -> Any:
    """The object of the config's part `name`. UserError names the part if its values are wrong."""
    try:
        return instantiate(config[name], list(config.allow), **kwargs)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: {error}") from error


def build_denoiser(config: DictConfig, codec: Codec) -> Denoiser:
    """The untrained denoiser that the config describes, initialised from its seed."""
    with torch.random.fork_rng(devices=[]):  # initialisation is a function of the seed, and leaves no trace
        torch.manual_seed(config.seed)
        network = part(config, "network")
    parts = {name: part(config, name) for name in ("schedule", "prediction", "space", "weighting")}
    variance = None if config.learned_variance is None else part(config, "learned_variance", codec=codec)
    denoiser = Denoiser(network, **parts, learned_variance=variance)
    return denoiser.to(memory_format=torch.channels_last) if config.trainer.channels_last else denoiser


def build_codec(config: DictConfig) -> Codec:
    codec: Codec = part(config, "codec")
    return codec


def build_modality(config: DictConfig) -> Modality:
    modality: Modality = part(config, "modality")
    return modality


def guided(config: DictConfig, denoiser: BaseDenoiser, codec: Codec) -> BaseDenoiser:
    """The denoiser inside the config's guidance, and inside its clipping where the codec's data has a range."""
    if config.get("guidance"):
        denoiser = part(config, "guidance", denoiser=denoiser)
    if config.get("clip") and codec.range is not None:
        low, high = codec.range
        denoiser = part(config, "clip", denoiser=denoiser, low=low, high=high)
    return denoiser


def build_sampler(config: DictConfig, denoiser: BaseDenoiser) -> tuple[Sampler, torch.Tensor]:
    """The sampler and its list of times, `config.steps` of them."""
    times = part(config, "times", n=config.steps)
    return part(config, "sampler"), times(denoiser.schedule)


def plain(config: DictConfig) -> dict[str, object]:
    """A part of the config as a dictionary, resolved."""
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}
