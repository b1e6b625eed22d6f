"""Guidance and clipping: wrappers that take a denoiser and are one, so that every sampler knows only one call."""

from core.guidance.clipping import Clipped, DynamicThreshold
from core.guidance.contrast import Autoguided, ClassifierFree, Rescaled
from core.guidance.gradient import ClassifierGuided, LogProb, with_slope
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
    "with_slope",
]
