"""Where a step's time goes: what is counted as arithmetic, what a figure must be, and a whole small measurement."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks import efficiency, footprint
from benchmarks.arithmetic import Arithmetic
from benchmarks.common import commit, grown, quartiles
from core.errors import UserError

TINY = "network.widths=[8,16] training.batch_size=8"


def test_every_product_is_recorded_and_nothing_else() -> None:
    x = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(8, 16, requires_grad=True)
    found = Arithmetic.of(lambda: F.silu(x @ weight).sum().backward())
    assert len(found.calls) == 3  # the product, and one for each gradient
    assert found.operations == 3 * 2 * 4 * 8 * 16


def test_what_is_done_again_is_the_same_product() -> None:
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    found = Arithmetic.of(lambda: (a @ b).relu())
    (product,) = found.calls
    assert torch.equal(product(), a @ b)


def test_attention_is_arithmetic() -> None:
    q, k, v = torch.randn(3, 2, 1, 16, 8, requires_grad=True)
    found = Arithmetic.of(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert len(found.calls) >= 2


def test_kept_counts_each_storage_once_and_no_weights() -> None:
    linear = torch.nn.Linear(100, 100)
    x = torch.randn(50, 100)
    step = lambda: (linear(x).exp() * 2).sum().backward()  # noqa: E731  (one line is the point)
    assert footprint._kept(step, linear) == 2 * x.nbytes  # linear keeps x, exp its result; the product a number


@pytest.mark.parametrize(("value", "goal", "at_least", "met"), [(1, 2, False, True), (3, 2, False, False)])
def test_goals(value: float, goal: float, at_least: bool, met: bool) -> None:
    assert efficiency.Finding("image", "a", value, value, value, goal, at_least).met is met
    assert efficiency.Finding("image", "a", value, value, value, goal, not at_least).met is not met
    assert efficiency.Finding("image", "a", value, value, value).met is None


def test_a_small_measurement_is_whole(cache: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    what = "arithmetic,loading,sampling,memory"
    options = efficiency.Options("image", what, 2, 2, overrides=TINY, out=str(tmp_path), record=str(record))
    found = {one.what: one for one in efficiency.main(options)}
    assert found["step / own products"].value > 1
    assert 0 < found["share of the peak"].value < 1.2
    assert 0 < found["loading / step"].value < 1
    assert found["sampler / network"].value > 0
    assert found["memory / on paper"].value > 0
    written = json.loads(record.read_text())
    assert written["machine"]["commit"]
    table = efficiency.markdown(written)
    assert all(f"| {name} |" in table for name in found)
    with pytest.raises(UserError, match="what=nothing: allowed are arithmetic"):
        efficiency.main(efficiency.Options(what="nothing"))


def test_memory_that_comes_and_goes_is_seen() -> None:
    size = 2**27
    bytes_of = grown(lambda: torch.ones(size // 4).sum())
    assert 0.99 * size < bytes_of < 1.5 * size  # in whole pages
    assert grown(lambda: None) < 0.1 * size


def test_quartiles() -> None:
    assert quartiles([1, 2, 3, 4, 5]) == (2, 4)
    assert quartiles([7.0]) == (7, 7)


def test_the_commit_of_a_measurement_says_whether_code_differs_from_it(tmp_path: Path) -> None:
    assert commit(tmp_path) == ""
    code, record = tmp_path / "code.py", tmp_path / "benchmarks" / "results" / "old.json"
    record.parent.mkdir(parents=True)
    for file in (code, record):
        file.write_text("committed")
    me = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    record.write_text("measured anew")
    assert re.fullmatch("[0-9a-f]{12}", commit(tmp_path))
    code.write_text("changed")
    assert re.fullmatch(r"[0-9a-f]{12}\+", commit(tmp_path))
