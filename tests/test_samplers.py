"""Laws of every sampler. What each step computes: tests/test_sampler_steps.py."""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import pytest
import torch
from conftest import GRIDS, SCHEDULES, each, gaussian, known
from torch import Tensor, nn

from core import samplers, times
from core.batch import Batch
from core.denoiser import BaseDenoiser
from core.reverse import Denoised, Large, LogInterpolated, Small
from core.samplers import (
    DDIM,
    DDPM,
    AdamsBashforth,
    Denoise,
    DPMSolverPP,
    Euler,
    Heun,
    PredictorCorrector,
    Sampler,
    UniPC,
    sample,
)
from core.schedules import Cosine

SAMPLERS: dict[str, Sampler] = {
    "ddpm_small": DDPM(),
    "ddpm_large": DDPM(Large()),
    "ddim_0": DDIM(),
    "ddim_half": DDIM(0.5),
    "ddim_1": DDIM(1.0),
    "heun": Heun(),
    "heun_churn": Heun(churn=0.3, churn_max=20.0, churn_noise=1.003),
    "dpmpp_1": DPMSolverPP(1),
    "dpmpp_2": DPMSolverPP(),
    "dpmpp_3": DPMSolverPP(3),
    "dpmpp_sde_1": DPMSolverPP(1, sde=True),
    "dpmpp_sde_2": DPMSolverPP(sde=True),
    "dpmpp_sde_3_half": DPMSolverPP(3, sde=0.5),
    "unipc_2": UniPC(2),
    "unipc_3": UniPC(),
    "unip_3": UniPC(corrector=False),
    "adams_bashforth": AdamsBashforth(),
    "pndm": AdamsBashforth(equal_steps=True),
    "predictor_corrector": PredictorCorrector(),
    "predictor_corrector_2": PredictorCorrector(Heun(), corrections=2),
}
each_sampler, each_schedule = each(SAMPLERS, "sampler"), each(SCHEDULES, "schedule")


def unwanted() -> Tensor:
    """The noise of a step that needs none."""
    raise AssertionError("the last step adds no noise")


def test_every_sampler_is_tested():
    found = {c for _, c in inspect.getmembers(samplers, inspect.isclass) if hasattr(c, "step") and c is not Sampler}
    assert {type(s) for s in SAMPLERS.values()} == found


EQUAL = {
    "ddpm": (DDPM(), DDIM(1.0)),
    "dpmpp_1": (DPMSolverPP(1), DDIM()),
    "dpmpp_sde_1": (DPMSolverPP(1, sde=1), DDPM()),
    "unip_1": (UniPC(1, corrector=False), DDIM()),
    "adams_bashforth_1": (AdamsBashforth(1), DDIM()),
    "pndm_1": (AdamsBashforth(1, equal_steps=True), Euler()),
}


@each(EQUAL, "pair")
@each_schedule
def test_of_first_order_all_are_ddim(schedule, pair):
    """Or, with the noise, DDPM: on the same draws, whatever the times are."""
    denoiser = known(schedule, lambda x, alpha, sigma: torch.tanh(x))
    template = Batch.full(torch.zeros(3, 4, dtype=torch.float64))
    for grid in GRIDS.values():
        paths = [sample(denoiser, sampler, template, grid(schedule)) for sampler in pair]
        torch.testing.assert_close(*paths, rtol=1e-8, atol=1e-8)


