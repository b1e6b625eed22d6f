"""A config builds only what it may, and says in one line what is wrong with it."""

import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf
from runs import compose

from core.build import KINDS, NESTED, part
from core.config import instantiate, load_yaml
from core.errors import UserError

calls: list[str] = []


@pytest.fixture
def package(monkeypatch):
    """A package `toys.shapes` of the user's own, with things in it that are not its own."""
    import os

    source = """
class Circle:
    def __init__(self, radius, colour="red", *, inner=None):
        if radius < 0:
            raise ValueError("negative radius")
        if radius == 0:
            raise TypeError("got an unexpected keyword argument of the body's own")
        self.radius, self.colour, self.inner = radius, colour, inner

class Open:
    def __init__(self, **settings):
        self.settings = settings

def draw(radius):
    return Circle(radius)
"""
    toys, shapes = ModuleType("toys"), ModuleType("toys.shapes")
    exec(source, shapes.__dict__)
    shapes.os, shapes.system, toys.shapes = os, os.system, shapes
    monkeypatch.setitem(sys.modules, "toys", toys)
    monkeypatch.setitem(sys.modules, "toys.shapes", shapes)
    monkeypatch.setattr(os, "system", lambda command: calls.append(command))
    calls.clear()
    return shapes


def build(config, **kwargs):
    return instantiate(config, allow=["toys"], **kwargs)


TARGETS = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "torch.load",
    "torch.nn.Linear",
    "subprocess.Popen",
    "hydra.utils.instantiate",
    "core",
    "core.config.os.system",
    "core.config.importlib.import_module",
    "core.config.importlib",
    "core.config.difflib.get_close_matches",
    "core.config.FunctionType",
    "core.config.instantiate",
    "core.config.load_yaml",
    "core.checkpoint.shutil.rmtree",
    "core.tensor_files.save",
    "core.tree.OrderedDict",
    "core.checkpoint.prune",
    "core.checkpoint.remove",
    "core.__builtins__.eval",
    "core.config.__builtins__",
    "core.config.__loader__.load_module",
    "core.config._locate",
    "core..config.Something",
    ".core.config",
    "core.config.",
    "core/config.instantiate",
    "corebutnot.thing.Name",
    "toys.shapes.os.system",
    "toys.shapes.system",
    "toys.shapes.draw",
    "toys.shapes.Circle.__init__",
    "toys.shapes.Circle.mro",
    "${oc.env:HOME}",
    "\\${oc.env:HOME}",
    "",
    None,
    3,
    ["os.system"],
    {"_target_": "os.system"},
]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_target_that_is_not_allowed_is_refused_before_anything_is_built(package, monkeypatch, target, nested):
    monkeypatch.setattr(package.Circle, "__init__", lambda self, **kwargs: calls.append("built"))
    config = {"_target_": target, "command": "touch owned"}
    if nested:
        config = {"_target_": "toys.shapes.Circle", "radius": 1, "inner": [{"deep": config}]}
    with pytest.raises(UserError) as error:
        build(config)
    assert "\n" not in str(error.value)
    assert not calls


def test_names_are_checked_before_the_first_import(package, monkeypatch):
    monkeypatch.delitem(sys.modules, "toys.shapes")
    monkeypatch.setattr("importlib.import_module", lambda name: calls.append(name))
    with pytest.raises(UserError, match=r"os\.system"):
        build({"_target_": "toys.shapes.Circle", "radius": {"_target_": "os.system"}})
    assert not calls


def test_an_interpolation_hides_no_target(package):
    config = OmegaConf.create(
        {"name": "os.system", "bad": {"_target_": "${name}", "command": "x"}, "top": {"_target_": "${bad._target_}"}}
    )
    for node in (config.bad, config.top):
        with pytest.raises(UserError, match=r"os\.system"):
            build(node)
    created = "oc.create:'{_target_: os.system, command: x}'"
    for inner, message in [(f"${{{created}}}", r"os\.system"), (f"\\${{{created}}}", "interpolation within")]:
        with pytest.raises(UserError, match=message):
            build({"_target_": "toys.shapes.Circle", "radius": 1, "inner": inner})
    assert not calls


@pytest.mark.parametrize("key", ["_args_", "_call_", "_mode_"])
def test_other_special_keys_are_refused(package, key):
    with pytest.raises(UserError, match=key):
        build({"_target_": "toys.shapes.Circle", "radius": 1, key: ["x"]})


def test_a_package_must_be_allowed_by_name(package):
    config = {"_target_": "toys.shapes.Circle", "radius": 1}
    with pytest.raises(UserError, match=r"toys\.shapes\.Circle.*core, modalities"):
        instantiate(config)
    assert build(config).radius == 1


def test_builds_what_it_describes(package):
    config = OmegaConf.create(
        {
            "size": 3,
            "circle": {
                "_target_": "toys.shapes.Circle",
                "radius": "${size}",
                "colour": "???",
                "inner": [{"_target_": "toys.shapes.Circle", "radius": 4}, {"a": [1]}],
            },
        }
    )
    circle = build(config.circle, colour="blue")
    assert (circle.radius, circle.colour, circle.inner[0].radius) == (3, "blue", 4)
    assert [type(part) for part in (circle.inner, circle.inner[1], circle.inner[1]["a"])] == [list, dict, list]
    assert OmegaConf.is_missing(config.circle, "colour"), "the config itself is left as it was"


def test_keyword_arguments_reach_the_constructor_as_they_are(package):
    @dataclass
    class Point:
        x: int

    point, names = Point(1), {"_target_": "os.system"}
    circle = build({"_target_": "toys.shapes.Circle", "radius": 1}, inner=point, colour=names, radius=5)
    assert circle.inner is point
    assert circle.colour is names
    assert circle.radius == 5


