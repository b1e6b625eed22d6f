"""Pictures of edits: before, what stays, and after, one below another; and the sound before, to listen to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Batch
from modalities.audio import clips, drawing, editing
from modalities.audio.artefacts import Clip, unpadded

SHOWN = 6  # edits


def show_edit(known: Batch, edited: Batch, path: Path, sample_rate: int) -> None:
    """Before, what is kept of it, and the first edits as `path`.png; the sound before as `path`-before.wav."""
    before = unpadded(editing.as_given(known[:1]).x, known.mask[:1])[0]
    titles, sounds, new = ["before"], [before], []
    if "keep" in known.cond:
        heard = unpadded(editing.heard(known[:1]).x, known.mask[:1])[0]
        if not np.array_equal(heard, before):  # what a sound grows by was silent before
            titles, sounds = [*titles, "what is kept"], [*sounds, heard]
        new = stretches(known.cond["keep"][0, 0], len(before), sample_rate)
    after, numbered = _first(edited)
    drawing.save_row([*titles, *numbered], [*sounds, *after], path.with_suffix(".png"), sample_rate, new)
    _write(before, path, "before", sample_rate)


def show_measured(measured: Float[Tensor, "n 1 length"], edited: Batch, path: Path, sample_rate: int) -> None:
    """The measurement and the first sounds that agree with it, likewise."""
    whole = edited.mask.expand_as(edited.x).bool()
    size = int(whole[0].sum()) if measured.shape == edited.x.shape else measured.shape[-1]
    before = measured[0, 0, :size].double().numpy()
    after, numbered = _first(edited)
    drawing.save_row(["measured", *numbered], [before, *after], path.with_suffix(".png"), sample_rate)
    _write(before, path, "measured", sample_rate)


def stretches(keep: Float[Tensor, " length"], length: int, sample_rate: int) -> list[tuple[float, float]]:
    """Where a sound is new, in seconds."""
    edges = torch.cat([torch.ones(1), keep[:length].cpu(), torch.ones(1)]).diff().nonzero().flatten().tolist()
    return [(a / sample_rate, b / sample_rate) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _first(edited: Batch) -> tuple[list[Clip], list[str]]:
    sounds = unpadded(edited.x[:SHOWN], edited.mask[:SHOWN])
    return sounds, [f"after, {number}" for number in range(len(sounds))]


def _write(clip: Clip, path: Path, name: str, sample_rate: int) -> None:
    file = path.with_name(f"{path.name}-{name}.wav")
    clips.soundfile().write(file, clip.clip(-1, 1), sample_rate, subtype="PCM_16")
