"""What every modality does alike: how samples are asked for."""

from __future__ import annotations

import pytest
import torch

from core.errors import UserError
from core.modality import Modality, each


def of(**conditions: list[str]) -> Modality:
    modality = Modality((3, 2), conditions.get("label", []))
    modality.conditions = conditions
    return modality


TWO = of(label=["cat", "dog", "emu"], colour=["red", "7"])


def test_labels_are_a_condition_of_every_modality_that_has_them() -> None:
    assert Modality((1,), ["a", "b"]).conditions == {"label": ["a", "b"]}
    assert Modality((1,)).conditions == {}
    assert Modality((1,)).template(4).cond == {}


def test_a_template_has_shape_and_conditions_and_no_values() -> None:
    template = TWO.template(5)
    assert template.x.shape == (5, 3, 2)
    assert not template.x.any()
    assert template.mask.shape == (5, 1, 1)
    assert {name: value.dtype for name, value in template.cond.items()} == dict.fromkeys(TWO.conditions, torch.int64)


@pytest.mark.parametrize(
    "conditions", [{"a": 2}, {"a": 3, "b": 2}, {"a": 2, "b": 2}, {"a": 4, "b": 6, "c": 3}, {"a": 1, "b": 5}], ids=str
)
def test_all_combinations_come_up_equally_often(conditions: dict[str, int]) -> None:
    modality = of(**{name: [str(value) for value in range(count)] for name, count in conditions.items()})
    combinations = torch.tensor(list(conditions.values())).prod().item()
    chosen = torch.stack(list(modality.categories(2 * combinations, {}).values()), dim=1)
    _, often = chosen.unique(dim=0, return_counts=True)
    assert often.tolist() == [2] * combinations
    assert torch.equal(chosen[:combinations], chosen[combinations:])


def test_what_is_given_leaves_the_turns_to_the_others() -> None:
    for wanted in ("dog", 1, ["dog"] * 6, [1, "dog", 1, 1, "dog", 1]):
        chosen = TWO.categories(6, {"label": wanted})
        assert chosen["label"].tolist() == [1] * 6
        assert chosen["colour"].tolist() == [0, 1, 0, 1, 0, 1]
    assert TWO.categories(4, {"label": None})["label"].tolist() == [0, 1, 2, 0]
    both = TWO.categories(2, {"label": ["emu", "cat"], "colour": "red"})
    assert [value.tolist() for value in both.values()] == [[2, 0], [0, 0]]


def test_a_name_goes_before_a_number() -> None:
    assert TWO.categories(1, {"colour": 7})["colour"].tolist() == [1]
    assert TWO.categories(1, {"colour": 0})["colour"].tolist() == [0]


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({"label": "cow"}, r"unknown label 'cow'; allowed: cat, dog, emu \(or 0 to 2\)"),
        ({"label": 3}, "unknown label 3"),
        ({"label": -1}, "unknown label -1"),
        ({"label": 1.0}, r"unknown label 1\.0"),
        ({"colour": ["red", "blue"]}, "unknown colour 'blue'"),
        ({"colour": ["red"] * 3}, "colour has 3 entries for n=2"),
        ({"size": 3, "age": 1}, r"unknown condition \['age', 'size'\]; this model's conditions: label, colour"),
    ],
    ids=str,
)
def test_what_there_is_not_is_named(cond: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TWO.template(2, cond)


def test_one_value_is_for_all_and_a_list_is_one_for_each() -> None:
    assert each("x", 3, 2) == [3, 3]
    assert each("x", "ab", 2) == ["ab", "ab"]  # a text is one value
    assert each("x", (1, 2), 2) == [1, 2]
    assert each("x", [], 0) == []
    with pytest.raises(UserError, match="x has 2 entries for n=3 samples"):
        each("x", [1, 2], 3)
