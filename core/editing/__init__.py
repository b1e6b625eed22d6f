"""The one edit verb: sampling that keeps what is known of a sample, or follows a measurement of it, or begins at it."""

from core.editing.gradient import DPS, PiGDM
from core.editing.latents import interpolate
from core.editing.measurement import Kept, Measurement, Method, Operator
from core.editing.replace import Replace
from core.editing.search import Search
from core.editing.told import Told
from core.editing.verb import edit, from_level
from core.editing.windows import Windows

__all__ = [
    "DPS",
    "Kept",
    "Measurement",
    "Method",
    "Operator",
    "PiGDM",
    "Replace",
    "Search",
    "Told",
    "Windows",
    "edit",
    "from_level",
    "interpolate",
]
