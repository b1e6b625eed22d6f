"""How molecules are asked for: sizes, formulas, properties; and what sampling keeps at every step."""

from __future__ import annotations

import math

import pytest
import torch

from core.batch import Batch
from core.denoiser import Denoiser
from core.errors import UserError
from core.prediction import Karras
from core.samplers import DDPM, sample
from core.schedules import Cosine
from core.space import ZeroCentreOfMass
from core.times import Uniform
from modalities.molecules.codec import Atoms
from modalities.molecules.factored import Factored
from modalities.molecules.formula import parse
from modalities.molecules.modality import Molecules

ELEMENTS = ["H", "C", "N", "O", "F"]
SIZES = {3: 1, 5: 3, 9: 4, 20: 2}


def modality() -> Molecules:
    return Molecules(ELEMENTS, SIZES, {"gap": [6.8, 1.3]})


def sizes(batch: Batch) -> list[int]:
    return batch.mask.sum((1, 2)).int().tolist()


def test_sizes_are_those_of_training_in_their_shares_and_in_order() -> None:
    found = sizes(modality().template(100))
    assert found == [3] * 10 + [5] * 30 + [9] * 40 + [20] * 20
    assert sizes(modality().template(1)) == [9], "the median"


def test_sizes_do_not_follow_a_list_of_properties() -> None:
    template = modality().template(100, {"gap": list(range(100))})
    assert sorted(sizes(template)) == sizes(modality().template(100)) != sizes(template)
    assert template.cond["gap"].tolist() == list(range(100))


def test_sizes_that_are_asked_for() -> None:
    assert sizes(modality().template(2, {"n_atoms": 18})) == [18, 18]
    template = modality().template(2, {"n_atoms": [4, 7], "gap": 3})
    assert sizes(template) == [4, 7]
    assert template.x.shape == (2, 7, 8)
    assert template.cond["gap"].tolist() == [3, 3]


