"""The numbers of a command's config, checked before anything is loaded, each in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

POSITIVE_WHOLE = (
    "steps",
    "micro_batch",
    "training.batch_size",
    "training.accumulate",
    "training.steps",
    "training.validate_every",
    "training.validate_on",
    "training.patience",
    "preview.steps",
    "likelihood_steps",
)
WHOLE = ("n", "preview.n", "training.keep", "optimisation.warmup", "trainer.workers", "likelihood")
POSITIVE = ("training.minutes", "optimisation.lr", "optimisation.clip_norm")
SHARES = ("training.drop_rate", "optimisation.flat", "optimisation.final", "optimisation.ema_decay")
NULLABLE = ("training.steps", "optimisation.clip_norm", "optimisation.clip_recent")
ON_DEVICES = ("trainer.compile", "trainer.cuda_graphs", "trainer.channels_last")
SWITCHES = ("debug", "averaged", "trajectory", "optimisation.amsgrad", *ON_DEVICES)

RULES: Mapping[str, tuple[type, float, float, str]] = {
    **dict.fromkeys(POSITIVE_WHOLE, (int, 1, float("inf"), "a whole number of at least 1")),
    **dict.fromkeys(WHOLE, (int, 0, float("inf"), "a whole number of at least 0")),
    **dict.fromkeys(POSITIVE, (float, 1e-30, float("inf"), "a positive number")),
    **dict.fromkeys(SHARES, (float, 0, 1, "a number from 0 to 1")),
    **dict.fromkeys(SWITCHES, (bool, 0, 1, "true or false")),
    "optimisation.clip_recent": (int, 2, float("inf"), "a whole number of at least 2"),
    "seed": (int, -float("inf"), float("inf"), "a whole number"),
    "optimisation.weight_decay": (float, 0, float("inf"), "a number of at least 0"),
}


def check(config: DictConfig, optional: tuple[str, ...] = NULLABLE) -> None:
    """UserError names the first key whose value is not allowed. optional: keys that may be null."""
    from omegaconf import OmegaConf

    for key, (kind, low, high, wanted) in RULES.items():
        value = OmegaConf.select(config, key, default=_ABSENT)
        if value is _ABSENT or (value is None and key in optional):
            continue
        right_kind = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not right_kind or (isinstance(value, bool) and kind is not bool) or not low <= value <= high:
            raise UserError(f"{key}={'null' if value is None else value}: must be {wanted}")


_ABSENT = object()
