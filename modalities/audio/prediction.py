"""Linear prediction: how a sound goes on, if what precedes is an autoregressive process."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Sound = Float[np.ndarray, " length"]


def burg(x: Sound, order: int) -> Float[np.ndarray, " order_plus_1"]:
    """The prediction error filter a, a[0] = 1, of least error forwards and backwards (Burg 1975): a stable one."""
    a, forward, backward = np.ones(1), x[1:], x[:-1]
    for _ in range(order):
        energy = forward @ forward + backward @ backward
        reflection = -2 * (forward @ backward) / max(energy, 1e-20)
        longer = np.append(a, 0)
        a = longer + reflection * longer[::-1]
        forward, backward = (forward + reflection * backward)[1:], (backward + reflection * forward)[:-1]
    return a


def continued(x: Sound, length: int, order: int) -> Sound:
    """The next `length` samples: x[n] = -sum_k a[k] x[n - k], with an order of at most a third of x."""
    order = min(order, len(x) // 3)
    weights = -burg(x, order)[:0:-1]  # of the oldest sample first
    known = np.concatenate([x[len(x) - order :], np.zeros(length)])
    for n in range(order, order + length):
        known[n] = weights @ known[n - order : n]
    return known[order:]
