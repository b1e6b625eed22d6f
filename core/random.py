"""Randomness as a function, not a state: numbers follow from (seed, sample, step, element), on any device.

A counter-based generator: each key starts a SplitMix64 sequence (Steele, Lea & Flood 2014), whose n-th number is a
hash of key + n * gamma, so that all are computed at once. Two processes, two batch sizes or a resumed run that ask for
the same keys get the same numbers; nothing has to be saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache, reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Stream(IntEnum):
    """What a number is for: the same (seed, step, sample) must give unrelated numbers to each."""

    TRAIN_NOISE = 1
    TRAIN_TIME = 2
    TRAIN_DROP = 3
    TRAIN_AUGMENT = 4
    ORDER = 5
    VALIDATION_NOISE = 6
    VALIDATION_TIME = 7
    PRIOR = 8
    STEP = 9
    LIKELIHOOD = 10
    DROPOUT = 11
    MEASUREMENT = 12


def _signed(word: int) -> int:
    """A 64-bit word as the int64 that holds it."""
    return (word + 2**63) % 2**64 - 2**63


_GAMMA = _signed(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the sequence's stride
_MIX_1, _MIX_2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift of int64 (torch's is arithmetic)."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of 64-bit words in which each input bit changes each output bit."""
    z = (z ^ _shift_right(z, 30)).mul_(_MIX_1)
    z = (z ^ _shift_right(z, 27)).mul_(_MIX_2)
    return z ^ _shift_right(z, 31)


def keys(seed: int, *words: int | Int[Tensor, "..."], device: torch.device | str = "cpu") -> Int[Tensor, "..."]:
    """A 64-bit key for each combination of the words (integers or int64 tensors, broadcast together)."""
    first = next((i for i, word in enumerate(words) if isinstance(word, Tensor)), len(words))
    key = torch.tensor(_start(seed, *map(int, words[:first])), dtype=torch.int64, device=device)
    rest = (word.to(device, torch.int64) if isinstance(word, Tensor) else word for word in words[first:])
    return reduce(_absorb, rest, key)


def _absorb(key: Tensor, word: int | Tensor) -> Tensor:
    return _mix(key + word + _GAMMA)


@lru_cache
def _start(seed: int, *words: int) -> int:
    """The key of the integers before the first tensor, which are the same at every step of a sampler."""
    return int(reduce(_absorb, words, _mix(torch.tensor(_signed(seed), dtype=torch.int64, device="cpu") + _GAMMA)))


def _words(key: Int[Tensor, " b"], count: int) -> Int[Tensor, "b count"]:
    counter = torch.arange(1, count + 1, device=key.device) * _GAMMA
    return _mix(key[:, None] + counter)


def uniform(
    key: Int[Tensor, " b"], shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
) -> Float[Tensor, "b *s"]:
    """Uniform in the open interval (0, 1): (B, *shape), one sequence for each key."""
    bits = 52 if dtype == torch.float64 else 23  # with the half, exactly representable: never 0, never 1
    words = _shift_right(_words(key, math.prod(shape)), 64 - bits)
    return words.to(_exact(dtype)).add_(0.5).mul_(2.0**-bits).to(dtype).reshape(len(key), *shape)


def normal(
    key: Int[Tensor, " b"], shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
) -> Float[Tensor, "b *s"]:
    """Standard normal: (B, *shape), by Box and Muller, one 64-bit word for two numbers; the same in every dtype."""
    count = math.prod(shape)
    words = _words(key, (count + 1) // 2)
    # 32 bits for each of the two uniforms: tails to 6.7 standard deviations
    u = _shift_right(words, 32).to(_exact(dtype)).add_(0.5).mul_(2.0**-32)
    v = words.bitwise_and_(0xFFFFFFFF).to(_exact(dtype)).mul_(2 * math.pi * 2.0**-32)
    radius = u.log_().mul_(-2).clamp_(min=0).sqrt_()  # in float32 the largest u rounds to 1
    # the two of a pair side by side: an element's number does not depend on how many there are
    pairs = torch.empty(*words.shape, 2, dtype=u.dtype, device=key.device)
    torch.mul(radius, torch.cos(v), out=pairs[..., 0])
    torch.mul(radius, torch.sin(v), out=pairs[..., 1])
    return pairs.flatten(1)[:, :count].reshape(len(key), *shape).to(dtype)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """What numbers of this dtype are computed in: 32-bit words are beyond the halves."""
    return torch.promote_types(dtype, torch.float32)


def permutation(seed: int, epoch: int, size: int) -> Int[Tensor, " size"]:
    """A random order of `size` items for each epoch."""
    return torch.argsort(_words(keys(seed, Stream.ORDER, epoch)[None], size)[0])