class Recording(Denoise):
    """Remembers where it was asked, and its last answer."""

    def __init__(self, denoiser: BaseDenoiser, batch: Batch) -> None:
        super().__init__(denoiser, batch)
        self.asked: list[Tensor] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Denoised:
        self.asked.append(t)
        self.last = super().__call__(x_t, t)
        return self.last


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_sampler
@each_schedule
def test_the_last_step_returns_the_denoised_data_exactly(schedule, sampler, dtype):
    """At one evaluation and with no noise, but for what Heun's churn adds before it."""
    denoiser = known(schedule, lambda x, alpha, sigma: torch.tanh(x))
    x_t = torch.randn(3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    noise = (lambda: torch.ones_like(x_t)) if getattr(sampler, "churn", 0) else unwanted
    for t in (torch.tensor(1e-3, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)):
        denoise = Recording(denoiser, Batch.full(x_t))
        x_s, _ = sampler.step(denoise, x_t, t, torch.zeros_like(t), None, noise)
        assert x_s.dtype == dtype
        assert torch.equal(x_s, denoise.last.x0)
        assert denoise.nfe == 1


@each_sampler
def test_evaluations(sampler):
    """One a step; two in Heun's but the last; one more for each Langevin step, of which the last step has none."""
    steps, denoise = 6, Recording(known(Cosine(), gaussian(0.3, 0.7)), Batch.full(torch.zeros(2, 3)))
    x_t, state = torch.ones(2, 3), None
    for t, s in pairwise(times.Uniform(steps)(Cosine())):
        x_t, state = sampler.step(denoise, x_t, t, s, state, lambda: torch.ones(2, 3))
    corrections = getattr(sampler, "corrections", 0)
    of_step = 2 if isinstance(getattr(sampler, "predictor", sampler), Heun) else 1
    assert denoise.nfe == steps * of_step - (of_step - 1) + (steps - 1) * corrections


FLAT = Cosine(log_snr_min=-2.0, log_snr_max=2.0)  # at the first third of all times it has one level
DETERMINISTIC = {
    name: sampler
    for name, sampler in SAMPLERS.items()
    if not any(getattr(sampler, of_noise, 0) for of_noise in ("eta", "sde", "churn", "corrections", "variance"))
}


@each_sampler
@each_schedule
def test_of_one_point_the_flow_is_exact_at_any_times(schedule, sampler):
    """Where the network knows the data, the noise in x never changes but by what a sampler adds."""
    denoiser = known(schedule, lambda x, alpha, sigma: torch.full_like(x, 0.6))
    template = Batch.full(torch.zeros(3, 4, dtype=torch.float64))
    for grid in GRIDS.values():
        path: list[tuple[Tensor, Tensor]] = []
        x = sample(denoiser, sampler, template, grid(schedule), callback=lambda i, s, x, p=path: p.append((s, x)))
        torch.testing.assert_close(x, torch.full_like(x, 0.6))
        alpha, sigma = schedule(path[0][0])
        eps = (path[0][1] - 0.6 * alpha) / sigma
        for (alpha, sigma), x in ((schedule(s), x) for s, x in path):
            assert x.isfinite().all()
            if sampler in DETERMINISTIC.values() and not 0 < sigma < 1e-12:  # there x holds no digit of its noise
                torch.testing.assert_close(x, 0.6 * alpha + sigma * eps, rtol=1e-9, atol=1e-9)


@each(DETERMINISTIC, "sampler")
def test_times_of_equal_noise_change_nothing(sampler):
    """Nor do they harm what a multistep sampler remembers."""
    denoiser = known(FLAT, lambda x, alpha, sigma: torch.tanh(2 * x) * alpha)
    grid = times.Uniform(20)(FLAT)
    last = int((FLAT.log_snr(grid) == -2.0).sum()) - 1
    assert last > 3
    template = Batch.full(torch.zeros(3, 4, dtype=torch.float64))
    whole, short = (sample(denoiser, sampler, template, times) for times in (grid, grid[last:]))
    torch.testing.assert_close(whole, short, rtol=1e-10, atol=1e-10)


@each({name: s for name, s in SAMPLERS.items() if isinstance(s, DPMSolverPP | UniPC | AdamsBashforth)}, "sampler")
def test_a_multistep_step_of_no_width_is_none(sampler):
    """It takes no evaluation and no noise, and keeps the state."""
    x_t = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    denoise = Recording(known(FLAT, gaussian(0.3, 0.7)), Batch.full(x_t))
    t, s = torch.tensor([1.0, 0.9], dtype=torch.float64)
    x_s, state = sampler.step(denoise, x_t, t, s, "what came before", unwanted)
    assert torch.equal(x_s, x_t)
    assert state == "what came before"
    assert denoise.nfe == 0


@each(SCHEDULES, "schedule")
def test_churn_stays_within_the_schedule(schedule):
    denoise = Recording(known(schedule, gaussian(0.3, 0.7)), Batch.full(torch.zeros(2, 3, dtype=torch.float64)))
    x_t, sampler, highest = torch.ones(2, 3, dtype=torch.float64), Heun(churn=0.4), 0.0
    ones = torch.ones_like(x_t)
    for t, s in pairwise(times.LogSNR(30)(schedule)):
        x_t, _ = sampler.step(denoise, x_t, t, s, None, lambda: ones)
        asked = float(schedule.log_snr(denoise.asked[-2 if s > 0 else -1]))
        wanted = max(float(schedule.log_snr(t)) - 2 * math.log(1.4), schedule.ends[0])
        assert asked == pytest.approx(wanted, abs=1e-6)
        highest = max(highest, float(denoise.asked[-1]))
    assert highest <= 1
    assert x_t.isfinite().all()


def test_churn_asks_for_no_time_beyond_the_end_of_training():
    """Where later times have the same noise, a network may never have seen them."""
    x_t = torch.ones(2, 3, dtype=torch.float64)
    denoise = Recording(known(FLAT, gaussian(0.3, 0.7)), Batch.full(x_t))
    t = FLAT.inverse(torch.tensor(-1.9, dtype=torch.float64))
    Heun(churn=0.4).step(denoise, x_t, t, t / 2, None, lambda: torch.ones_like(x_t))
    assert float(denoise.asked[0]) == pytest.approx(float(FLAT.inverse(torch.tensor(-2.0, dtype=torch.float64))))


WRONG = [
    (DDIM, {"eta": -0.1}, "eta"),
    (DDIM, {"eta": 1.1}, "eta"),
    (Heun, {"churn": 0.5}, "churn"),
    (Heun, {"churn": -0.1}, "churn"),
    (Heun, {"churn_min": 2.0, "churn_max": 1.0}, "churn_min"),
    (Heun, {"churn_noise": -1.0}, "churn_noise"),
    (DPMSolverPP, {"order": 4}, "order"),
    (DPMSolverPP, {"sde": 1.5}, "sde"),
    (UniPC, {"order": 4}, "order"),
    (AdamsBashforth, {"order": 0}, "order"),
    (PredictorCorrector, {"corrections": 0}, "corrections"),
    (PredictorCorrector, {"snr": 0.0}, "snr"),
]


@pytest.mark.parametrize(("kind", "options", "name"), WRONG)
def test_values_out_of_range_are_refused(kind, options, name):
    with pytest.raises(ValueError, match=f"^{name}="):
        kind(**options)


def test_a_learned_variance_samples_between_the_fixed_ones():
    """With the fraction 0 it is `Small`, with 1 `Large` (no noise is added in the last step)."""

    class WithFraction(nn.Module):
        def __init__(self, fraction: float) -> None:
            super().__init__()
            self.inner, self.fraction = known(Cosine(), gaussian(0.3, 0.7)), fraction
            self.schedule, self.space = self.inner.schedule, self.inner.space

        def forward(self, x_t: Tensor, t: Tensor, mask: Tensor, cond: dict) -> Denoised:
            x0 = self.inner(x_t, t, mask, cond).x0
            return Denoised(x0, torch.full_like(x0, self.fraction))

    template, grid = Batch.full(torch.zeros(4, 3, dtype=torch.float64)), times.Uniform(10)(Cosine())
    small, large = (sample(WithFraction(0.0), DDPM(v), template, grid) for v in (Small(), Large()))
    ends = [sample(WithFraction(f), DDPM(LogInterpolated()), template, grid) for f in (0.0, 1.0)]
    torch.testing.assert_close(ends[0], small)
    torch.testing.assert_close(ends[1], large)
    assert float((small - large).abs().max()) > 1e-2