def test_a_formula_fixes_the_elements_alone() -> None:
    template = modality().template(2, {"formula": "C7H10O2"})
    assert sizes(template) == [19, 19]
    assert template.x[0, :, 3:].sum(0).tolist() == [10, 7, 0, 2, 0]
    assert not template.x[..., :3].any()
    keep = template.cond["keep"]
    assert not keep[..., :3].any()
    assert torch.equal(keep[..., 3:], torch.ones(2, 19, 5))
    assert sizes(modality().template(2, {"formula": ["CH4", "C2H6O"]})) == [5, 9]


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({"n_atoms": 21}, r"n_atoms=21: must be a whole number from 3 to 20, as in training"),
        ({"n_atoms": 2}, "n_atoms=2: must be a whole number from 3 to 20"),
        ({"n_atoms": 5.5}, "n_atoms=5.5: must be a whole number"),
        ({"n_atoms": [5, 5, 5]}, "n_atoms has 3 entries for n=2"),
        ({"formula": "C7H11O2"}, "impossible: its 43 valences are odd"),
        ({"formula": "CH6"}, "impossible: 5 bonds cannot hold 7 atoms together"),
        ({"formula": "C2H6S"}, "unknown element S; this model knows H, C, N, O, F"),
        ({"formula": "c7h10"}, "must be symbols with numbers, such as C7H10O2"),
        ({"formula": ""}, "must be symbols with numbers"),
        ({"formula": "C0"}, "must have at least one atom"),
        ({"formula": "C9H20"}, "formula=C9H20 has 29 atoms: n_atoms=29: must be a whole number from 3 to 20"),
        ({"formula": "CH4", "n_atoms": 5}, "formula=CH4 has its own number of atoms"),
        ({"gap": "wide"}, "cond.gap=wide: must be a number"),
        ({"gap": math.nan}, "cond.gap=nan: must be a number"),
        ({"label": 3}, "unknown condition label; this model's conditions: n_atoms, formula, gap"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(cond: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        modality().template(2, cond)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("formula", ["CH4", "H2O", "C6H6", "HCN", "N2", "C2H5F", "CO2"])
def test_formulas_of_molecules_are_possible(formula: str) -> None:
    assert parse(formula, ELEMENTS)


@pytest.mark.parametrize("formula", ["BNH6", "SF6", "PF5", "SiH4"])
def test_so_are_those_of_elements_with_further_bonds(formula: str) -> None:
    assert parse(formula, [*ELEMENTS, "B", "Si", "P", "S"])


def test_log_prior_is_the_share_of_the_size() -> None:
    batch = modality().template(10)
    log_p = modality().log_prior(batch)
    assert torch.allclose(log_p.exp(), torch.tensor([0.1] + [0.3] * 3 + [0.4] * 4 + [0.2] * 2))
    with pytest.raises(UserError, match="molecules of 4 atoms have no likelihood"):
        modality().log_prior(modality().template(1, {"n_atoms": 4}))


def denoiser(charges: bool = False) -> Denoiser:
    torch.manual_seed(0)
    network = Factored(5 + charges, {}, 1.4, width=16, depth=2, vectors=8, radial=6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    sigma_data = [1.4] * 3 + [0.112] * (5 + charges)
    return Denoiser(network, Cosine(-6, 9), Karras(sigma_data), ZeroCentreOfMass(3)).eval()


def test_a_thousand_steps_keep_the_centre_and_the_padding() -> None:
    model, codec = denoiser(), Atoms(ELEMENTS)
    template = codec.template(modality().template(3, {"n_atoms": [9, 3, 5]}))
    worst, padding = [], []

    def look(done: int, s: torch.Tensor, x: torch.Tensor) -> None:
        assert x.isfinite().all()
        worst.append(float((x[..., :3].sum(1) / template.mask.sum(1)).abs().max()))
        padding.append(bool(x[(template.mask == 0).expand_as(x)].any()))

    sample(model, DDPM(), template, Uniform(1000)(model.schedule), callback=look)
    assert len(worst) == 1001
    assert max(worst) < 1e-5
    assert not any(padding)


def test_padding_changes_no_sample() -> None:
    model, codec = denoiser(), Atoms(ELEMENTS)
    wide = codec.template(modality().template(3, {"n_atoms": [4, 20, 7]}))
    small = codec.trim(wide[torch.tensor([0, 2])])
    assert small.x.shape[1] == 7
    times = Uniform(20)(model.schedule)
    together = sample(model, DDPM(), wide, times)
    alone = sample(model, DDPM(), small, times, indices=torch.tensor([0, 2]))
    torch.testing.assert_close(together[[0, 2], :7], alone, atol=1e-4, rtol=1e-4)


def test_a_formula_is_sampled_exactly_and_padding_stays() -> None:
    """Two formulas of different sizes in one batch: each sample has its own elements, whatever the network says."""
    template = Atoms(ELEMENTS).template(modality().template(2, {"formula": ["CH4", "C2H6O"]}))
    model = modality().holding(denoiser(), template, template.cond["keep"])
    shape = Batch(template.x, template.mask)
    x = sample(model, DDPM(), shape, Uniform(20)(model.schedule))
    drawn = Atoms(ELEMENTS).decode(shape.with_x(x))
    assert drawn.x[..., 3:].sum(1).tolist() == [[4, 1, 0, 0, 0], [6, 2, 0, 1, 0]]
    assert not x[(template.mask == 0).expand_as(x)].any()


def test_atoms_get_the_elements_that_fit_them_best() -> None:
    from itertools import permutations

    from modalities.molecules.composition import _assigned

    torch.manual_seed(0)
    rows = torch.eye(3)[[0, 0, 1, 2, 1]]
    for _ in range(5):
        found = torch.randn(5, 3)
        best = min(((found - rows[list(order)]) ** 2).sum() for order in permutations(range(5)))
        torch.testing.assert_close(((found - _assigned(found, rows)) ** 2).sum(), best)
