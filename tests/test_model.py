"""The use from Python: three lines to sample a run, one line around a network of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from runs import ROOT
from torch import nn

import core
from core.errors import UserError
from core.levels import Uniform
from core.objective import Objective
from core.prediction import Velocity
from core.samplers import DDIM, sample
from core.schedules import Cosine
from core.times import Uniform as UniformTimes


def test_three_lines(trained: Path) -> None:
    model = core.load(trained)
    digits = model.sample(n=2, steps=2, label=3)
    assert digits.x.shape == (2, 1, 28, 28)
    assert digits.cond["label"].tolist() == [3, 3]
    assert 0 <= digits.x.min() <= digits.x.max() <= 1


def test_samples_follow_from_the_seed(trained: Path) -> None:
    model = core.load(trained, device="cpu")
    assert torch.equal(model.sample(2, steps=2).x, model.sample(2, steps=2).x)
    assert not torch.equal(model.sample(2, steps=2).x, model.sample(2, steps=2, seed=1).x)
    torch.testing.assert_close(model.sample(1, steps=2).x, model.sample(2, steps=2).x[:1], atol=1e-5, rtol=0)


def test_what_a_template_knows_is_kept_and_no_condition_of_the_network(trained: Path) -> None:
    model = core.load(trained, device="cpu")
    template, config = model.template(2), model.config.copy()
    config.steps = 4
    keep = torch.zeros_like(template.x)
    keep[..., :14, :] = 1  # the upper half
    known = core.Batch(torch.full_like(template.x, 0.6), template.mask, {**template.cond, "keep": keep})
    drawn = model.draw(known, config, 0, torch.arange(2))
    assert "keep" not in drawn.cond
    torch.testing.assert_close(drawn.x[..., :14, :], model.codec.decode(known).x[..., :14, :])
    free = model.draw(template, config, 0, torch.arange(2))
    assert (drawn.x - free.x)[..., 14:, :].abs().max() > 1e-3, "the rest is drawn around it"
    assert (drawn.x - 0.8)[..., 14:, :].abs().max() > 0.1


def test_training_and_loading_leave_the_global_generator_alone(trained: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    core.load(trained, device="cpu").sample(2, steps=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"label": 10}, "unknown label 10"), ({"label": "cat"}, "unknown label 'cat'"), ({"age": 3}, "unknown condition")],
)
def test_wrong_conditions_are_named(trained: Path, options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        core.load(trained, device="cpu").sample(2, steps=2, **options)


def test_a_device_that_is_not_there(trained: Path) -> None:
    with pytest.raises(UserError, match="device=tpu is not there; this machine has"):
        core.load(trained, device="tpu")


class Foreign(nn.Module):
    """Somebody's network: it knows nothing of us but the call."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, c_noise, mask, cond):
        return self.body(torch.cat([x, c_noise[:, None] / 10], dim=1))


def test_a_foreign_network_in_one_line() -> None:
    torch.manual_seed(0)
    denoiser = core.Denoiser(Foreign(), Cosine(), Velocity())

    data = torch.tensor([1.0, -0.5]) + 0.2 * torch.randn(256, 2)
    objective, optimizer = Objective(Uniform()), torch.optim.AdamW(denoiser.parameters(), 1e-2)
    losses = []
    for step in range(150):
        optimizer.zero_grad()
        loss = objective.training(denoiser, core.Batch.full(data), step, torch.arange(256), 256).loss.mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])

    drawn = sample(denoiser, DDIM(), core.Batch.full(torch.zeros(500, 2)), UniformTimes(20)(Cosine()))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -0.5]), atol=0.1, rtol=0)


def test_the_python_of_the_readme_runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, wrapping = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    label = core.load(trained, device="cpu").modality.classes[0]
    monkeypatch.chdir(tmp_path)
    exec(loading.replace("runs/image-...", str(trained)).replace("label=3", f"label={label!r}"), {})
    assert (tmp_path / "threes.png").stat().st_size > 0

    class Network(nn.Module):
        def forward(self, x: torch.Tensor, c_noise: torch.Tensor, mask: torch.Tensor, cond: dict) -> torch.Tensor:
            return 0.1 * x

    x_0 = torch.rand(4, 1, 8, 8)
    names = {"my_network": Network(), "x_0": x_0, "t": torch.rand(4), "eps": torch.randn_like(x_0)}
    exec(wrapping, names)
    assert bool(names["loss"].isfinite())
    assert names["x_0"].shape == x_0.shape
