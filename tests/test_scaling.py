"""The fits of `benchmarks.scaling` find laws that are known; a tiny run of it writes all that was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import scaling
from benchmarks.scaling_axes import AXES, SUBJECTS, WORKS, Bench
from benchmarks.scaling_fits import UPPER, affine, fit, growth
from benchmarks.scaling_processes import PROCESSES
from core.errors import UserError

N = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_the_fit_recovers_an_exponent(exponent: float) -> None:
    found = growth(N, [3e-3 * n**exponent for n in N])
    assert found.power.exponent == pytest.approx(exponent, abs=1e-9)
    assert found.power.error == pytest.approx(0, abs=1e-9)
    assert found.power.factor == pytest.approx(3e-3)
    assert found.last == pytest.approx(exponent, abs=1e-9)


def test_its_error_is_what_noise_does_to_it() -> None:
    """Over many draws of noise the exponents scatter by as much as the errors say."""
    rng = np.random.default_rng(0)
    n = np.array(N)
    fits = [fit(n, n**1.5 * np.exp(0.1 * rng.normal(size=len(n)))) for _ in range(1000)]
    exponents = np.array([one.exponent for one in fits])
    assert exponents.mean() == pytest.approx(1.5, abs=0.005)
    assert np.mean([one.error**2 for one in fits if one.error]) ** 0.5 == pytest.approx(exponents.std(), rel=0.1)
    assert exponents.std() == pytest.approx(0.1 / (np.log(n).std() * len(n) ** 0.5), rel=0.1)


def test_an_exponent_of_two_points_has_no_error() -> None:
    found = growth([2, 4], [1.0, 4.0])
    assert (found.power.exponent, found.power.error, found.affine) == (pytest.approx(2), None, None)
    assert str(found.power) == "2.00"


@pytest.mark.parametrize("power", [1, 2])
def test_the_line_recovers_fixed_and_growing_costs(power: int) -> None:
    line = growth(N, [0.5 + 0.02 * n**power for n in N], power).affine
    assert line is not None
    assert (line.fixed, line.each) == (pytest.approx(0.5), pytest.approx(0.02))
    assert max(line.fixed_error, line.each_error) < 1e-9


def test_the_lines_errors_are_what_noise_does_to_it() -> None:
    rng = np.random.default_rng(0)
    costs = 0.5 + 0.1 * np.array(N)
    lines = [affine(N, costs * (1 + 0.02 * rng.normal(size=len(N)))) for _ in range(1000)]
    for name in ("fixed", "each"):
        values, errors = (np.array([getattr(line, name + end) for line in lines]) for end in ("", "_error"))
        assert (errors**2).mean() ** 0.5 == pytest.approx(values.std(), rel=0.1)


def test_no_line_where_a_power_law_is_nearer() -> None:
    assert growth(N, [n**1.5 for n in N]).affine is None
    assert growth(N, [n**0.5 for n in N]).affine is None


def test_no_line_where_it_misses_a_point() -> None:
    """Though it is nearer to all of them than a power law."""
    costs = [0.5 + 0.1 * n for n in N]
    assert growth(N, costs).affine is not None
    assert growth(N, [*costs[:-1], 2.5 * costs[-1]]).affine is None


def test_the_exponent_is_of_the_upper_points() -> None:
    """What is constant below does not count."""
    costs = [1.0, 1.0, *(n / 4 for n in N[-UPPER:])]
    assert growth(N, costs).power.exponent == pytest.approx(1)


def test_a_tiny_run_writes_every_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "SHORTEST", 0)  # nothing is repeated
    options = scaling.Options(modality="molecules", points=2, rounds=1, out=str(tmp_path))
    found = scaling.main(options)
    written = json.loads((tmp_path / "scaling.json").read_text())
    wanted = {("molecules", axis, work) for axis, works in AXES.items() for work in works}
    assert {(one["modality"], one["axis"], one["work"]) for one in written["series"]} == wanted
    for one in written["series"]:
        assert one["n"][1] == 2 * one["n"][0]
        assert len(one["seconds"]) == len(one["low"]) == len(one["high"]) == 2
        assert min(one["seconds"]) > 0
        assert np.isfinite(one["time"]["power"]["exponent"])
    assert written["machine"]["threads"] == 1
    assert written["options"] == {"points": 2, "rounds": 1, "device": "cpu"}
    assert (tmp_path / "scaling.png").stat().st_size > 0

    before = (tmp_path / "scaling.json").stat().st_mtime_ns
    assert scaling.main(options) == found  # nothing is measured again
    assert (tmp_path / "scaling.json").stat().st_mtime_ns == before
    options.rounds = 2
    with pytest.raises(UserError, match="other options"):
        scaling.main(options)


@pytest.mark.parametrize("modality", SUBJECTS)
@pytest.mark.parametrize("work", WORKS)
def test_each_work_runs_in_each_modality(modality: str, work: str) -> None:
    WORKS[work](Bench.of(modality, SUBJECTS[modality].first, "cpu"))()


@pytest.mark.slow
def test_processes(tmp_path: Path, cache: Path) -> None:
    (one,) = scaling.main(scaling.Options(PROCESSES, "image", points=2, rounds=1, out=str(tmp_path)))
    assert (one.n, one.bytes) == ([1, 2], None)
    assert min(one.seconds) > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # its runs are taken away


@pytest.mark.parametrize("modality", SUBJECTS)
@pytest.mark.parametrize("axis", AXES)
def test_a_series_lets_one_number_double(modality: str, axis: str) -> None:
    subject = SUBJECTS[modality]
    first, second = subject.settings(axis, 2)
    assert getattr(second, axis) == 2 * getattr(first, axis)
    assert all(getattr(first, other) == getattr(subject.held, other) for other in AXES if other != axis)


@pytest.mark.parametrize("modality", SUBJECTS)
def test_sampling_takes_the_evaluations_that_it_says(modality: str) -> None:
    bench = Bench.of(modality, replace(SUBJECTS[modality].first, nfe=3), "cpu")
    levels: list[float] = []
    bench.run.denoiser.network.register_forward_pre_hook(lambda _, inputs: levels.append(float(inputs[1][0])))
    bench.sampling()()
    assert len(set(levels)) == 3  # guidance may look twice at a level


def test_mistakes_are_user_errors(tmp_path: Path) -> None:
    out = str(tmp_path)
    with pytest.raises(UserError, match="what=depth: allowed are batch, size, width, nfe, processes"):
        scaling.main(scaling.Options("depth", out=out))
    with pytest.raises(UserError, match="modality=video: allowed are image, audio, molecules"):
        scaling.main(scaling.Options(modality="video", out=out))
    with pytest.raises(UserError, match="device=tpu: allowed are cpu"):
        scaling.main(scaling.Options(device="tpu", out=out))
    with pytest.raises(UserError, match="points=1"):
        scaling.main(scaling.Options(points=1, out=out))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu(tmp_path: Path) -> None:
    for one in scaling.main(scaling.Options(points=2, rounds=1, device="cuda", out=str(tmp_path))):
        assert one.bytes is not None
        assert min(one.bytes) > 0
