"""Steering by a regressor: its formula, its symmetries, samples that come nearer, and safe files only."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import known, random_mask
from molecule_laws import orthogonal
from runs import TINY, Outcome, compose, sample
from test_configs import SMALL_MOLECULES
from torch import Tensor

from core import times
from core.batch import Batch
from core.denoiser import Denoiser
from core.errors import UserError
from core.fit import fit
from core.guidance import ClassifierGuided
from core.output import read_arrays
from core.samplers import DDIM
from core.samplers import sample as draw
from core.schedules import Cosine
from core.space import ZeroCentreOfMass
from modalities.molecules.codec import Atoms
from modalities.molecules.regressor import Regressor
from modalities.molecules.steering import Property

ELEMENTS = ["H", "C", "N", "O", "F"]
SIZES = {"width": 16, "depth": 2, "vectors": 8, "radial": 8, "scalar_channels": 2, "vector_channels": 2}
SCHEDULE, SPACE = Cosine(log_snr_min=-6.0, log_snr_max=8.0), ZeroCentreOfMass(3)


@pytest.fixture(scope="module")
def regressor() -> Regressor:
    """Untrained, of two properties, with an answer of the size of its standard deviation."""
    torch.manual_seed(0)
    made = Regressor(ELEMENTS, {"mu": (2.7, 1.5), "gap": (6.8, 1.3)}, **SIZES)
    torch.nn.init.normal_(made.out.weight, std=0.5)
    return made.double().eval()


def molecules(sizes: tuple[int, ...] = (4, 6, 3)) -> tuple[Batch, Batch]:
    """(in data units, in diffusion coordinates)."""
    generator = torch.Generator().manual_seed(0)
    mask = random_mask(sizes, max(sizes))
    places = 1.2 * torch.randn(len(sizes), max(sizes), 3, dtype=torch.float64, generator=generator)
    kinds = torch.randint(5, (len(sizes), max(sizes)), generator=generator)
    data = Batch(torch.cat([places, torch.nn.functional.one_hot(kinds, 5)], -1) * mask, mask)
    return data, Atoms(ELEMENTS).encode(data)


@pytest.mark.parametrize(("tolerance", "spread"), [(0.5, 0.0), (0.5, 0.3), (2.0, 0.1)])
def test_it_is_the_log_of_a_gaussian_whose_variance_has_the_slope(regressor, tolerance, spread):
    _, encoded = molecules()
    prop = Property(regressor, 5.0, tolerance, spread, name="gap")
    x = encoded.x.clone().requires_grad_()
    found = prop.found(x, encoded.mask)
    (slope,) = torch.autograd.grad(found.sum(), x, retain_graph=True)
    variance = tolerance**2 + spread**2 * slope.square().sum((1, 2))
    log_p = prop(x, encoded.mask, {})
    torch.testing.assert_close(log_p, -((found - 5.0) ** 2) / (2 * variance))
    (pull,) = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(pull, ((5.0 - found) / variance)[:, None, None] * slope)


def test_it_finds_in_encoded_molecules_what_the_regressor_finds_in_them(regressor):
    data, encoded = molecules()
    found = Property(regressor, 5.0, name="gap").found(encoded.x, encoded.mask)
    mean, std = regressor.properties["gap"]
    torch.testing.assert_close(found, mean + std * regressor(data.x, data.mask)[:, 1], rtol=0, atol=0.01)
    charged = Atoms(ELEMENTS, charges=True).encode(data)  # a further column
    torch.testing.assert_close(Property(regressor, 5.0, name="gap").found(charged.x, charged.mask), found)
    doubled = Atoms(ELEMENTS, scale=0.5).encode(data)
    torch.testing.assert_close(Property(regressor, 5.0, name="gap", scale=0.5).found(doubled.x, doubled.mask), found)


def pull(prop: Property, x: Tensor, mask: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(prop(leaf, mask, {}).sum(), leaf)[0]


def test_its_pull_turns_with_the_molecule_and_moves_its_elements(regressor):
    _, encoded = molecules()
    prop, turn = Property(regressor, 5.0, name="gap"), orthogonal(-1)
    turned = torch.cat([encoded.x[..., :3] @ turn, encoded.x[..., 3:]], -1)
    there, here = pull(prop, turned, encoded.mask), pull(prop, encoded.x, encoded.mask)
    torch.testing.assert_close(there[..., :3], here[..., :3] @ turn)
    torch.testing.assert_close(there[..., 3:], here[..., 3:])
    assert bool((here[..., :3].abs().amax((1, 2)) > 1e-4).all())
    assert bool((here[..., 3:].abs().amax((1, 2)) > 1e-4).all())


def test_padding_and_the_others_change_nothing(regressor):
    _, encoded = molecules()
    prop = Property(regressor, 5.0, name="gap")
    together = pull(prop, encoded.x, encoded.mask)
    for row, size in enumerate((4, 6, 3)):
        alone = pull(prop, encoded.x[row : row + 1, :size], encoded.mask[row : row + 1, :size])
        torch.testing.assert_close(together[row, :size], alone[0])
    assert not together[encoded.mask.expand_as(together) == 0].any()


def test_samples_come_nearer_to_the_target(regressor):
    """Around data that is Gaussian, where the untrained regressor has some value and another is asked for."""
    sd = torch.tensor([1.2, 1.2, 1.2, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)

    def gaussian(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * sd**2 / (alpha**2 * sd**2 + sigma**2) * x_t

    denoiser: Denoiser = known(SCHEDULE, gaussian, space=SPACE)
    mask = random_mask([5] * 8 + [7] * 8, 7)
    template, grid = Batch(torch.zeros(16, 7, 8, dtype=torch.float64), mask), times.LogSNR(30)(SCHEDULE)
    plain = draw(denoiser, DDIM(), template, grid)
    found = Property(regressor, 0.0, name="gap").found(plain, mask)
    for target in (found.mean() - 2 * found.std(), found.mean() + 2 * found.std()):
        prop = Property(regressor, float(target), 0.3 * float(found.std()), 0.0, name="gap")
        guided = draw(ClassifierGuided(denoiser, prop), DDIM(), template, grid)
        torch.testing.assert_close(SPACE.project(guided, mask), guided)
        before, after = ((prop.found(x, mask) - target).abs().mean() for x in (plain, guided))
        assert float(after) < 0.5 * float(before)


def test_a_regressor_without_weights_to_learn_and_without_traces(regressor):
    _, encoded = molecules()
    prop = Property(regressor, 5.0, name="gap")
    with torch.no_grad():
        log_p = prop(encoded.x, encoded.mask, {})
    assert bool(log_p.isfinite().all())
    assert not any(parameter.requires_grad for parameter in prop.parameters())
    single = Property(regressor, 5.0, name="gap")(encoded.x.float(), encoded.mask.float(), {})
    assert single.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 5.0}, "name=None: the regressor knows mu, gap"),
        ({"target": 5.0, "name": "alpha"}, "name=alpha: the regressor knows mu, gap"),
        ({"target": float("nan"), "name": "gap"}, "target=nan: must be a finite number"),
        (
            {"target": 5.0, "name": "gap", "tolerance": 0.0},
            "tolerance=0.0, spread=0.1: must be above 0, and at least 0",
        ),
        ({"target": 5.0, "name": "gap", "spread": -0.1}, "spread=-0.1: must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(regressor, options, message):
    with pytest.raises(ValueError, match=message):
        Property(regressor, **options)


def test_molecules_of_fewer_elements_are_refused(regressor):
    with pytest.raises(ValueError, match="4 columns of elements, but the regressor knows 5"):
        Property(regressor, 5.0, name="gap").found(torch.zeros(1, 3, 7), torch.ones(1, 3, 1))


# ---- from the command line


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    made = Regressor(ELEMENTS, {"gap": (6.8, 1.3)}, **SIZES)
    torch.nn.init.normal_(made.out.weight, std=0.5)
    file = tmp_path_factory.mktemp("regressor") / "gap.safetensors"
    made.save(file, {})
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    pytest.importorskip("rdkit")
    out = tmp_path_factory.mktemp("molecules") / "run"
    return fit(compose("train", "modality=molecules", *TINY, *SMALL_MOLECULES, "network.width=16", f"out={out}"))


def test_the_config_steers(run: Path, file: Path, tmp_path: Path) -> None:
    chosen = ("guidance=property", f"guidance.log_prob.regressor={file}", "guidance.log_prob.target=6.0")
    plain, led, same = (
        read_arrays(sample(run, tmp_path / name, *more) / "samples.npz").x
        for name, more in {"plain": (), "led": chosen, "same": (*chosen, "guidance.scale=0")}.items()
    )
    assert torch.equal(plain, same)
    assert bool(led.isfinite().all())
    assert not torch.equal(plain, led)


def test_its_mistakes_are_one_line(run: Path, file: Path, tmp_path: Path, command: Callable[..., Outcome]) -> None:
    number = count()

    def refused(message: str, *chosen: str) -> None:
        where = (f"checkpoint={run}", f"out={tmp_path / str(next(number))}", "n=2", "steps=2", "device=cpu")
        outcome = command("sample", *where, "guidance=property", *chosen)
        assert outcome.code == 2
        assert message in outcome.err
        assert outcome.err.count("\n") == 1

    refused("needs a value for regressor, target")
    refused("needs a value for target", f"guidance.log_prob.regressor={file}")
    target = "guidance.log_prob.target=6"
    refused("nowhere.safetensors cannot be read", "guidance.log_prob.regressor=nowhere.safetensors", target)
    weights = next(run.glob("checkpoints/step-*/model.safetensors"))
    refused("holds no regressor of properties", f"guidance.log_prob.regressor={weights}", target)
    of_none = f"guidance.log_prob.regressor={file}"
    refused("guidance: name=alpha: the regressor knows gap", of_none, target, "guidance.log_prob.name=alpha")


def test_a_file_is_needed(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        Property(tmp_path / "text", 5.0)
