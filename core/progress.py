"""A progress bar that a person can watch, and lines that a log file can keep."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PLAIN_SECONDS = 20  # between two lines where the output is no terminal


def bar_on(console: Console, text: str = "") -> Bar:
    """A bar of counted things; text: the column before the times, in which a task's fields may stand."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(text)]
    return Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


@contextmanager
def counting(console: Console, what: str, total: int) -> Iterator[Any]:
    """Yields a function that is told how many of `total` have been done since the last call."""
    begun = spoke = time.monotonic()
    done = 0

    def plain(more: int) -> None:
        nonlocal done, spoke
        done += more
        if time.monotonic() - spoke > PLAIN_SECONDS / 2 or done == total:
            spoke = time.monotonic()
            console.print(f"{what}: {done} of {total} in {spoke - begun:.0f} s")

    if not console.is_terminal:
        yield plain
        return
    with bar_on(console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)
