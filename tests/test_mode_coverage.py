"""Coverage of modes: the figures' laws, a short training of each contender, and docs that say the record."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks.mode_contenders import CONTENDERS, SETS, SETTINGS, Modes, Told, Waves, shown
from benchmarks.mode_coverage import FAIR, Options, best, coverage, main, markdown

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks/results/mode_coverage.json"


@pytest.fixture(params=SETS)
def modes(request: pytest.FixtureRequest) -> Modes:
    torch.manual_seed(0)
    return SETS[request.param]


def test_true_samples_find_all_modes(modes: Modes) -> None:
    n, k = 2500, len(modes.centres)
    found = coverage(modes.draw(n), modes)
    assert found["modes"] == found["fair_modes"] == k
    assert found["good"] == pytest.approx(1 - math.exp(-4.5), abs=0.01)  # Rayleigh: within 3 standard deviations
    assert 0.9 < found["overlap"] <= found["good"]
    assert found["reverse_kl"] == pytest.approx((k - 1) / (2 * n), abs=0.01)  # of a multinomial, to first order


def test_an_even_share_at_the_centres_is_perfect(modes: Modes) -> None:
    k = len(modes.centres)
    perfect = {"modes": k, "fair_modes": k, "good": 1.0, "overlap": 1.0, "reverse_kl": 0.0}
    assert coverage(modes.centres.repeat(100, 1), modes) == pytest.approx(perfect)


def test_collapsed_samples_find_one_mode(modes: Modes) -> None:
    k = len(modes.centres)
    collapsed = {"modes": 1, "fair_modes": 1, "good": 1.0, "overlap": 1 / k, "reverse_kl": math.log(k)}
    assert coverage(modes.centres[3].repeat(100, 1), modes) == pytest.approx(collapsed)


def test_samples_beside_the_modes_find_none(modes: Modes) -> None:
    def beside(stds: float) -> dict[str, float]:
        return coverage(modes.centres + torch.tensor([stds * modes.std, 0.0]), modes)

    assert beside(2.9)["modes"] == len(modes.centres)
    assert [beside(3.1)[key] for key in ("modes", "fair_modes", "good", "overlap")] == [0, 0, 0, 0]
    assert beside(3.1)["reverse_kl"] == pytest.approx(0)  # bad samples count there, by the mode that is nearest


def test_a_mode_of_few_samples_is_found_but_not_fairly(modes: Modes) -> None:
    k, each = len(modes.centres), 100
    others = modes.centres[1:].repeat(each, 1)
    few, enough = (coverage(torch.cat([others, modes.centres[:1].repeat(m, 1)]), modes) for m in (5, each))
    assert few["modes"] == enough["modes"] == enough["fair_modes"] == k
    assert 5 / len(others) < FAIR / k
    assert few["fair_modes"] == k - 1


def test_scale_is_the_standard_deviation_of_the_data(modes: Modes) -> None:
    assert float(modes.draw(200_000).std(0).mean()) == pytest.approx(modes.scale, rel=0.01)


@pytest.mark.parametrize("waves", [False, True])
def test_both_are_shown_the_same_of_a_point(waves: bool) -> None:
    x, level = torch.randn(4, 2), torch.zeros(4)
    assert shown(waves, 1, 3)(x).shape == (4, 3)
    mask = torch.ones(4, 1)
    assert Told(waves)(x, level, mask, {}).shape == x.shape
    assert Waves(0, 5)(x).shape == (4, 22)


def test_as_many_settings_for_each() -> None:
    assert SETTINGS.keys() == CONTENDERS.keys()
    assert len({len(settings) for settings in SETTINGS.values()}) == 1


def test_a_short_training_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for contender, settings in SETTINGS.items():
        monkeypatch.setitem(SETTINGS, contender, dict(list(settings.items())[:1]))
    found = main(Options(seconds=0.1, seeds=2, n=50, workers=0, out=str(tmp_path)))
    assert found.items() <= json.loads((tmp_path / "mode_coverage.json").read_text()).items()
    assert (tmp_path / "mode_coverage.png").stat().st_size > 0
    for rows in found["sets"].values():
        assert list(rows) == ["real", *CONTENDERS]
        for name in CONTENDERS:
            assert len(rows[name]["runs"]) == 2
            assert rows[name]["effort"]["steps"] > 0
            assert rows[name]["effort"]["seconds"] >= 0.1
    assert len(markdown(found).splitlines()) == 2 + 2 * 3


def test_the_setting_of_the_largest_overlap_is_chosen() -> None:
    class Tuned:
        def __init__(self, weights: float, average: float) -> None:
            self.figures = {"weights": {"overlap": weights}, "average": {"overlap": average}}

    class Setting:
        def __init__(self, setting: str) -> None:
            self.setting = setting

    assert best({Setting("a"): Tuned(0.1, 0.5), Setting("b"): Tuned(0.4, 0.2)}) == ("a", "average")


def test_docs_say_what_was_recorded() -> None:
    record = json.loads(RECORD.read_text())
    docs = (ROOT / "docs/benchmarks.md").read_text()
    assert markdown(record) in docs
    for rows in record["sets"].values():
        for name in CONTENDERS:
            assert len(rows[name]["runs"]) == record["options"]["seeds"]
            assert rows[name]["effort"]["seconds"] == pytest.approx(record["options"]["seconds"], rel=0.05)
