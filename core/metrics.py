"""Figures of point clouds in a feature space, whatever they are features of: distances, coverage, scores, copies.

The Frechet distance takes no square root of a non-symmetric product, which loses half of the digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

K = 3  # which neighbour sets a ball's radius in precision and recall
ROWS = 1024  # distances to all points are computed for that many points at a time
RESAMPLES = 200  # of a bootstrap: its standard error is then known to 5%


@dataclass(frozen=True)
class Headline:
    """A figure as a function of what was seen in each sample, so that its error needs no second look at the samples.

    of: takes the columns. columns: (n, ...) each, their rows are the samples. strata: numbers that the samples were
    drawn for in fixed shares, such as their labels; None where there are none.
    """

    of: Callable[..., float]
    columns: tuple[Tensor, ...]
    lower_is_better: bool = False
    strata: Int64[Tensor, " n"] | None = None

    @property
    def value(self) -> float:
        return self.of(*self.columns)

    def error(self, seed: int = 0, resamples: int = RESAMPLES) -> float:
        """The bootstrap's standard error: the standard deviation of the figure over draws of n samples from these n.

        Each stratum is drawn from by itself: its share is no chance. That loses a degree of freedom for each, which the
        factor gives back; with fewer than two samples a stratum, all are one. The draws repeat samples, which shifts
        some figures (a Frechet distance grows), all by about as much: so their mean says nothing. (Efron 1979)
        """
        n = len(self.columns[0])
        strata = torch.zeros(n, dtype=torch.int64)
        if self.strata is not None and 2 * len(self.strata.unique()) <= n:
            strata = self.strata.cpu()
        order, (groups, place, sizes) = strata.argsort(), strata.unique(return_inverse=True, return_counts=True)
        first, size = (sizes.cumsum(0) - sizes)[place[order]], sizes[place[order]]
        u = torch.rand(resamples, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        draws = order[first + (u * size).long()]
        figures = [self.of(*(column[rows] for column in self.columns)) for rows in draws]
        return torch.tensor(figures, dtype=torch.float64).std().item() * (n / max(n - len(groups), 1)) ** 0.5


def frechet_distance(a: Float[Tensor, "n dim"], b: Float[Tensor, "m dim"]) -> float:
    r"""$|\mu_a - \mu_b|^2 + \mathrm{tr}(C_a + C_b - 2 (C_a C_b)^{1/2})$ of the Gaussians with the moments of a and b.

    With centred rows $A = \sqrt{n-1}\, U C_a^{1/2}$, the last trace is the sum of the singular values of
    $A B^T / \sqrt{(n-1)(m-1)}$: no covariance is formed, so none loses rank or digits, and the R factors of A and B
    stand in for them. It depends on n (fewer points, a larger distance): compare at equal n only.

    Raises ValueError with fewer than 2 points on a side. (Heusel et al. 2017, eq. 6)
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a Frechet distance needs at least 2 points on each side, not {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    root_a, root_b = _covariance_root(a), _covariance_root(b)  # root.T @ root = covariance
    shared = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * shared
    return max(distance.item(), 0.0)  # rounding alone makes it negative


def _covariance_root(points: Float[Tensor, "n dim"]) -> Float[Tensor, "rank dim"]:
    centred = points - points.mean(0)
    return torch.linalg.qr(centred, mode="r").R / (len(points) - 1) ** 0.5


def inception_score(logits: Float[Tensor, "n classes"]) -> float:
    r"""$\exp E_x\, KL(p(y|x) \,\|\, p(y))$, from 1 to the number of classes, over all samples at once (no splits).

    (Salimans et al. 2016)
    """
    log_p = logits.double().log_softmax(dim=1)
    log_marginal = log_p.logsumexp(dim=0) - torch.tensor(len(logits), dtype=torch.float64).log()
    return (log_p.exp() * (log_p - log_marginal)).sum(dim=1).mean().exp().item()


def precision_recall(real: Float[Tensor, "n dim"], fake: Float[Tensor, "m dim"], k: int = K) -> tuple[float, float]:
    """Precision: the share of fakes on the manifold of the reals; recall: of reals on the manifold of the fakes.

    A manifold is the union of balls around its points that reach to their k-th nearest neighbour.
    Raises ValueError without more than k points on each side. (Kynkaanniemi et al. 2019, eq. 1-2)
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"precision and recall need more than k={k} points, not {len(real)} and {len(fake)}")
    real, fake = real.double(), fake.double()
    return _share_inside(fake, real, k), _share_inside(real, fake, k)


def _share_inside(points: Float[Tensor, "n dim"], manifold: Float[Tensor, "m dim"], k: int) -> float:
    # The nearest point of the manifold to itself is itself: hence the (k+1)-th.
    radii = torch.cat([torch.cdist(rows, manifold).kthvalue(k + 1, dim=1).values for rows in manifold.split(ROWS)])
    inside = [(torch.cdist(rows, manifold) <= radii).any(dim=1) for rows in points.split(ROWS)]
    return torch.cat(inside).double().mean().item()


def label_accuracy(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> float:
    """The share of samples in which the classifier sees the label that was asked for."""
    return (logits.argmax(dim=1) == labels.to(logits.device)).double().mean().item()


def share(successes: Float[Tensor, " n"], trials: Float[Tensor, " n"]) -> float:
    """The share of successes in the trials of all samples together."""
    return (successes.double().sum() / trials.double().sum()).item()


def memorisation(
    samples: Float[Tensor, "n dim"], held_out: Float[Tensor, "m dim"], training: Float[Tensor, "t dim"]
) -> dict[str, float]:
    """Are samples closer to training data than unseen real data is? In the data's own elements: a copy is a copy of
    them, and the whole training set needs no pass of an extractor.

    nearest_training_ratio: median distance to the nearest training sample, over that of held-out ones. About 1 for
        new samples; towards 0 for copies. (Blurred samples are also nearer: look at them too.)
    copied_share: share of samples nearer to a training sample than all but 1% of the held-out ones. About 0.01 for
        new samples; 1 for copies.
    """
    ours, unseen = nearest_distances(samples, training), nearest_distances(held_out, training)
    return {
        "nearest_training_ratio": (ours.median() / unseen.median()).item(),
        "copied_share": (ours < unseen.quantile(0.01)).double().mean().item(),
    }


def nearest_distances(points: Float[Tensor, "n dim"], others: Float[Tensor, "m dim"]) -> Float[Tensor, " n"]:
    """The Euclidean distance from each point to the nearest of the others, in float64."""
    nearest = points.new_full((len(points),), torch.inf, dtype=torch.float64)
    for piece in others.split(ROWS):  # a large training set is converted a piece at a time
        distances = [torch.cdist(rows.double(), piece.double()).amin(dim=1) for rows in points.split(ROWS)]
        nearest = torch.minimum(nearest, torch.cat(distances))
    return nearest
