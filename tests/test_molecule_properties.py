"""Properties as conditions: a regressor of them, what it says of samples, and that samples hear what is asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from molecule_examples import ATOMS, atoms_of
from molecule_laws import orthogonal
from runs import TINY, compose, sample
from safetensors import safe_open
from torch import Tensor, nn

pytest.importorskip("rdkit")

from benchmarks import molecule_properties
from benchmarks.molecule_properties import Options, by_size, judge, shuffled
from core.build import part
from core.cli import with_options
from core.data import whole
from core.errors import UserError
from core.fit import fit
from core.model import Model, load
from core.objective import Objective
from core.output import read_arrays
from core.weights import save
from modalities.molecules import regressor as module
from modalities.molecules.files import Xyz
from modalities.molecules.regressor import Regressor, mean_absolute_errors, train

SMALL = {"width": 16, "depth": 2, "vectors": 8, "radial": 8, "scalar_channels": 2, "vector_channels": 2}
SIZES = tuple(f"network.{name}={value}" for name, value in SMALL.items())
MOLECULES = 240
VALUES = dict(zip(ATOMS, (2.0, 4.0, 5.0, 7.0, 8.0, 10.0), strict=True))


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Small molecules, each a little stretched; their `gap` is a number of their kind plus how far they are."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(MOLECULES):
        name = rng.choice(list(ATOMS))
        symbols, places = atoms_of(name)
        stretch = rng.uniform(-0.1, 0.1)
        lines = [f"{s} {x} {y} {z}" for s, (x, y, z) in zip(symbols, (places * (1 + stretch)).tolist(), strict=True)]
        frames.append("\n".join([str(len(symbols)), f"gap={VALUES[name] + 10 * stretch} twice={2 * stretch}", *lines]))
    file = tmp_path_factory.mktemp("toys") / "toys.xyz"
    file.write_text("\n".join(frames) + "\n")
    return file


@pytest.fixture(scope="session")
def data(path: Path) -> Xyz:
    return Xyz(str(path), properties=["gap", "twice"], val=0.1, test=0.25, half="first")


@pytest.fixture(scope="session")
def regressor(data: Xyz) -> Regressor:
    return train(data, steps=500, batch_size=16, lr=5e-3, report=lambda line: None, **SMALL)


@pytest.fixture(scope="session")
def file(regressor: Regressor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("regressor") / "toys.safetensors"
    regressor.save(file, {"data": "toys.xyz", "half": "first"})
    return file


@pytest.fixture(scope="session")
def generator(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with the condition `gap`, which learned from the other half. Look, but do not write."""
    of_toys = ("modality=molecules", "data=xyz", f"data.path={path}", "data.val=0.1", "data.test=0.25")
    conditions = ("data.properties=[gap]", "data.half=second", "preview.n=0", "optimisation.warmup=1")
    out = f"out={tmp_path_factory.mktemp('generator') / 'run'}"
    return fit(compose("train", *TINY, *of_toys, *conditions, *SIZES, out))


