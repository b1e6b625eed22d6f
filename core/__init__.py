"""polydiffusion's core: the mathematics of diffusion, one training loop and one sampling loop, for any modality.

Importing this package is instant: what it exports is loaded when it is first used, and torch only then.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.batch import Batch as Batch
    from core.denoiser import Denoiser as Denoiser
    from core.errors import UserError as UserError
    from core.model import Model as Model
    from core.model import load as load
    from core.reverse import Denoised as Denoised

_HOMES = {
    "Batch": "core.batch",
    "Denoiser": "core.denoiser",
    "Denoised": "core.reverse",
    "Model": "core.model",
    "UserError": "core.errors",
    "load": "core.model",
}

__all__ = ["Batch", "Denoised", "Denoiser", "Model", "UserError", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    try:
        return importlib.import_module(f"core.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"core.{name}":
            raise
        raise AttributeError(f"module 'core' has no attribute {name!r}") from None
