"""A training step that could not be applied, taken again: `python -m core.train replay=run/flight/step-...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core import checkpoint, recorder
from core.build import build_codec, build_denoiser, build_levels
from core.config import load_yaml
from core.diagnosis import Diagnosis, diagnose
from core.model import best_device
from core.objective import Objective, Taken

if TYPE_CHECKING:
    from omegaconf import DictConfig


def replay(config: DictConfig) -> Diagnosis:
    """Prints each sample's noise level and loss, and where numbers cease to be numbers. Nothing is unpickled."""
    from rich.console import Console
    from rich.table import Table

    folder = Path(config.replay)
    taken, record = recorder.read(folder)
    saved = load_yaml(checkpoint.load_config_text(folder))
    saved.allow = config.allow
    denoiser = build_denoiser(saved, build_codec(saved)).train()
    denoiser.load_state_dict(checkpoint.load_weights(folder, averaged=False))
    device = best_device()
    denoiser.to(device)
    objective = Objective(build_levels(saved), saved.training.drop_rate, saved.seed)
    found = diagnose(denoiser, objective, [_on(one, device) for one in taken])
    table = Table("sample", "log-SNR", "loss", title=f"step {taken[0].step}, taken again in 32 bits on {device}")
    for number, (log_snr, loss) in enumerate(zip(found.log_snrs, found.losses, strict=True)):
        table.add_row(str(number), f"{log_snr:.2f}", f"{loss:.4g}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    if found.gradients:
        console.print(f"gradients that are no numbers: {len(found.gradients)}, such as {found.gradients[0]}")
    console.print(f"then, in {record['precision']}: {record['found']['culprit']}")
    console.print(f"now: {found}")
    return found


def _on(taken: Taken, device: str) -> Taken:
    return Taken(taken.batch.to(device), taken.step, taken.positions.to(device), taken.total, taken.key)
