"""Files that a stranger might send are refused in one line, run nothing of theirs, and take no memory to speak of."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from benchmarks import hostile
from core.config import load_yaml
from core.errors import UserError

pytest.importorskip("soundfile")
pytest.importorskip("rdkit")


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_it_is_refused(case: hostile.Case, tmp_path: Path) -> None:
    """`python -m benchmarks.hostile` measures the time as well."""
    outcome = hostile.attempt(case, tmp_path)
    assert outcome.said is not None, "it was not refused"
    assert "\n" not in outcome.said
    assert not outcome.ran, "something of it was run"
    assert outcome.peak is None or outcome.peak < hostile.LIMIT_BYTES


@pytest.mark.parametrize("text", ["a: {b: [1, 2]}\nc: ${a.b}", "a: &anchor 1", "a: '${b}'\nb: x:y"])
def test_what_is_harmless_is_read(text: str) -> None:
    assert "a" in load_yaml(text)


def test_a_config_of_any_length_is_refused() -> None:
    with pytest.raises(UserError, match="1,000,006 characters"):
        load_yaml("a: " + "1" * 1_000_003)


@pytest.mark.parametrize("smiles", ["O=C\x01(O)[C@@H](N)C", "O=C\x80", "C\ufffdO"])
def test_smiles_that_are_no_text_are_named(smiles: str, tmp_path: Path) -> None:
    """Found by fuzzing: RDKit could not log its complaint."""
    (tmp_path / "a.smi").write_text(smiles)
    with pytest.raises(UserError, match="is no SMILES"):
        hostile.atoms(tmp_path / "a.smi")


def test_a_zip_member_without_a_name_is_named(tmp_path: Path) -> None:
    """Found by fuzzing: Python's zipfile looks at the last letter of it."""
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("y", b"RIFF")
        archive.filelist[0].filename = ""
    with pytest.raises(UserError, match="damaged archive"):
        hostile.sounds(tmp_path / "b.zip")


def test_a_resolver_over_two_lines_is_answered_in_one() -> None:
    with pytest.raises(UserError) as error:
        load_yaml("a: ${b: 1\nc: ${d:e}")
    assert "\n" not in str(error.value)


def test_an_sdf_of_other_letters_is_named(tmp_path: Path) -> None:
    """Found by fuzzing: RDKit cuts a letter of several bytes in half in its complaint."""
    (tmp_path / "a.sdf").write_text("a\n\n\n" + "\ufffd" * 40 + "V2000\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.sdf, record 1"):
        hostile.atoms(tmp_path / "a.sdf")
