"""The way back from noise to data: samplers, each one step from t to an earlier s, and the one loop around them."""

from core.samplers.heun import Heun
from core.samplers.inversion import invert
from core.samplers.langevin import PredictorCorrector
from core.samplers.loop import Callback, Constrain, Denoise, Noise, Sampler, State, sample
from core.samplers.multistep import AdamsBashforth, DPMSolverPP, UniPC
from core.samplers.onestep import DDIM, DDPM, Euler

__all__ = [
    "DDIM",
    "DDPM",
    "AdamsBashforth",
    "Callback",
    "Constrain",
    "DPMSolverPP",
    "Denoise",
    "Euler",
    "Heun",
    "Noise",
    "PredictorCorrector",
    "Sampler",
    "State",
    "UniPC",
    "invert",
    "sample",
]
