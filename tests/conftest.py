"""What several files of tests share: one instance of every class, and denoisers whose answer is known exactly."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from runs import LAUNCHED, cache, command, digit, no_plots, own_run, pictures, sounds, trained, vocoder  # noqa: F401  (fixtures)
from torch import Tensor, nn

from core import levels, prediction, schedules, space, times, weighting
from core.batch import expand
from core.denoiser import Denoiser

# The tests' tensors are tiny; and sums over several threads differ in the last bit, where runs are to be equal.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: several processes that take files in turn then come to their ends together."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # stable: within a file, and among the others, as they were


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """What a distributed run changes for its process: one thread again, and no word of a launcher in the environment,
    by which a later run would wait for other processes.
    """
    yield
    torch.set_num_threads(1)
    for name in LAUNCHED:
        os.environ.pop(name, None)


SCHEDULES: dict[str, schedules.Schedule] = {
    "cosine": schedules.Cosine(),
    "linear_path": schedules.LinearPath(),
    "variance_exploding": schedules.VarianceExploding(),
    "polynomial": schedules.PolynomialAlpha(),
    "beta_table": schedules.BetaTable(np.linspace(0.001, 0.3, 30)),
    "linear_beta": schedules.LinearBeta(),
    "cosine_beta": schedules.CosineBeta(),
    "sigmoid_beta": schedules.SigmoidBeta(),
    "shifted_down": schedules.Shifted(schedules.Cosine(), -2.0),
    "shifted_up": schedules.Shifted(schedules.Cosine(), 2.0),
}
PREDICTIONS: dict[str, prediction.Prediction] = {
    "epsilon": prediction.Epsilon(),
    "sample": prediction.Sample(),
    "velocity": prediction.Velocity(),
    "flow": prediction.Flow(),
    "karras": prediction.Karras(0.5),
}
WEIGHTINGS: dict[str, weighting.Weighting] = {
    "epsilon": weighting.EpsilonLoss(),
    "sample": weighting.SampleLoss(),
    "network": weighting.NetworkLoss(),
    "min_snr": weighting.MinSNR(5.0),
    "truncated_snr": weighting.TruncatedSNR(1.0),
    "p2": weighting.P2(0.5, 2.0),
    "variational_bound": weighting.VariationalBound(1000),
    "columns": weighting.Columns(weighting.EpsilonLoss(), [3.0, 3.0, 3.0, 1.0]),
}
LEVELS: dict[str, levels.NoiseLevels] = {
    "uniform": levels.Uniform(),
    "discrete": levels.Discrete(100),
    "log_normal": levels.LogNormal(-1.2, 1.2),
    "fitted": levels.Fitted([-6.0, -2.0, 0.0, 3.0, 5.0], [1.0, 3.0, 0.0, 2.0]),
}
GRIDS: dict[str, times.Times] = {
    "uniform": times.Uniform(10),
    "trailing": times.Trailing(10),
    "leading": times.Leading(10),
    "quadratic": times.Quadratic(10),
    "karras": times.Karras(10),
    "log_snr": times.LogSNR(10),
    "log_snr_between": times.LogSNR(10, -4.0, 3.0),
    "fitted": times.Fitted(10, [-6.0, -2.0, 0.0, 5.0], [1.0, 3.0, 2.0]),
    "noise_table": times.NoiseTable(6, [1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5]),
}
SPACES: dict[str, space.Space] = {"euclidean": space.Euclidean(), "zero_centre_of_mass": space.ZeroCentreOfMass(3)}


def each(instances: dict[str, object], argument: str) -> pytest.MarkDecorator:
    """The test runs once for each of the instances, under its name."""
    return pytest.mark.parametrize(argument, instances.values(), ids=instances.keys())


def subclasses(base: type) -> set[type]:
    """Every public class of `core` below `base`."""
    found = set()
    for child in base.__subclasses__():
        found |= subclasses(child)
        if child.__module__.startswith("core.") and not child.__name__.startswith("_"):
            found.add(child)
    return found


def training_times(schedule: schedules.Schedule, count: int = 50) -> Tensor:
    """Times from the data's end of training to the noise's, float64."""
    return levels.Uniform()((torch.arange(count, dtype=torch.float64) + 0.5) / count, schedule)


class KnownDenoiser(nn.Module):
    """The network that makes a `Denoiser` of any prediction compute x0 = f(x_t, alpha_t, sigma_t)."""

    def __init__(
        self,
        schedule: schedules.Schedule,
        predicted: prediction.Prediction,
        f: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.schedule, self.prediction, self.f = schedule, predicted, f

    def forward(self, x: Tensor, c_noise: Tensor, mask: Tensor, cond: dict) -> Tensor:
        alpha, sigma = (expand(c, x) for c in self.schedule.alpha_sigma(c_noise))
        x_t = x / self.prediction.c_in(alpha, sigma)
        c_skip, c_out = self.prediction.c_skip_out(alpha, sigma)
        return (self.f(x_t, alpha, sigma) - c_skip * x_t) / c_out


def known(
    schedule: schedules.Schedule,
    f: Callable[[Tensor, Tensor, Tensor], Tensor],
    predicted: prediction.Prediction | None = None,
    **options: object,
) -> Denoiser:
    """A `Denoiser` whose x0 is f(x_t, alpha_t, sigma_t)."""
    predicted = predicted or prediction.Velocity()
    return Denoiser(KnownDenoiser(schedule, predicted, f), schedule, predicted, **options)


def gaussian(mean: float, sd: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """E[x_0 | x_t] of data N(mean, sd^2) in each element."""
    return lambda x_t, alpha, sigma: mean + alpha * sd**2 / (alpha**2 * sd**2 + sigma**2) * (x_t - alpha * mean)


def random_mask(sizes: Sequence[int], length: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """(B, length, 1): the first sizes[b] points of sample b are real."""
    return (torch.arange(length)[None, :] < torch.tensor(sizes)[:, None]).to(dtype)[..., None]
