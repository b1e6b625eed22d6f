"""From a run's config to its objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from core.batch import Batch
from core.codec import Codec
from core.config import instantiate
from core.data import Data, Source, whole
from core.denoiser import BaseDenoiser, Denoiser, LearnedVariance
from core.editing import Method, Operator
from core.errors import UserError
from core.levels import Discrete, NoiseLevels
from core.modality import Instrument, Modality
from core.prediction import Prediction
from core.reverse import ReverseVariance
from core.samplers import Sampler
from core.schedules import Schedule
from core.space import Space
from core.times import Times
from core.weighting import Weighting

if TYPE_CHECKING:
    from omegaconf import DictConfig

FIT_SAMPLES = 2048  # training samples that a codec may look at
FILLED = ("codec", "modality", "network", "prediction", "weighting")  # the parts whose `???` facts may fill, in order
# What each part must be: a config from elsewhere is to build no object that writes or downloads in a network's place.
KINDS: Mapping[str, type] = {
    "data": Data,
    "modality": Modality,
    "codec": Codec,
    "network": nn.Module,
    "schedule": Schedule,
    "prediction": Prediction,
    "space": Space,
    "weighting": Weighting,
    "levels": NoiseLevels,
    "learned_variance": LearnedVariance,
    "sampler": Sampler,
    "times": Times,
    "guidance": BaseDenoiser,
    "clip": BaseDenoiser,
    "method": Method,
    "measurement": Operator,
}
# What may stand within a part; a class of a package that the user allows may always.
NESTED = (nn.Module, Schedule, Prediction, Weighting, Space, Codec, ReverseVariance, Sampler, Instrument)
CHOICES = {
    "guidance": "guidance=classifier_free",
    "clip": "clip=range or clip=dynamic",
    "method": "method=replace, method=pigdm or method=dps",
    "measurement": "measurement=downsample, for example",
}  # of the parts that may be none


def fill(config: DictConfig, facts: Mapping[str, object]) -> None:
    """Fills the `???` of the config's parts with the facts of the same name, the data's or else its codec's, in place.

    After this the config describes the model without the data. A network of no classes makes a model without labels,
    whatever the data has. UserError names a key that no fact fills.
    """
    from omegaconf import OmegaConf

    if OmegaConf.select(config, "network.num_classes") == 0 or OmegaConf.select(config, "network.conditions") == {}:
        facts = {**facts, "num_classes": 0, "classes": [], "conditions": {}}
    if OmegaConf.select(config, "network.properties") == {}:
        facts = {**facts, "properties": {}}
    for part in FILLED:
        for key in [key for key in config[part] if OmegaConf.is_missing(config[part], key)]:
            if key not in facts and part != "codec":
                facts = {**build_codec(config).facts(facts), **facts}
            if key not in facts:
                raise UserError(f"{part}.{key} is not set; the data can fill only: {', '.join(facts)}")
            config[part][key] = facts[key]


def part(config: DictConfig, name: str, **kwargs: object) -> Any:
    """The object of the config's part `name`. UserError names the part if its values are wrong."""
    try:
        return instantiate(config[name], list(config.allow), KINDS[name], NESTED, **kwargs)
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


def build_levels(config: DictConfig) -> NoiseLevels:
    """The noise levels of training. UserError where a learned variance's bound has other steps."""
    levels: NoiseLevels = part(config, "levels")
    steps = None if config.learned_variance is None else config.learned_variance.num_steps
    if steps is not None and not (isinstance(levels, Discrete) and levels.num_steps == steps):
        raise UserError(f"learned_variance needs levels=discrete levels.num_steps={steps}, the steps of its bound")
    return levels


@torch.no_grad()
def try_once(denoiser: Denoiser, template: Batch) -> None:
    """One call on one sample of the template's shape: UserError, in one line, if the network does not fit it."""
    training = denoiser.training
    try:
        denoiser.eval()(template.x, torch.full((len(template),), 0.5), template.mask, template.cond)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        shape = "x".join(map(str, template.x.shape[1:]))
        raise UserError(f"the network cannot take a sample of {shape}: {' '.join(str(error).split())}") from error
    finally:
        denoiser.train(training)


def fitted_codec(config: DictConfig, source: Source) -> Codec:
    """The codec with what it takes from training data, which becomes part of the config."""
    from omegaconf import OmegaConf, open_dict

    codec = build_codec(config)
    if found := codec.fit(whole(source, FIT_SAMPLES)):
        with open_dict(config):
            config.codec = OmegaConf.merge(config.codec, _unset(config.codec, found))
        codec = build_codec(config)
    return codec


def _unset(config: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What of the found values the config does not set itself."""
    parts = {name: value for name, value in found.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in found.items() if name not in parts and config.get(name) is None}
    return plain | {name: _unset(config.get(name) or {}, value) for name, value in parts.items()}


def build_codec(config: DictConfig) -> Codec:
    codec: Codec = part(config, "codec")
    return codec


def build_modality(config: DictConfig) -> Modality:
    modality: Modality = part(config, "modality")
    return modality


def guided(config: DictConfig, denoiser: BaseDenoiser, codec: Codec) -> BaseDenoiser:
    """The denoiser inside the config's guidance, and inside its clipping where the codec's data has a range."""
    if _chosen(config, "guidance"):
        denoiser = part(config, "guidance", denoiser=denoiser)
    if _chosen(config, "clip") and codec.range is not None:
        low, high = codec.range
        denoiser = part(config, "clip", denoiser=denoiser, low=low, high=high)
    return denoiser


def _chosen(config: DictConfig, name: str) -> bool:
    """Whether there is such a part; UserError for a key of one where there is none."""
    node = config.get(name) or {}
    if node.get("_target_") is not None:
        return True
    for key in node:
        if key != "_target_":
            raise UserError(f"{name}.{key}={node[key]}: there is no {name} to set it of; choose {CHOICES[name]}")
    return False


def build_method(config: DictConfig) -> Method | None:
    """How an edit follows what is known; None for the usual one."""
    method: Method | None = part(config, "method") if _chosen(config, "method") else None
    return method


def build_operator(config: DictConfig) -> Operator | None:
    """What was measured of the samples; None where nothing was."""
    operator: Operator | None = part(config, "measurement") if _chosen(config, "measurement") else None
    return operator


def build_sampler(config: DictConfig, denoiser: BaseDenoiser) -> tuple[Sampler, torch.Tensor]:
    """The sampler and its list of times, `config.steps` of them."""
    times = part(config, "times", n=config.steps)
    try:
        return part(config, "sampler"), times(denoiser.schedule)
    except ValueError as error:  # a grid that this schedule has no room for
        raise UserError(f"times: {error}") from error


def plain(config: DictConfig) -> dict[str, object]:
    """A part of the config as a dictionary, resolved."""
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}
