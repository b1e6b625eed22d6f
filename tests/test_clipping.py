"""Gradients clipped by their own recent norms."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from runs import assert_same_weights, compose, train
from torch import nn

from core import checkpoint
from core.clipping import RecentClipping
from core.fit import fit


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def norm_after(self, clipping: RecentClipping, norm: float) -> float:
        self.weight.grad = torch.tensor([0.6, 0.8]) * norm
        clipping.on_before_optimizer_step(None, self, None)
        return float(self.weight.grad.norm())


def test_a_norm_is_held_to_what_was_usual() -> None:
    module, clipping, usual = Module(), RecentClipping(4), [1.0, 2.0, 1.0, 4.0]
    assert [module.norm_after(clipping, norm) for norm in usual] == pytest.approx(usual), "not before there are four"
    bound = 1.5 * statistics.fmean(usual) + 2 * statistics.pstdev(usual)
    assert module.norm_after(clipping, 100.0) == pytest.approx(bound)
    assert clipping.norms == pytest.approx([2.0, 1.0, 4.0, bound]), "it counts as what it was held to"
    assert module.norm_after(clipping, 0.5) == pytest.approx(0.5)


def test_a_norm_that_overflowed_changes_nothing() -> None:
    """Float16's scaler passes such a step over; the steps after it are clipped as if it had not been."""
    module, clipping = Module(), RecentClipping(2)
    for norm in (1.0, float("inf"), 1.0):
        module.norm_after(clipping, norm)
    assert clipping.norms == pytest.approx([1.0, 1.0])
    assert module.norm_after(clipping, 50.0) == pytest.approx(1.5)


def test_a_resumed_run_clips_alike(tmp_path: Path, cache: Path, no_plots: None) -> None:
    options = (
        "training.steps=6",
        "training.validate_every=3",
        "optimisation.clip_recent=2",
        "optimisation.clip_norm=null",
    )
    whole = train(tmp_path / "whole", *options)
    again = train(tmp_path / "again", *options)
    checkpoint.remove(again / "checkpoints" / "step-00000006")
    fit(compose("train", f"resume={again / 'checkpoints' / 'step-00000003'}"))
    assert_same_weights(whole, again)


def test_too_few() -> None:
    with pytest.raises(ValueError, match="clip_recent=1: must be at least 2"):
        RecentClipping(1)