def shaken(network: nn.Module) -> nn.Module:
    """With every weight moved: nothing is zero, or small, because it starts so."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return network


# The regressor


def test_it_is_invariant() -> None:
    """To rotations, reflections, translations, the order of atoms, padding, and the other molecules of the batch."""
    torch.manual_seed(0)
    regressor = shaken(Regressor(["H", "C"], {"gap": [0, 1], "alpha": [3, 2]}, **SMALL)).double()
    mask = (torch.arange(9) < torch.tensor([6, 1, 4])[:, None]).double()[..., None]
    x = torch.randn(3, 9, 5, dtype=torch.float64) * mask

    def close(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)

    with torch.no_grad():
        out = regressor(x, mask)
        for determinant in (1, -1):
            r = x[..., :3] @ orthogonal(determinant).T + torch.tensor([5.0, -3.0, 1.0])
            close(regressor(torch.cat([r, x[..., 3:]], -1), mask), out)
        close(regressor(x[:1, [4, 2, 0, 5, 1, 3]], mask[:1, :6]), out[:1])
        for row, size in enumerate([6, 1, 4]):
            close(regressor(x[row : row + 1, :size], torch.ones(1, 1, 1, dtype=torch.float64)), out[row : row + 1])
        for changed in (torch.cat([1.1 * x[..., :3], x[..., 3:]], -1), torch.cat([x[..., :3], -x[..., 3:]], -1)):
            assert (regressor(changed, mask) - out)[0].abs().min() > 1e-3, "it sees shapes and elements"


def test_it_learns_the_kind_and_the_shape(data: Xyz, regressor: Regressor) -> None:
    test = whole(data.test)
    errors = mean_absolute_errors(regressor, test)
    assert errors["gap"] < 0.15 * (test.cond["gap"] - test.cond["gap"].mean()).abs().mean()
    assert errors["twice"] < 0.5 * test.cond["twice"].abs().mean(), "equal for all kinds: their shapes alone tell"


def test_training_is_a_function_of_the_seed(data: Xyz) -> None:
    """What else has been drawn from torch's generator changes nothing."""
    found = []
    for seed in (0, 0, 1):
        torch.rand(3)
        network = train(data, steps=3, batch_size=8, seed=seed, report=lambda line: None, **SMALL)
        found.append(network.predict(whole(data.test))["gap"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_predictions_do_not_depend_on_how_many_there_are(data: Xyz, regressor: Regressor) -> None:
    batch = whole(data.train)
    assert len(batch) > 20
    rows = torch.arange(len(batch)).flip(0)[:20]
    some = regressor.predict(batch[rows])
    for name, values in regressor.predict(batch).items():
        torch.testing.assert_close(some[name], values[rows], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="3 columns of elements"):
        regressor.predict(batch.with_x(batch.x[..., :6]))


def test_a_file_holds_all_of_it(data: Xyz, regressor: Regressor, file: Path, tmp_path: Path) -> None:
    loaded, test = Regressor.load(file), whole(data.test)
    assert loaded.metadata["half"] == "first"
    assert loaded.settings == {"elements": data.elements, "properties": regressor.properties, **SMALL}
    for name, values in regressor.predict(test).items():
        torch.testing.assert_close(loaded.predict(test)[name], values, atol=0.01 * float(values.std()), rtol=0)
    loaded.save(tmp_path / "again.safetensors", {})
    again = Regressor.load(tmp_path / "again.safetensors").predict(test)
    assert torch.equal(again["gap"], loaded.predict(test)["gap"]), "weights of a file do not change any more"


def test_other_files_are_refused(regressor: Regressor, tmp_path: Path) -> None:
    torch.save(regressor.state_dict(), tmp_path / "pickle.pt")
    with pytest.raises(UserError, match=r"pickle\.pt cannot be read"):
        Regressor.load(tmp_path / "pickle.pt")
    with pytest.raises(UserError, match=r"nowhere cannot be read"):
        Regressor.load(tmp_path / "nowhere")
    for text in ("[1]", "{", '{"elements": ["H"]}', '{"elements": ["H"], "properties": {"gap": 3}}'):
        save(regressor, tmp_path / "other.safetensors", {"regressor": text})
        with pytest.raises(UserError, match=r"other.safetensors holds no regressor of properties"):
            Regressor.load(tmp_path / "other.safetensors")
    save(nn.Linear(2, 2), tmp_path / "linear.safetensors", {})
    with pytest.raises(UserError, match=r"linear.safetensors holds no regressor of properties"):
        Regressor.load(tmp_path / "linear.safetensors")


def test_the_command_trains_and_measures(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "regressor.safetensors"
    toys = f"overrides=data=xyz data.path={path} data.test=0.25"
    arguments = ["property=gap,twice", "minutes=0.001", "half=second", "batch_size=999", f"out={out}", toys]
    monkeypatch.setattr("sys.argv", ["regressor", *arguments])
    with_options(module.Options, module.command)
    with safe_open(out, framework="pt") as opened:
        about = opened.metadata()
    errors = mean_absolute_errors(
        Regressor.load(out), whole(Xyz(str(path), properties=["gap", "twice"], test=0.25).test)
    )
    assert json.loads(about["test_mean_absolute_errors"]) == errors
    assert (about["data"], about["half"], about["test_n"]) == ("toys.xyz", "second", "60")
    assert "mean absolute errors on 60 test molecules: gap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("minutes=-1", "minutes=-1.0: must be a positive number"),
        ("property=mass", "data.properties: no molecule of .* has a number mass"),
        ("half=third", "data.half=third: must be first, second or null"),
        ("speed=3", "Key 'speed' not in 'Options'"),
    ],
)
def test_mistakes_are_one_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    monkeypatch.setattr("sys.argv", ["regressor", f"overrides=data=xyz data.path={path}", argument])
    with pytest.raises(SystemExit) as end:
        with_options(module.Options, module.command)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert re.search(message, line)


# What it is compared with


def test_shuffled_is_the_mean_over_all_shuffles() -> None:
    values = torch.tensor([1.0, 2.0, 4.0])
    assert shuffled(values, values) == pytest.approx((1 + 3 + 2) / 3)
    found = torch.randn(7, generator=torch.Generator().manual_seed(0))
    wanted = torch.randn(7, generator=torch.Generator().manual_seed(1))
    turns = [(found - wanted.roll(turn)).abs().double().mean() for turn in range(1, 7)]
    assert shuffled(found, wanted) == pytest.approx(float(sum(turns) / 6))


def test_sizes_have_their_training_mean() -> None:
    known, values = torch.tensor([3, 3, 5, 9]), torch.tensor([1.0, 2.0, 7.0, 2.0])
    assert by_size(known, values, torch.tensor([5, 3, 4, 20])).tolist() == [7, 1.5, 3, 3]


def test_the_errors_of_some_alone(data: Xyz, regressor: Regressor) -> None:
    """Of the toys, radicals are not stable, and stretched ones may not be; all are valid to RDKit."""
    batch = whole(data.test)
    one = judge(batch, batch.cond, regressor)
    figures, errors = one.figures(), (one.found["gap"] - batch.cond["gap"]).abs()
    assert 0 < figures["stable"] < 1
    assert figures["gap"] == pytest.approx(float(errors.mean()))
    assert figures["gap: stable ones"] == pytest.approx(float(errors[one.stable].mean()))
    assert figures["gap: standard error"] == pytest.approx(float(errors.std()) / len(batch) ** 0.5)
    shares = (
        figures["stable"] * figures["gap: stable ones"],
        (1 - figures["stable"]) * float(errors[~one.stable].mean()),
    )
    assert figures["gap"] == pytest.approx(sum(shares))


def options(generator: Path, file: Path, out: Path, **others: object) -> Options:
    return Options(str(generator), str(file), **{"n": 12, "steps": 2, "micro_batch": 5, "out": str(out), **others})


def test_the_benchmark(
    generator: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = options(generator, file, tmp_path, guidance="1,2")
    figures = molecule_properties.main(chosen)
    assert list(figures) == ["shuffled", "size only", "guidance 1", "guidance 2", "real"]
    assert figures["real"]["gap"] < 0.3 * figures["shuffled"]["gap"]
    assert figures["real"]["gap"] < figures["size only"]["gap"] < figures["shuffled"]["gap"]
    assert json.loads((tmp_path / "molecule_properties.json").read_text())["figures"] == figures
    assert (tmp_path / "molecule_properties.png").stat().st_size > 0
    assert "note:" not in capsys.readouterr().out
    held_out = whole(part(load(generator).config, "data").test, 12)
    samples = read_arrays(tmp_path / "guidance-2" / "samples.npz")
    pairs = [sorted(zip(b.mask.sum((1, 2)).tolist(), b.cond["gap"].tolist(), strict=True)) for b in (held_out, samples)]
    assert pairs[0] == pairs[1], "sizes and properties of the same molecules"

    monkeypatch.setattr(Model, "draw", lambda *_: pytest.fail("what is finished is not drawn again"))
    assert molecule_properties.main(chosen) == figures


def test_what_was_seen_twice_is_said(
    generator: Path, regressor: Regressor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regressor.save(tmp_path / "same.safetensors", {"data": "others", "half": "second"})
    molecule_properties.main(options(generator, tmp_path / "same.safetensors", tmp_path, guidance="1"))
    out = capsys.readouterr().out
    assert "note: data.half=second of the generator and second of the regressor: both have seen the same mol" in out
    assert "note: the generator has learned from toys.xyz, the regressor from others" in out


def test_what_cannot_be_measured_is_said(generator: Path, file: Path, regressor: Regressor, tmp_path: Path) -> None:
    def refused(message: str, file: Path = file, **others: object) -> None:
        with pytest.raises(UserError, match=message):
            molecule_properties.main(options(generator, file, tmp_path, **others))

    refused("guidance=a,2: must be numbers separated by commas, such as 1,1.5,2", guidance="a,2")
    refused("n=1: must be a whole number of at least 2", n=1)
    refused("n=99: there are only 60 held-out molecules to ask after", n=99)
    other = tmp_path / "other.safetensors"
    Regressor(regressor.elements, {"mu": [0, 1]}, **SMALL).save(other, {})
    refused("the generator's properties are gap; the regressor knows mu", other)
    Regressor(["H", "C"], {"gap": [0, 1]}, **SMALL).save(other, {})
    refused("the generator's elements are H, C, N, O; the regressor knows H, C", other)


# What samples hear


def drawn(model: Model, scale: float = 1, **cond: object) -> Tensor:
    model.config.guidance = {"_target_": "core.guidance.ClassifierFree", "scale": scale}
    return model.sample(3, steps=4, n_atoms=5, **cond).x


def test_samples_follow_the_property_and_guidance(generator: Path) -> None:
    model = load(generator, device="cpu")
    shaken(model.denoiser)
    told, same, other, none = drawn(model, gap=5), drawn(model, gap=5), drawn(model, gap=9), drawn(model)
    assert torch.equal(told, same)
    for one, two in ((told, other), (told, none), (told, drawn(model, 3, gap=5))):
        assert (one - two)[..., :3].abs().amax((1, 2)).min() > 1e-3
    torch.testing.assert_close(drawn(model, 0, gap=5), none, atol=1e-4, rtol=1e-4)


def test_training_drops_some_of_the_conditions(generator: Path) -> None:
    """The share that is trained without them; guidance needs it."""
    model = load(generator, device="cpu")
    seen: list[Tensor] = []
    model.denoiser.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[3]["drop"]))
    objective = Objective(part(model.config, "levels"), model.config.training.drop_rate)
    batch = model.codec.encode(whole(part(model.config, "data").train))
    for step in range(10):
        objective.training(model.denoiser, batch, step, torch.arange(len(batch)), len(batch))
    share = torch.cat(seen).double().mean()
    assert model.config.training.drop_rate == 0.1
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / torch.cat(seen).numel()) ** 0.5


def test_what_was_asked_for_stands_in_the_files(generator: Path, tmp_path: Path) -> None:
    folder = sample(generator, tmp_path, "n=2", "cond.gap=5.25", "cond.n_atoms=4")
    samples = read_arrays(folder / "samples.npz")
    assert samples.cond["gap"].tolist() == [5.25, 5.25]
    assert (folder / "samples.sdf").read_text().count(">  <gap>\n5.25\n") == 2
    assert load(generator).modality.read(folder).cond["gap"].tolist() == [5.25, 5.25]
