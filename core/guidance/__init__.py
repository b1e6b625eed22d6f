"""Guidance and clipping: wrappers that take a denoiser and are one, so that every sampler knows only one call."""

from core.guidance.clipping import Clipped, DynamicThreshold
from core.guidance.contrast import Autoguided, ClassifierFree, Rescaled
from core.guidance.gradient import ClassifierGuided, LogProb, tilted, with_slope
from core.guidance.wrapper import Interval, Wrapper

__all__ = [
    "Autoguided",
    "ClassifierFree",
    "ClassifierGuided",
    "Clipped",
    "DynamicThreshold",
    "Interval",
    "LogProb",
    "Rescaled",
    "Wrapper",
    "tilted",
    "with_slope",
]