def test_partial(package):
    make = build({"_target_": "toys.shapes.Circle", "_partial_": True, "colour": "blue"}, inner=1)
    assert (make(radius=2).radius, make(radius=2).colour, make(radius=2).inner) == (2, "blue", 1)


def test_an_unknown_key_is_named_with_its_class_and_the_keys_there_are(package):
    for config in (
        {"_target_": "toys.shapes.Circle", "radius": 1, "color": "red"},
        {"_target_": "toys.shapes.Open", "a": {"_target_": "toys.shapes.Circle", "radius": 1, "color": "red"}},
    ):
        with pytest.raises(UserError) as error:
            build(config)
        message = "toys.shapes.Circle has no key 'color' (did you mean 'colour'?); it accepts radius, colour, inner"
        assert str(error.value).removeprefix("a: ") == message
    assert build({"_target_": "toys.shapes.Open", "anything": 1}).settings == {"anything": 1}


def test_a_missing_argument_is_named(package):
    for config in ({"_target_": "toys.shapes.Circle"}, {"_target_": "toys.shapes.Circle", "radius": "???"}):
        with pytest.raises(UserError, match=r"Circle needs a value for radius$"):
            build(config)
        with pytest.raises(UserError, match=r"^inner: toys.shapes.Circle needs a value for radius$"):
            build({"_target_": "toys.shapes.Circle", "radius": 1, "inner": config})


def test_errors_of_a_constructor_are_not_hidden(package):
    for radius, kind, message in [(-1, ValueError, "negative radius"), (0, TypeError, "the body's own")]:
        config = {"_target_": "toys.shapes.Circle", "radius": radius}
        for whole in (config, {"_target_": "toys.shapes.Circle", "radius": 1, "inner": config}):
            with pytest.raises(kind, match=message):
                build(whole)


def test_what_is_not_there_is_said_in_one_line(package, monkeypatch):
    for target, message in [
        ("toys.shapes.Circel", "did you mean 'Circle'"),
        ("toys.forms.Circle", "no module toys.forms"),
        ("core.errors.UsrError", "did you mean 'UserError'"),
    ]:
        with pytest.raises(UserError, match=message):
            build({"_target_": target})

    def needs_torchaudio(name):
        raise ModuleNotFoundError("No module named 'torchaudio'", name="torchaudio")

    monkeypatch.setattr("importlib.import_module", needs_torchaudio)
    with pytest.raises(UserError, match=r"toys\.shapes\.Circle needs the package torchaudio"):
        build({"_target_": "toys.shapes.Circle"})


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "text", "", "a: !!python/object/apply:os.system ['touch owned']"])
def test_yaml_that_is_no_config(package, text):
    with pytest.raises(UserError) as error:
        load_yaml(text)
    assert "\n" not in str(error.value)
    assert not calls


def test_yaml():
    assert load_yaml("a: 1\nb: {c: '${a}', d: 1e-4}") == {"a": 1, "b": {"c": 1, "d": 1e-4}}


def test_importing_config_is_light():
    code = "import sys, core.config; print(*{'torch', 'lightning', 'hydra', 'omegaconf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def part_of(name, config, *overrides):
    """The part of the default config with something else in its place, as a checkpoint from elsewhere could have it."""
    whole = compose("train", *overrides)
    OmegaConf.set_struct(whole, False)
    whole[name] = config
    return part(whole, name)


REPORTER = {"_target_": "core.runs.Reporter", "folder": "."}
WITHIN = [("network", "features"), ("schedule", "schedule"), ("modality", "extractor")]
PICTURES = {"_target_": "modalities.image.torchvision_sets.TorchvisionImages", "name": "CIFAR10"}


@pytest.mark.parametrize("config", [REPORTER, PICTURES], ids=lambda config: config["_target_"])
@pytest.mark.parametrize("name", KINDS)
def test_a_part_is_built_of_its_own_kind_alone(name, config, tmp_path, monkeypatch):
    if name == "data" and config is PICTURES:
        return  # that is where it belongs
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cannot stand here: it is no \w+$"):
        part_of(name, config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [REPORTER, PICTURES], ids=lambda config: config["_target_"])
@pytest.mark.parametrize(("name", "key"), WITHIN)
def test_nothing_but_parts_within_a_part(name, key, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled = {"network": {"channels": 1, "num_classes": 2}, "modality": {"shape": [1], "classes": []}, "schedule": {}}
    chosen = compose("train", "schedule=shifted_cosine")[name]
    OmegaConf.set_struct(chosen, False)
    chosen.update({**filled[name], key: config})
    with pytest.raises(UserError, match=f"{key}: {config['_target_']} cannot stand here"):
        part_of(name, chosen)
    assert not list(tmp_path.iterdir())


def test_a_class_of_an_allowed_package_may_stand_within_a_part(package):
    circle = {"_target_": "toys.shapes.Circle", "radius": 1}
    shifted = {"_target_": "core.schedules.Shifted", "schedule": circle, "log_snr_shift": 0}
    with pytest.raises(UserError, match="cannot stand here: it is no Schedule"):
        instantiate(circle, ["toys"], KINDS["schedule"], NESTED)
    with pytest.raises(AttributeError):  # it is built, and then of no use
        instantiate(shifted, ["toys"], KINDS["schedule"], NESTED).log_snr(torch.ones(1))


def test_data_do_not_say_where_torchvision_reads(tmp_path, cache):
    options = {"root": str(tmp_path), "download": False}
    with pytest.raises(UserError, match=r"data\.options\.root"):
        part_of("data", {**PICTURES, "options": options})
