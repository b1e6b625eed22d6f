"""From a run's config to its objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from core import checkpoint
from core.batch import Batch
from core.codec import Codec
from core.config import instantiate, load_yaml
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

FIT_SAMPLES = 1024  # training samples that a codec may look at
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
    return _built(config, config[name], name, KINDS[name], **kwargs)


def _built(config: DictConfig, node: DictConfig, where: str, kind: type, **kwargs: object) -> Any:
    try:
        return instantiate(node, list(config.allow), kind, NESTED, **kwargs)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from error


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


def load_denoiser(folder: Path, averaged: bool, allow: Sequence[str]) -> tuple[Denoiser, Codec, DictConfig]:
    """The trained denoiser of a step folder, its codec and its config. Nothing is executed or unpickled."""
    config = load_yaml(checkpoint.load_config_text(folder))
    config.allow = sorted(set(allow))
    codec = build_codec(config)
    denoiser = build_denoiser(config, codec)
    denoiser.load_state_dict(checkpoint.load_weights(folder, averaged))
    return denoiser.eval(), codec, config


def guided(config: DictConfig, denoiser: BaseDenoiser, codec: Codec) -> BaseDenoiser:
    """The denoiser inside the config's guidance, and inside its clipping where the codec's data has a range."""
    wrapped = denoiser
    if _chosen(config, "guidance"):
        wrapped = _within(config, config.guidance, "guidance", denoiser)
    if _chosen(config, "clip") and codec.range is not None:
        low, high = codec.range
        wrapped = part(config, "clip", denoiser=wrapped, low=low, high=high)
    home = next((parameter.device for parameter in denoiser.parameters()), None)
    return wrapped if home is None else wrapped.to(home)


def _within(config: DictConfig, node: DictConfig, where: str, denoiser: BaseDenoiser) -> BaseDenoiser:
    """The denoiser inside the guidance of a node; first inside that of the node's own `denoiser`, if it has one."""
    from omegaconf import OmegaConf

    node = node.copy()
    OmegaConf.set_struct(node, False)
    if "denoiser" in node:
        # an interpolation could lead back to where it stands
        if OmegaConf.is_interpolation(node, "denoiser") or not OmegaConf.is_dict(node.denoiser):
            raise UserError(f"{where}.denoiser must be guidance, with a _target_ of its own")
        denoiser = _within(config, node.pop("denoiser"), f"{where}.denoiser", denoiser)
    given: dict[str, object] = {}
    if OmegaConf.is_dict(node.get("negative")):
        given["negative"] = _numbers(config, f"{where}.negative", plain(node.negative))
    if isinstance(weaker := node.get("weaker"), str):
        given["weaker"] = _weaker(config, f"{where}.weaker={weaker}", weaker)
    built: BaseDenoiser = _built(config, node, where, KINDS["guidance"], denoiser=denoiser, **given)
    return built


def _numbers(config: DictConfig, where: str, wanted: Mapping[str, object]) -> dict[str, object]:
    """What conditions are to a network, from what they are to the modality: a class's number from its name."""
    found = build_modality(config).template(1, wanted).cond
    if unknown := [name for name in wanted if name not in found]:
        raise UserError(f"{where}.{unknown[0]}={wanted[unknown[0]]}: no condition that a network is told")
    return {name: found[name].item() for name in wanted}


def _weaker(config: DictConfig, where: str, path: str) -> Denoiser:
    """The denoiser of another run, if it is of the same task."""
    denoiser, _, other = load_denoiser(checkpoint.find(path), True, list(config.allow))
    ours, theirs = _task(config), _task(other)
    for name in ours:
        if ours[name] != theirs[name]:
            parts = ", ".join(ours)
            raise UserError(f"{where}: its {name} is another; to guide, a weaker model must have the same {parts}")
    return denoiser


def _task(config: DictConfig) -> dict[str, object]:
    """What two models must share for one's answers to mean something to the other."""
    modality = plain(config.modality)
    # what stands nested in a codec, such as a vocoder, only decodes
    codec = {key: value for key, value in plain(config.codec).items() if not isinstance(value, dict)}
    conditions = {key: modality.get(key) or None for key in ("classes", "conditions")}
    properties = modality.get("properties") or {}
    assert isinstance(properties, dict)
    return {
        "schedule": plain(config.schedule),
        "space": plain(config.space),
        "codec": codec,
        "conditions": {**conditions, "properties": sorted(properties)},
    }


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
