"""Quality against evaluations: honest errors, the figures' own values, no sample drawn twice, and what tables say."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from molecule_examples import first_of_qm9
from rich.console import Console
from torch import Tensor

import core
from benchmarks import drawing, quality, study
from benchmarks.drawing import Subject, draw, names, steps_within
from benchmarks.study import Row, Study
from core.batch import Batch
from core.build import build_sampler
from core.denoiser import BaseDenoiser
from core.errors import UserError
from core.metrics import Headline
from core.modality import Modality
from core.model import Model
from core.reverse import Denoised
from core.samplers import sample
from core.schedules import Cosine, Schedule
from core.space import Euclidean

MANY = 4000  # resamples: the error's own error is 1%
N = 24  # samples of each kind, whose headlines are to be those of `metrics`


def mean(column: Tensor) -> float:
    return column.double().mean().item()


def booleans(seed: int, *shape: int, p: float = 0.5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < p


# Bootstrap errors


@pytest.mark.parametrize(("n", "ones"), [(40, 20), (400, 120), (400, 396)])
def test_the_error_of_a_share_is_the_binomials(n: int, ones: int) -> None:
    p = ones / n
    error = Headline(mean, (torch.arange(n) < ones,)).error(resamples=MANY)
    assert error == pytest.approx((p * (1 - p) / (n - 1)) ** 0.5, rel=0.05)


def test_within_labels_the_error_is_that_of_the_stratified_mean() -> None:
    """n_k samples of label k with variance v_k: (sum n_k v_k) / n^2, times n / (n - K) for the K means."""
    labels = torch.tensor([0] * 30 + [1] * 60 + [2] * 10)[torch.randperm(100, generator=torch.manual_seed(0))]
    column = torch.rand(100, generator=torch.manual_seed(1), dtype=torch.float64) * (1 + labels) + 5 * labels
    variances = sum(len(own) * own.var(correction=0) for own in (column[labels == k] for k in range(3)))
    expected = (variances / 100**2 * 100 / 97).sqrt().item()
    assert Headline(mean, (column,), strata=labels).error(resamples=MANY) == pytest.approx(expected, rel=0.05)


def test_what_the_label_decides_is_no_chance() -> None:
    labels = torch.arange(40) % 4
    assert Headline(mean, (labels == 0,), strata=labels).error() == 0
    assert Headline(mean, (labels == 0,)).error() > 0.05


@pytest.mark.parametrize("each", [2, 4, 20])
def test_the_error_is_honest_however_few_samples_a_label_has(each: int) -> None:
    """Its square is, over many sets of samples, the variance of the share in them."""
    n, sets = 40, 150
    labels = torch.arange(n) % (n // each)
    squares = [Headline(mean, (column,), strata=labels).error(i) ** 2 for i, column in enumerate(booleans(0, sets, n))]
    assert sum(squares) / sets == pytest.approx(0.25 / n, rel=0.07)


def test_labels_of_one_sample_each_are_no_strata() -> None:
    column = booleans(3, 40)
    assert Headline(mean, (column,), strata=torch.arange(40)).error() == Headline(mean, (column,)).error() > 0


def test_constants_have_no_error() -> None:
    assert Headline(mean, (torch.full((30,), 0.7),)).error() == pytest.approx(0, abs=1e-12)
    assert Headline(mean, (torch.ones(1),)).error() == 0


def test_columns_are_drawn_together() -> None:
    column = booleans(4, 50)
    assert Headline(lambda a, b: mean(a == b), (column, column.clone())).error() == 0


def test_the_error_follows_from_the_seed_alone() -> None:
    headline = Headline(mean, (booleans(5, 50),))
    torch.manual_seed(1)
    first = headline.error(7)
    torch.manual_seed(2)
    assert headline.error(7) == first != headline.error(8)


# Headlines


def digits(trained: Path) -> tuple[Modality, Batch, Batch]:
    """Darker digits, every third under a wrong label."""
    subject = Subject.of("image", trained, N)
    label = subject.floor.cond["label"]
    asked = torch.where(torch.arange(N) % 3 == 0, (label + 1) % 10, label)
    darker = (0.8 * subject.floor.x).to(subject.floor.x.dtype)
    return subject.model.modality, Batch(darker, subject.floor.mask, {"label": asked}), subject.reference


def clips(_: Path) -> tuple[Modality, Batch, Batch]:
    """Chords of several pitches in noise, as if they were spoken digits."""
    pytest.importorskip("torchaudio")
    modality = core.load("audio", device="cpu").modality
    hertz, t = 80 + 10 * torch.arange(2 * N)[:, None, None], torch.arange(3200) / 8000
    x = sum(torch.sin(2 * torch.pi * k * hertz * t) / k for k in range(1, 8)) / 4
    x = x + 0.02 * torch.arange(2 * N)[:, None, None] / N * torch.randn(x.shape, generator=torch.manual_seed(0))
    cond = {name: torch.arange(2 * N) % len(values) for name, values in modality.conditions.items()}
    both = Batch.full(x.clamp(-1, 1), cond)
    return modality, both[:N], both[N:]


def molecules(_: Path) -> tuple[Modality, Batch, Batch]:
    """Molecules, half of which are shaken until bonds break."""
    pytest.importorskip("rdkit")
    pytest.importorskip("posebusters")
    if find_spec("qm9pack") is None:
        pytest.skip("QM9 is not installed")
    modality = core.load("molecules", device="cpu").modality
    real = first_of_qm9(500, table=1)[400 : 400 + 2 * N]
    shaken = real[:N]
    size = torch.cat([torch.full((N // 2, 1, 1), 0.01), torch.full((N // 2, 1, 1), 0.15)])
    noise = torch.randn(shaken.x.shape, generator=torch.manual_seed(0)).double() * size * shaken.mask
    noise[..., 3:] = 0
    return modality, Batch(shaken.x + noise.to(shaken.x.dtype), shaken.mask, shaken.cond), real[N:]


FIGURES: dict[Callable[[Path], tuple[Modality, Batch, Batch]], set[str]] = {
    digits: {"frechet_distance", "label_accuracy"},
    clips: {"frechet_distance", "label_accuracy", "speaker_accuracy", "pitch_strength"},
    molecules: {"atom_stability", "molecule_stability", "valid_and_connected"},
}


@pytest.mark.parametrize("examples", FIGURES, ids=lambda examples: examples.__name__)
def test_headlines_are_figures_of_metrics(
    examples: Callable[[Path], tuple[Modality, Batch, Batch]], trained: Path
) -> None:
    modality, samples, reference = examples(trained)
    found, figures = modality.headlines(samples, reference), modality.metrics(samples, reference, None)
    assert found.keys() == FIGURES[examples]
    for name, headline in found.items():
        assert headline.value == pytest.approx(figures[name], rel=1e-9), name
        assert headline.lower_is_better == (name == "frechet_distance")
        assert all(len(column) == N for column in headline.columns)
        assert 0 < headline.error(resamples=20) < abs(headline.value) + 1, name


# Drawing


class Counting(BaseDenoiser):
    """Says 0 and counts how often it was asked."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.space, self.calls = schedule, Euclidean(), 0

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: object) -> Denoised:
        self.calls += 1
        return Denoised(torch.zeros_like(x_t))


