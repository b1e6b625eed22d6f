"""Configs: YAML into objects, safely. A config may come with a checkpoint from elsewhere, so it may build only objects
of classes that this project, or a package that the user allows by name, defines. It may call no function: many write or
remove files, and `instantiate` itself would build anything."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.errors import UserError, reason_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

OWN_PACKAGES = ("core", "modalities")

SETTINGS = {"_target_", "_recursive_", "_convert_", "_partial_"}
MISSING = "???"
LONGEST, DEEPEST = 1_000_000, 50  # characters of a config, and lists and mappings within one another


def load_yaml(text: str) -> DictConfig:
    """A config from YAML text: data alone, a mapping at its top. UserError if it is anything else.

    No Python tags, no resolvers (`${oc.env:HOME}` would read what is none of a config's business), and no anchors, by
    which a few lines become any number of values.
    """
    import yaml  # type: ignore[import-untyped]
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if len(text) > LONGEST:
        raise UserError(f"the config has {len(text):,} characters; allowed are {LONGEST:,}")
    if resolver := re.search(r"\$\{[^${}\n]*:", text):
        raise UserError(f"the config asks for {resolver.group()}...}}: resolvers are not allowed")
    try:
        _check_tokens(yaml.scan(text))
        is_mapping = isinstance(yaml.safe_load(text), dict)  # OmegaConf takes bare text for a key without a value
        config = OmegaConf.create(text) if is_mapping else None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(f"the config is not valid YAML: {_one_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError("the config is not a mapping of keys to values")
    return config


def _check_tokens(tokens: Iterable[Any]) -> None:
    """UserError for anchors that are referred to, and for what is nested deeper than any config."""
    import yaml

    depth = 0
    for token in tokens:
        if isinstance(token, yaml.AliasToken):
            raise UserError("the config has YAML anchors that it refers to (*name): they are not allowed")
        name = type(token).__name__
        depth += name.endswith(("SequenceStartToken", "MappingStartToken")) - name.endswith("EndToken")
        if depth > DEEPEST:
            raise UserError(f"the config is nested more than {DEEPEST} deep")


def instantiate(
    config: DictConfig | Mapping[str, Any],
    allow: Sequence[str] = (),
    kind: type = object,
    nested: tuple[type, ...] = (object,),
    **kwargs: Any,
) -> Any:
    """The object that `config` describes by its `_target_` and arguments, nested ones first (as Hydra does it).

    config: resolved, or resolvable. Lists and mappings reach the constructors as plain list and dict.
    allow:  packages whose classes it may name, besides `core` and `modalities`.
    kind:   what the object must be: a base class, or a protocol whose methods it must have.
    nested: the base classes of what may stand within it; those of the packages in `allow` always may.
    kwargs: further arguments, passed as they are; they override those of the config, and fill its `???`.

    All of the config is checked before any of it is built: UserError in one line for a target that is not allowed, an
    unknown key, or an argument that is missing. An error that a constructor raises comes out as it is.
    """
    import hydra.utils
    from hydra.errors import InstantiationException

    tree = _resolved(config)
    if "_target_" not in tree:
        raise UserError(f"the config has no _target_, but only the keys {', '.join(map(str, tree)) or '(none)'}")
    nodes = list(_nodes(tree))
    for where, node in nodes:  # every name before the first import
        _check_name(node["_target_"], where, allow)
    for where, node in nodes:
        found = _locate(node["_target_"], where, allow)
        wanted = (kind,) if node is tree else nested
        trusted = node is not tree and found.__module__.split(".")[0] in allow
        if not trusted and not any(_is_a(found, base) for base in wanted):
            names = " or ".join(base.__name__ for base in wanted)
            raise UserError(f"{_place(where)}{node['_target_']} cannot stand here: it is no {names}")
        _check_arguments(node, where, found, kwargs if node is tree else ())
    try:
        # Hydra would copy kwargs, and take a dataclass among them for a config: only the last call sees them.
        build = hydra.utils.instantiate({"_convert_": "all", **tree, "_partial_": True})
        return functools.partial(build, **kwargs) if tree.get("_partial_") else build(**kwargs)
    except InstantiationException as error:
        raised = _innermost(error)
    raise raised  # outside the handler: it keeps its own cause and context


def _resolved(config: DictConfig | Mapping[str, Any]) -> dict[Any, Any]:
    """The config as plain containers without interpolations."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = config if OmegaConf.is_config(config) else OmegaConf.create(dict(config), flags={"allow_objects": True})
        tree = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {_one_line(error)}") from error
    if not isinstance(tree, dict):
        raise UserError(f"the config is a {type(tree).__name__}, but must be a mapping with a _target_")
    return tree


def _nodes(tree: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a `_target_`, with its dotted place; refuses what Hydra would give a meaning of its own."""
    if isinstance(tree, str) and "${" in tree:
        # An escaped interpolation: it would be resolved a second time, after the checks.
        raise UserError(f"{where or 'the config'} is {tree!r}: an interpolation within an interpolation is not allowed")
    if isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _nodes(value, f"{where}[{i}]")
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield where, tree
        for key, value in tree.items():
            if isinstance(key, str) and re.fullmatch(r"_.*_", key) and key not in SETTINGS:
                raise UserError(f"{_place(where)}the key {key!r} is not allowed; special keys are {_listed(SETTINGS)}")
            yield from _nodes(value, f"{where}.{key}" if where else str(key))


def _check_name(target: Any, where: str, allow: Sequence[str]) -> None:
    parts = target.split(".") if isinstance(target, str) else []
    named = len(parts) > 1 and all(part.isidentifier() and not part.startswith("_") for part in parts)
    if not named or parts[0] not in (*OWN_PACKAGES, *allow):
        raise UserError(_refusal(target, where, allow))


def _locate(target: str, where: str, allow: Sequence[str]) -> type:
    """The class `package.module.Name`, defined in that package (and not only imported there)."""
    module_name, name = target.rsplit(".", 1)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"{_place(where)}{target} needs the package {error.name}, which is not installed"
            ) from error
        raise UserError(f"{_place(where)}there is no module {module_name} for {_refusal(target, '', allow)}") from error
    except AttributeError as error:
        if error.name != name:
            raise
        close = _close(name, dir(error.obj))
        raise UserError(f"{_place(where)}{module_name} has no {name!r}{close}") from error
    package = target.split(".")[0]
    home = getattr(found, "__module__", None) or ""
    if not isinstance(found, type) or home.split(".")[0] != package:
        raise UserError(_refusal(target, where, allow))
    return found


def _is_a(found: type, kind: type) -> bool:
    if not getattr(kind, "_is_protocol", False):
        return issubclass(found, kind)
    methods = [name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")]
    return all(callable(getattr(found, name, None)) for name in methods)


def _check_arguments(node: Mapping[str, Any], where: str, target: type, given: Collection[str]) -> None:
    """Refuses unknown keys and missing arguments, as the call would, but naming them for the reader of a config."""
    name = node["_target_"]
    parameters = inspect.signature(target).parameters.values()
    accepted = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    keys = [key for key in [*node, *given] if key not in SETTINGS]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in keys:
            if key not in accepted:
                takes = f"it accepts {', '.join(accepted)}" if accepted else "it accepts none"
                raise UserError(f"{_place(where)}{name} has no key {key!r}{_close(str(key), accepted)}; {takes}")
    if node.get("_partial_"):
        return  # the rest comes with the call
    unset = [key for key in node if node[key] == MISSING and key not in given]
    required = [key for key, p in accepted.items() if p.default is p.empty and key not in keys]
    if unset or required:
        raise UserError(f"{_place(where)}{name} needs a value for {', '.join([*unset, *required])}")


def _innermost(error: BaseException) -> BaseException:
    """What a constructor raised, out of the wrappings of Hydra."""
    from hydra.errors import InstantiationException

    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _refusal(target: Any, where: str, allow: Sequence[str]) -> str:
    packages = _listed((*OWN_PACKAGES, *allow))
    return (
        f"{_place(where)}_target_ {target!r}: a config may name only classes defined in the packages {packages}"
        " (allow=[package] adds another)"
    )


def _place(where: str) -> str:
    return f"{where}: " if where else ""


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def _close(word: str, words: Collection[str]) -> str:
    matches = difflib.get_close_matches(word, [w for w in words if not w.startswith("_")], n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _one_line(error: Exception) -> str:
    return reason_of(error)
