"""The processes of one run: each says its rank, and one that dies does not leave the others waiting for ever.

A process that waits for others in a collective operation notices their death over gloo, and may never over NCCL. So a
process that was started by another (by torchrun, or by the first one, which Lightning makes start the rest) watches
whether that one lives, and the first one watches those that it has started.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from core.errors import UserError

RUN_FOLDER = "POLYDIFFUSION_RUN_FOLDER"  # told by a process to those that Lightning starts from it
SECONDS = 0.25  # between two looks at the others
GRACE = 3.0  # seconds in which an error may come out by itself, or a death become known
STOPPED, LONG_GRACE = (130, 143), 30.0  # exit codes of Ctrl-C and SIGTERM, which the others are told of too
# what gloo and NCCL say of a connection to a process that is gone
LOST = re.compile(r"closed by peer|reset by peer|Broken pipe|remote process exited|communicator was aborted")

_known: list[tuple[int, int]] = []  # the place, which Lightning takes out of the environment before the end
_said: set[str] = set()


def place() -> tuple[int, int]:
    """This process's rank and the number of processes, as torchrun, Lightning or SLURM tell it; (0, 1) if it is one."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and int(os.environ.get(world, 1)) > 1:
            return int(os.environ[rank]), int(os.environ[world])
    return _known[0] if _known else (0, 1)


def name() -> str:
    """`rank 1 of 2: ` before what one of several processes says; "" for a single one."""
    rank, world = place()
    return f"rank {rank} of {world}: " if world > 1 else ""


def tell(line: str) -> None:
    """An error's line with the rank, once."""
    if line not in _said:
        _said.add(line)
        print(f"error: {name()}{line}", file=sys.stderr, flush=True)


def leave(line: str, code: int) -> NoReturn:
    """Ends this process at once: the interpreter's own end may wait for the others."""
    tell(line)
    sys.stdout.flush()
    os._exit(code)


def is_loss(error: BaseException) -> bool:
    """Whether it says that another process is gone. Waits a moment, in which what has noticed that may say more."""
    if not isinstance(error, RuntimeError) or not LOST.search(str(error)):
        return False
    time.sleep(GRACE)
    return True


def watch_parent() -> None:
    """Ends this process when the one that has started it is gone."""
    by_lightning = int(os.environ.get("LOCAL_RANK", 0)) > 0 and "RANK" not in os.environ and RUN_FOLDER in os.environ
    if not by_lightning and "TORCHELASTIC_RUN_ID" not in os.environ:
        return  # a shell may have started it, and may go
    _known[:] = [place()]
    parent, who = os.getppid(), "rank 0" if by_lightning else "torchrun"

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS)
        leave(f"{who}, which has started it, is gone", 1)

    threading.Thread(target=look, name="watch-parent", daemon=True).start()


@contextmanager
def watched(launcher: Any) -> Iterator[None]:
    """Ends this process and those that Lightning's launcher has started, ranks 1, 2, ..., when one of them has died.

    UserError where this process has noticed it by itself.
    """
    if not hasattr(launcher, "procs"):
        yield
        return
    over, taken = threading.Event(), False

    def look() -> None:
        nonlocal taken
        while not over.wait(SECONDS):
            taken = taken or _take_over(launcher)
            if (death := _death(launcher.procs)) is None:
                continue
            if death.stopped and over.wait(LONG_GRACE):
                return
            tell(death.line)
            if not over.wait(GRACE):
                for child in launcher.procs:
                    child.kill()
                leave(death.line, 1)

    threading.Thread(target=look, name="watch-children", daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        over.set()  # before the wait: this way out is the better one
        if is_loss(error) and (death := _death(launcher.procs)):
            raise UserError(death.line) from error
        raise
    finally:
        over.set()


def _take_over(launcher: Any) -> bool:
    """Leaves Lightning's own observer, which would kill this process without a word, nobody to observe."""
    if not any(thread.name == "child-process-observer" for thread in threading.enumerate()):
        return False
    _known[:] = [place()]
    observed, launcher.procs = launcher.procs, list(launcher.procs)
    observed.clear()
    return True


@dataclass(frozen=True)
class Death:
    """stopped: by what stops all processes alike."""

    line: str
    stopped: bool = False


def _death(children: Sequence[subprocess.Popen[bytes]]) -> Death | None:
    for rank, child in enumerate(children, 1):
        code = child.poll()
        if code is not None and code < 0:
            return Death(f"rank {rank} was killed by {signal.Signals(-code).name}", -code == signal.SIGTERM)
        if code:
            return Death(f"rank {rank} has ended with exit code {code}; its own lines say why", code in STOPPED)
    return None