@pytest.mark.parametrize("sampler", names("sampler"))
def test_steps_within_are_the_most_that_fit(sampler: str) -> None:
    config = drawing.compose("modality=image", f"sampler={sampler}")

    def cost(steps: int) -> int:
        config.steps, denoiser = steps, Counting(Cosine())
        method, times = build_sampler(config, denoiser)
        sample(denoiser, method, Batch.full(torch.zeros(1, 2)), times)
        return denoiser.calls

    for evaluations in (1, 2, 5, 13, 20):
        steps = steps_within(evaluations, config, Cosine())
        assert 1 <= steps <= evaluations
        assert steps == 1 or cost(steps) <= evaluations
        assert steps == evaluations or cost(steps + 1) > evaluations


def test_heuns_steps_take_two_evaluations_and_the_last_one() -> None:
    config = drawing.compose("modality=image", "sampler=heun")
    assert [steps_within(evaluations, config, Cosine()) for evaluations in (1, 2, 3, 5, 20)] == [1, 1, 2, 3, 10]


def drawn(subject: Subject, folder: Path, count: Callable[[int], object] = lambda steps: None, seed: int = 0):
    """Five samples in micro-batches of two, by three steps of DDPM."""
    return draw(subject, subject.requesting("ddpm", 3), 5, 2, seed, folder, "row", count)


