"""Training: resuming is seamless, fine-tuning begins from other weights, minutes become steps."""

from __future__ import annotations

import csv
import math
import shutil
import threading
import types
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import TINY, Outcome, assert_same_weights, compose, train, weights

from core import checkpoint
from core.batch import Batch
from core.callbacks import Checkpoints
from core.denoiser import Denoiser
from core.errors import UserError
from core.fit import fit
from core.module import DiffusionModule, Optimisation
from core.prediction import Epsilon
from core.resume import other_batches
from core.schedules import LinearBeta
from core.watching import Progress

FOUR = ("training.steps=4", "optimisation.warmup=3", "optimisation.flat=0.3", "n=0")


class MachineLostError(Exception):
    """Stands for a lost machine: nothing is saved when it comes."""


def rows(run: Path) -> list[dict[str, str]]:
    tables = sorted((run / "metrics").glob("from-*/metrics.csv"))
    return [row for table in tables for row in csv.DictReader(table.read_text().splitlines())]


def resume(path: Path, *overrides: str) -> Path:
    return fit(compose("train", f"resume={path}", *overrides))


@pytest.fixture
def broken(tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of four steps that broke off in the last one, after the checkpoint of step 2."""
    step = DiffusionModule.training_step

    def breaks(self: DiffusionModule, *arguments: object) -> object:
        if self.trainer.global_step == 3:
            raise MachineLostError
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModule, "training_step", breaks)
        with pytest.raises(MachineLostError):
            train(tmp_path / "broken", *FOUR)
    assert checkpoint.find(tmp_path / "broken").name == "step-00000002"
    return tmp_path / "broken"


def test_two_and_two_steps_are_four(broken: Path, tmp_path: Path, no_plots: None) -> None:
    straight = train(tmp_path / "straight", *FOUR)
    assert resume(broken) == broken
    assert_same_weights(broken, straight)
    one, other = (checkpoint.load_state(checkpoint.find(run)) for run in (broken, straight))
    assert one["lr_schedulers"] == other["lr_schedulers"]
    assert one["global_step"] == other["global_step"] == 4
    assert str(one["callbacks"]["Curves"]) == str(other["callbacks"]["Curves"])  # nan is no number, but the same text
    assert [row["step"] for row in rows(broken)] == ["1", "3"]
    assert [row["val/loss"] for row in rows(broken)] == [row["val/loss"] for row in rows(straight)]


def test_resuming_an_older_step_rewrites_the_later_ones(own_run: Path, no_plots: None) -> None:
    first, later = (own_run / "checkpoints" / name for name in ("step-00000002", "step-00000004"))
    before = weights(later)
    (later / checkpoint.CONFIG).write_text("stale")
    resume(first)
    assert checkpoint.load_config_text(later) != "stale"
    for name, value in weights(own_run).items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


def test_a_run_can_be_lengthened(own_run: Path, command: Callable[..., Outcome]) -> None:
    assert command("train", f"resume={own_run}", "training.steps=6", "n=0").code == 0
    assert checkpoint.find(own_run).name == "step-00000006"
    assert [row["step"] for row in rows(own_run)] == ["1", "3", "5"]


def test_a_resumed_run_keeps_its_parts(own_run: Path, command: Callable[..., Outcome]) -> None:
    outcome = command("train", f"resume={own_run}", "schedule=linear_beta")
    assert outcome.code == 2
    assert "a resumed run keeps its schedule" in outcome.err


def test_an_interrupted_run_saves_its_last_step(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = DiffusionModule.training_step

    def stops(self: DiffusionModule, *arguments: object) -> object:
        if self.trainer.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModule, "training_step", stops)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", *FOUR)
    assert checkpoint.find(tmp_path / "run").name == "step-00000003"
    assert "stopped at step 3; resume=" in (tmp_path / "run" / "log.txt").read_text().replace("\n", " ")
    straight = train(tmp_path / "straight", *FOUR)
    resume(tmp_path / "run")
    assert_same_weights(tmp_path / "run", straight)


def test_what_a_run_leaves(trained: Path) -> None:
    for name in ("config.yaml", "log.txt", "loss.png", "loss_by_level.png", "checkpoints/last", "checkpoints/best"):
        assert (trained / name).is_file(), name
    assert len(list((trained / "previews").glob("*.png"))) == 2
    assert list((trained / "tensorboard").glob("events*"))
    samples = trained / "samples" / "step-00000004"
    assert {"00003.png", "grid.png", "samples.npz", "manifest.json", "evaluation.json"} <= {
        file.name for file in samples.iterdir()
    }
    raw, averaged = weights(trained), weights(trained, averaged=True)
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)


def test_fine_tuning_says_what_is_new(trained: Path, tmp_path: Path, no_plots: None) -> None:
    same = train(tmp_path / "same", f"init_from={trained}", "training.steps=1", "optimisation.lr=1e-12")
    assert f"begins from {trained}" in (same / "log.txt").read_text().replace("\n", "")
    begun, final = weights(trained, averaged=True), weights(same)
    for name in begun:
        torch.testing.assert_close(final[name], begun[name], atol=1e-6, rtol=1e-6)
    wider = train(tmp_path / "wider", f"init_from={trained}", "network.widths=[8,16]", "training.steps=1")
    assert "; new: " in (wider / "log.txt").read_text()


def test_fine_tuning_from_another_network_is_refused(trained: Path, tmp_path: Path) -> None:
    small = ("network=dit", "network.width=8", "network.depth=1", "network.heads=1", "trainer=cpu")
    with pytest.raises(UserError, match="none of its"):
        fit(compose("train", *small, f"init_from={trained}", f"out={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_takes_another_learning_rate_and_decay(
    own_run: Path, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser's state brings those of the checkpoint, which what is asked for anew must replace."""
    seen = []
    step = DiffusionModule.training_step

    def looks(self: DiffusionModule, batch: Batch, batch_idx: int) -> object:
        seen.append([{k: group[k] for k in ("lr", "weight_decay")} for group in self.optimizers().param_groups])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", looks)
    anew = {"lr": 1e-5, "weight_decay": 0.2, "flat": 1}
    given = (f"optimisation.{name}={value}" for name, value in anew.items())
    assert command("train", f"resume={own_run}", "training.steps=8", "n=0", *given).code == 0
    assert len(seen) == 4
    for groups in seen:
        assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    # the first step has the factor that the checkpoint's schedule, which had come to its end, gave it
    assert [groups[0]["lr"] for groups in seen] == pytest.approx([1e-5 * Optimisation.final, *[1e-5] * 3])


def test_batches_of_one_size_in_other_parts_are_other_batches(own_run: Path) -> None:
    """As many samples a step are the same samples only where batches are not sorted by size."""
    folder = checkpoint.find(own_run)
    halves = compose("train", *TINY, "training.batch_size=2", "training.accumulate=2")
    assert other_batches(folder, compose("train", *TINY), 1, by_size=True) is None
    assert other_batches(folder, halves, 1) is None
    assert "in other parts, so it continues statistically" in str(other_batches(folder, halves, 1, by_size=True))


def test_a_resumed_run_keeps_its_amsgrad(own_run: Path, command: Callable[..., Outcome]) -> None:
    outcome = command("train", f"resume={own_run}", "optimisation.amsgrad=true")
    assert outcome.code == 2
    assert "a resumed run keeps its optimisation.amsgrad" in " ".join(outcome.err.split())


def test_a_copy_of_the_module_shares_its_data() -> None:
    """An average of weights is a copy: data in memory must not be there twice, nor need to be copied at all."""
    data = SimpleNamespace(lock=threading.Lock(), augment=lambda batch, key: batch)
    data.augment = types.MethodType(lambda self, batch, key: batch, data)
    denoiser = Denoiser(torch.nn.Linear(2, 2), LinearBeta(), Epsilon())
    module = DiffusionModule(denoiser, None, data, None, Optimisation())
    copy = deepcopy(module)
    assert copy._augment.value.__self__ is data
    assert copy.denoiser.network.weight is not denoiser.network.weight


def test_the_loss_that_is_shown_is_the_one_that_is_logged(tmp_path: Path, cache: Path, no_plots: None) -> None:
    """Of accumulated batches too, of which Lightning takes a part each."""
    progress = []
    begin = Progress.on_train_start

    def noted(self: Progress, *arguments: object) -> None:
        progress.append(self)
        begin(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "on_train_start", noted)
        run = train(tmp_path / "run", "training.steps=10", "training.accumulate=2", "n=0")
    logged = [float(row["train/loss"]) for row in rows(run) if row["train/loss"]][-1]
    assert progress[0].loss == pytest.approx(logged, rel=1e-5)


def clock(
    monkeypatch: pytest.MonkeyPatch, seconds_of: Callable[[int], float] = lambda step: 1, start: float = 0
) -> SimpleNamespace:
    """A clock that only training steps move: the one from `step` (0-based) on by seconds_of(step)."""
    passed = SimpleNamespace(seconds=start)
    step = DiffusionModule.training_step

    def ticks(self: DiffusionModule, batch: Batch, batch_idx: int) -> object:
        passed.seconds += seconds_of(self.trainer.global_step)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", ticks)
    monkeypatch.setattr("core.budget.time", SimpleNamespace(monotonic=lambda: passed.seconds))
    return passed


BUDGET = ("training.steps=null", "training.minutes=1", "training.validate_every=20")


def test_minutes_become_steps(tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of steps follows from the clock, is stored, and is kept on resuming; the last one is validated."""
    clock(monkeypatch)
    run = train(tmp_path / "run", *BUDGET)
    state = checkpoint.load_state(checkpoint.find(run))
    total = state["total_steps"]
    assert 57 <= total == state["global_step"] <= 60  # at least 95% of a minute
    assert "1 minutes are 57 steps of 1000 ms" in (run / "log.txt").read_text()
    validated = [int(row["step"]) + 1 for row in rows(run) if row["val/loss"]]
    assert validated == [19, 39, total]
    shutil.rmtree(checkpoint.find(run))
    monkeypatch.setattr("core.budget.time", SimpleNamespace(monotonic=lambda: 0))
    left = checkpoint.find(run)
    assert left.name == "step-00000039"
    kept = checkpoint.load_state(left)["total_steps"]
    resume(run)
    assert checkpoint.load_state(checkpoint.find(run))["global_step"] == kept


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "seconds_of",
    [
        lambda step: 3 if step < 12 else 0.4,  # other work, for a while
        lambda step: 2.5 if step < 12 else 0.4,  # so that a plan falls on the step that ends the warm-up
        lambda step: 0.4 if step < 60 else 1.5,
        lambda step: 0.5 + 0.4 * (step // 7 % 2),
    ],
    ids=["slow at first", "slower than planned", "slow later", "uneven"],
)
def test_minutes_are_kept_while_the_machine_changes(
    accumulate: int,
    seconds_of: Callable[[int], float],
    tmp_path: Path,
    cache: Path,
    no_plots: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between 95% and all of the budget is spent, whatever the first steps took; the end is that of the schedule."""
    passed = clock(monkeypatch, lambda step: seconds_of(step) / accumulate)
    run = train(tmp_path / "run", *BUDGET, f"training.accumulate={accumulate}")
    assert 0.95 * 60 - seconds_of(10**3) <= passed.seconds <= 60
    state = checkpoint.load_state(checkpoint.find(run))
    assert state["total_steps"] == state["global_step"]
    assert [row for row in rows(run) if row["val/loss"]][-1]["step"] == str(state["global_step"] - 1)


def test_validations_are_paid_from_the_minutes(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = clock(monkeypatch)
    validate = DiffusionModule.validation_step

    def takes_time(self: DiffusionModule, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            passed.seconds += 3
        validate(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "validation_step", takes_time)
    run = train(tmp_path / "run", *BUDGET)
    validations = len([row for row in rows(run) if row["val/loss"]])
    assert validations == 3
    assert 57 <= passed.seconds <= 60
    assert checkpoint.load_state(checkpoint.find(run))["global_step"] == passed.seconds - 3 * validations


def test_a_short_budget_is_validated_too(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch)
    run = train(tmp_path / "run", *BUDGET, "training.validate_every=400", "training.minutes=0.2")
    assert (run / "checkpoints" / "best").is_file()
    assert len(list((run / "previews").glob("*.png"))) == 1


def test_a_budget_is_measured_on_from_a_resumed_step(
    own_run: Path, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, start=10**6)  # the machine has been up for long
    outcome = command("train", f"resume={own_run}", "training.minutes=0.5", "n=0")
    assert outcome.code == 0
    assert "0.5 minutes more, from step 4" in outcome.out
    state = checkpoint.load_state(checkpoint.find(own_run))
    assert 4 + 28 <= state["total_steps"] == state["global_step"] <= 4 + 30


def test_a_run_cannot_end_before_where_it_stands(own_run: Path, command: Callable[..., Outcome]) -> None:
    outcome = command("train", f"resume={own_run}", "training.steps=3")
    assert outcome.code == 2
    assert "already stands at step 4" in outcome.err


def test_two_runs_do_not_mix_in_a_folder(own_run: Path) -> None:
    with pytest.raises(UserError, match=r"holds a run already: resume="):
        train(own_run)


def test_dropout_is_resumed_too(tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*FOUR, "network.dropout=0.5")
    straight = train(tmp_path / "straight", *options)
    interrupt(monkeypatch, tmp_path / "broken", 3, *options)
    torch.manual_seed(99)
    resume(tmp_path / "broken")
    assert_same_weights(tmp_path / "broken", straight)


def interrupt(monkeypatch: pytest.MonkeyPatch, run: Path, batch: int, *options: str) -> None:
    """Ctrl-C in training batch number `batch`."""
    step = DiffusionModule.training_step

    def stops(self: DiffusionModule, batch_: object, batch_idx: int) -> object:
        if batch_idx == batch:
            raise KeyboardInterrupt
        return step(self, batch_, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModule, "training_step", stops)
        with pytest.raises(KeyboardInterrupt):
            train(run, *options)


def test_an_interruption_in_the_middle_of_a_step_is_resumed_at_its_start(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*FOUR, "training.accumulate=2")
    straight = train(tmp_path / "straight", *options)
    interrupt(monkeypatch, tmp_path / "run", 7, *options)
    assert checkpoint.find(tmp_path / "run").name == "step-00000003"
    resume(tmp_path / "run")
    assert_same_weights(tmp_path / "run", straight)


def test_an_interruption_of_a_validation_saves_no_swapped_weights(
    tmp_path: Path, cache: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = DiffusionModule.validation_step

    def stops(self: DiffusionModule, *arguments: object) -> None:
        if self.trainer.global_step == 4:
            raise KeyboardInterrupt
        validate(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModule, "validation_step", stops)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", *FOUR)
    assert checkpoint.find(tmp_path / "run").name == "step-00000002"
    assert "continues from step-00000002" in " ".join((tmp_path / "run" / "log.txt").read_text().split())
    straight = train(tmp_path / "straight", *FOUR)
    resume(tmp_path / "run")
    assert_same_weights(tmp_path / "run", straight)


def test_a_validation_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path)
    saved._save = lambda trainer: None
    for loss in (3.0, math.nan, 2.0):
        trainer = SimpleNamespace(
            sanity_checking=False,
            state=SimpleNamespace(fn="fit"),
            callback_metrics={"val/loss": torch.tensor(loss)},
            is_global_zero=False,
        )
        saved.on_validation_end(trainer, None)
    assert saved.best == 2.0


def test_the_samples_at_the_end_are_of_one_request(own_run: Path, command: Callable[..., Outcome]) -> None:
    assert command("train", f"resume={own_run}").code == 0
    outcome = command("train", f"resume={own_run}", "steps=3")
    assert outcome.code == 2
    assert "another request" in outcome.err


def test_previews_can_be_left_out(tmp_path: Path, cache: Path, no_plots: None) -> None:
    assert not (train(tmp_path / "run", "preview.n=0") / "previews").exists()


class TestLearningRate:
    def test_warms_up_linearly_stays_and_falls_to_its_end(self):
        law = Optimisation(warmup=10, flat=0.4, final=0.02)
        assert [law.factor(k, 100) for k in (0, 4, 9, 20, 40)] == pytest.approx([0.1, 0.5, 1, 1, 1])
        assert law.factor(70, 100) == pytest.approx(0.51)  # half of the cosine
        assert law.factor(100, 100) == pytest.approx(0.02)
        assert law.factor(1000, 100) == pytest.approx(0.02)

    def test_the_average_begins_with_the_weights_and_its_decay_rises_to_its_limit(self):
        law = Optimisation(ema_decay=0.9)
        assert [law.decay(k) for k in (0, 1, 8, 1000)] == pytest.approx([0, 2 / 11, 0.5, 0.9])

    def test_is_finite_and_positive_for_every_budget(self):
        for total in (None, 1, 2, 3, 50):
            for law in (Optimisation(), Optimisation(warmup=0), Optimisation(flat=1.0), Optimisation(flat=0.0)):
                factors = [law.factor(k, total) for k in range(60)]
                assert all(math.isfinite(f) and 0 < f <= 1 for f in factors)

    def test_does_not_depend_on_an_unknown_total_before_the_decay(self):
        law = Optimisation(warmup=5, flat=0.5)
        assert [law.factor(k, None) for k in range(20)] == [law.factor(k, 40) for k in range(20)]
