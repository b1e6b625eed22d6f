"""The default data: notes of five synthesised instruments, whose pitch is known exactly."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from core.cache import building, cache_dir
from core.pulse import Pulse
from core.splits import SPLITS
from modalities.audio.clips import to_int16
from modalities.audio.data import AudioData, ClipWriter
from modalities.audio.synthesis import INSTRUMENTS, synthesise

CACHE_VERSION = "v1"  # a new one whenever the synthesis or the layout changes
SAMPLE_RATE, LENGTH = 8000, 6400
PITCHES = range(48, 73)  # MIDI: two octaves from C3, 130.8 to 523.3 Hz
SIZES = {"train": 6000, "val": 500, "test": 1000}
ORDER_SEED = 0


class Tones(AudioData):
    """7,500 notes of 0.8 seconds at 8 kHz: 6,000 for training, 500 for validation, 1,000 for testing.

    Conditions: `label`, one of five instruments, and `pitch`, one of 25 MIDI notes ("48" to "72"). Every combination
    is equally frequent in every 125 notes, and every instrument in every 5. A note follows from its index alone.
    """

    def __init__(self) -> None:
        cache = cache_dir("tones") / CACHE_VERSION
        if not cache.exists():
            total = sum(SIZES.values())
            label, pitch = plan(total)
            pulse = Pulse("synthesised", total, "notes")
            with building(cache) as folder:
                writer, block = ClipWriter(folder), 500
                for start in range(0, total, block):
                    pulse(start)
                    rows = np.arange(start, min(start + block, total))
                    notes = synthesise(label[rows], pitch[rows] + PITCHES[0], rows, SAMPLE_RATE, LENGTH)
                    for clip in to_int16(notes):
                        writer.add(clip)
                ends = np.cumsum([SIZES[split] for split in SPLITS])
                rows_of = {s: np.arange(end - SIZES[s], end) for s, end in zip(SPLITS, ends, strict=True)}
                conditions = {"label": INSTRUMENTS, "pitch": [str(p) for p in PITCHES]}
                writer.finish(SAMPLE_RATE, conditions, {"label": label, "pitch": pitch}, rows_of)
        super().__init__("tones", cache)


def plan(total: int) -> tuple[Int64[np.ndarray, " total"], Int64[np.ndarray, " total"]]:
    """The instrument and the pitch (its place in `PITCHES`) of each note.

    Each round of 125 notes has every combination once, and goes through the instruments in turn.
    """
    instruments, pitches = len(INSTRUMENTS), len(PITCHES)
    rounds = -(-total // (instruments * pitches))
    rng = np.random.default_rng(ORDER_SEED)
    pitch = rng.permuted(np.tile(np.arange(pitches), (rounds, instruments, 1)), axis=2).transpose(0, 2, 1)
    label = np.broadcast_to(np.arange(instruments), pitch.shape)
    return label.reshape(-1)[:total].astype(np.int64), pitch.reshape(-1)[:total].astype(np.int64)
