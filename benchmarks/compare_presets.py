"""How much a comparison of settings looks at: a few of them within minutes, or as many as a night takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """n: by modality; a multiple of its labels' combinations, else what is drawn has others than the reference."""

    samplers: str
    evaluations: tuple[int, ...]  # of a sample's path
    guidance: tuple[float, ...]
    n: Mapping[str, int]
    other_evaluations: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of some modalities


PRESETS = {
    "quick": Preset(
        "ddim,unipc,dpmpp_sde3",
        (5, 15),
        (1.0, 2.0),
        {"image": 100, "audio": 60, "molecules": 100},
        {"audio": (4, 10), "molecules": (15, 40)},  # slow ones, and those that take more to be anything at all
    ),
    "full": Preset(
        "ddim,ddpm,heun,dpmpp,dpmpp_sde,dpmpp_sde3,unipc",
        (5, 10, 20, 50, 100),
        (1.0, 1.5, 2.0, 3.0),
        {"image": 500, "audio": 120, "molecules": 500},
    ),
}