def test_an_interrupted_row_draws_nothing_twice(trained: Path, tmp_path: Path) -> None:
    subject = Subject.of("image", trained, 4)
    whole = drawn(subject, tmp_path / "whole")
    done: list[int] = []

    def interrupt(steps: int) -> None:
        done.append(steps)
        if sum(done) == 5:  # two steps into the second micro-batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(subject, tmp_path / "parts", interrupt)
    (home,) = (tmp_path / "parts").iterdir()
    assert [path.name for path in home.glob("*.npz")] == ["00000000.npz"]

    rows: list[int] = []
    hook = subject.model.denoiser.network.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    done.clear()
    again = drawn(subject, tmp_path / "parts", done.append)
    assert sum(rows) == whole.nfe * 3  # the other three samples
    assert done == [3] + [1] * 6
    rows.clear()
    done.clear()
    kept = drawn(subject, tmp_path / "parts", done.append)
    hook.remove()
    assert not rows
    assert sum(done) == 3 * 3
    for one in (again, kept):
        assert torch.equal(one.samples.x, whole.samples.x)
        assert one.nfe == whole.nfe
    assert kept.seconds == again.seconds > 0


def test_another_request_has_samples_of_its_own(trained: Path, tmp_path: Path) -> None:
    subject = Subject.of("image", trained, 4)
    assert not torch.equal(drawn(subject, tmp_path).samples.x, drawn(subject, tmp_path, seed=1).samples.x)
    assert len(list(tmp_path.iterdir())) == 2
    with torch.no_grad():
        next(subject.model.denoiser.parameters()).mul_(2)
    other = replace(subject, digest=drawing._digest(subject.model))
    drawn(other, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_samples_are_in_the_order_that_was_asked_for(trained: Path, tmp_path: Path) -> None:
    """Though those of about equal lengths are drawn together."""
    model = core.load("audio", device="cpu")
    subject = replace(Subject.of("image", trained, 4), name="audio", model=model)
    asked = model.template(6)
    lengths = asked.mask.flatten(1).sum(1)
    assert lengths.argsort().tolist() != sorted(range(6))
    samples = draw(subject, subject.requesting("ddim", 1), 6, 2, 0, tmp_path, "row").samples
    assert torch.equal(samples.mask.flatten(1).sum(1).argsort(), lengths.argsort())
    assert torch.equal(samples.cond["label"], asked.cond["label"])


# Tables


def row(sampler: str, evaluations: int, distance: float, accuracy: float, times: str = "own", **more: float) -> Row:
    values = {"frechet_distance": distance, "label_accuracy": accuracy, **more}
    return Row(sampler, times, evaluations, evaluations, 2.0 * evaluations, 0.1, values, dict.fromkeys(values, 0.5))


@pytest.fixture
def found() -> Study:
    """The reference has a distance of 3 and an accuracy of 8, with errors of .5: near is below 4.41 and above 6.59."""
    rows = [
        row("ddpm", 1000, 3.0, 8.0, only_here=1.0),
        row("ddim", 5, 4.5, 9.0),
        row("ddim", 20, 4.4, 6.6),
        row("heun", 20, 0.5, 6.5),
        row("heun", 20, 0.5, 20.0, times="karras"),
    ]
    real = {"frechet_distance": 1.0, "label_accuracy": 9.9}
    return Study("image", "digits", "a/run", 40, rows, real, dict.fromkeys(real, 0.1), ["frechet_distance"])


def test_near_is_within_two_errors_of_the_reference_or_better(found: Study) -> None:
    assert [found.is_near(one, "frechet_distance") for one in found.rows] == [True, False, True, True, True]
    assert [found.is_near(one, "label_accuracy") for one in found.rows] == [True, True, True, False, True]
    assert found.figures() == ["frechet_distance", "label_accuracy"]


def test_the_verdict_names_what_is_near_in_every_figure(found: Study) -> None:
    assert found.verdict.endswith("of ddpm at 1,000 evaluations: ddim 20, heun, karras 20")
    assert replace(found, rows=found.rows[:2]).verdict.endswith(": none")


def test_tables_have_every_row_and_mark_what_is_near(found: Study) -> None:
    text = study.markdown(found)
    assert "| sampler | 5 | 20 | 1,000 |" in text
    assert "| ddim | 4.5 ± 0.5 | **4.4 ± 0.5** |  |" in text
    assert "| heun, karras |  | **20 ± 0.5** |  |" in text
    assert "frechet distance (lower is better; real data 1 ± 0.1)" in text
    assert "label accuracy (higher is better; real data 9.9 ± 0.1)" in text
    assert "only here" not in text
    assert "| heun |  | 6.5 ± 0.5 |  |" in text
    console = Console(width=200, file=io.StringIO())
    console.print(study.terminal(found))
    for line in ("ddim", "heun, karras", "real data"):
        assert line in console.file.getvalue()
    assert study.terminal(found).row_count == len(found.rows) + 1


def test_every_figure_is_plotted(found: Study, tmp_path: Path) -> None:
    study.curves(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


# The whole


def test_quality_writes_what_it_found_and_finds_it_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"modality": "image", "samplers": "ddim,heun", "steps": [1, 3], "reference_steps": 4}
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"modalities": {"audio": "measured earlier", "image": "and to be replaced"}}))
    sizes = {"n": {"image": 20}, "micro_batch": 20, "resamples": 10}
    options = quality.Options(
        **chosen, **sizes, checkpoint={"image": str(trained)}, out=str(tmp_path), record=str(record)
    )
    (first,) = quality.main(options)
    lines = [(one.sampler, one.evaluations, one.steps) for one in first.rows]
    assert lines == [("ddpm", 4, 4), ("ddim", 4, 4), ("ddim", 1, 1), ("ddim", 3, 3), ("heun", 1, 1), ("heun", 3, 2)]
    assert all(one.errors.keys() == one.values.keys() == FIGURES[digits] for one in first.rows)
    written = json.loads((tmp_path / "quality.json").read_text())["modalities"][0]
    assert [one["values"] for one in written["rows"]] == [one.values for one in first.rows]
    assert first.verdict in (tmp_path / "log.txt").read_text()
    assert study.markdown(first) == (tmp_path / "table.md").read_text()
    recorded = json.loads(record.read_text())
    assert recorded["modalities"].keys() == {"audio", "image"}
    assert quality.of("image")(recorded) == study.figures(first)
    assert (tmp_path / "image.png").stat().st_size > 0
    monkeypatch.setattr(Model, "draw", lambda *_, **__: pytest.fail("drawn again"))
    assert quality.main(options) == [first]


def test_what_cannot_be_measured_is_a_user_error(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nothing_shipped:
        nothing_shipped.setattr(quality, "models", dict)
        with pytest.raises(UserError, match=r"checkpoint\.image is not set"):
            quality.main(quality.Options(modality="image", out=str(tmp_path)))
    run = {"image": str(trained)}
    with pytest.raises(UserError, match=r"n\.image=9999: with \d+ held-out samples, at most \d+"):
        quality.main(quality.Options(modality="image", checkpoint=run, n={"image": 9999}, out=str(tmp_path)))
    with pytest.raises(UserError, match="samplers=none: allowed are"):
        quality.main(quality.Options("image", run, samplers="none", n={"image": 4}, out=str(tmp_path)))
