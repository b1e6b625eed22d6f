"""Progress of work that needs no bar: a line every few seconds."""

from __future__ import annotations

import time

from core.cli import say

PULSE_SECONDS = 2


class Pulse:
    """Says every few seconds how much of a long work is done; a short one passes in silence."""

    def __init__(self, what: str, total: int, things: str) -> None:
        self.what, self.total, self.things, self.spoke = what, total, things, time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self.spoke > PULSE_SECONDS:
            self.spoke = time.monotonic()
            say(f"{self.what} {done:,} of {self.total:,} {self.things}")
