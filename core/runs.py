"""The folder of a run, and what is written into it while it lasts."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from core import checkpoint
from core.cli import is_first_process
from core.errors import UserError
from core.peers import RUN_FOLDER

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console


LOCK = ".lock"


def new_folder(config: DictConfig) -> Path:
    """`config.out`, or runs/<modality>-<time>; the same on every process of a distributed run.

    UserError if it holds a run already.
    """
    is_child = int(os.environ.get("LOCAL_RANK", 0)) > 0 and "RANK" not in os.environ
    if is_child and RUN_FOLDER in os.environ:
        return Path(os.environ[RUN_FOLDER])
    path = Path(config.out or f"runs/{config.name}-{_moment()}")
    by_torchrun = int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ
    if by_torchrun and not config.out:
        path = Path(_from_first_process(str(path)))
    elif not config.out and int(os.environ.get("SLURM_NTASKS", 1)) == 1:
        path = _own(path)
    if any((path / checkpoint.FOLDER).glob("step-*")):
        raise UserError(f"{path} holds a run already: resume={path} continues it, or choose another out=")
    with writable(path):
        path.mkdir(parents=True, exist_ok=True)
    os.environ[RUN_FOLDER] = str(path)
    return path


def _own(path: Path) -> Path:
    """The folder, made by this process; with a number, if another run has begun in the same second."""
    with writable(path):
        for number in count(2):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                path = path.with_name(f"{path.name.partition('--')[0]}--{number}")
            else:
                return path
    raise AssertionError


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """UserError in one line for a folder that cannot be written, or a disk that is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR):
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        raise


@contextmanager
def in_use(run: Path) -> Iterator[None]:
    """Holds the run folder: UserError if another process does. What is killed holds nothing."""
    if fcntl is None or not is_first_process():  # no such locks outside POSIX
        yield
        return
    with writable(run):
        file = (run / LOCK).open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{run} is in use by another process, {file.read().strip() or 'unknown'}") from None
        file.truncate(0)
        file.write(f"number {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def _moment() -> str:
    """The time, or, under SLURM, what its processes have in common: the job's number and that of its step."""
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_JOB_ID" in os.environ:
        return "-".join(os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_ID") if name in os.environ)
    return f"{datetime.now():%Y%m%d-%H%M%S}"


def _from_first_process(text: str) -> str:
    """The first process's text. Starts the process group, which Lightning then uses."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    texts = [text]
    dist.broadcast_object_list(texts)
    return texts[0]


class Reporter:
    """Prints for a person and keeps the same lines in the run's log; silent on all processes but the first."""

    def __init__(self, folder: Path) -> None:
        from rich.console import Console

        self.console = Console(quiet=not is_first_process(), highlight=False, soft_wrap=not sys.stdout.isatty())
        self._log: Console | None = None
        if is_first_process():
            self._log = Console(file=(folder / "log.txt").open("a"), width=120)

    def __call__(self, what: object) -> None:
        self.console.print(what)
        if self._log is not None:
            self._log.print(what)
            self._log.file.flush()

    def table(self, title: str, rows: Mapping[str, object]) -> None:
        """A table of two columns."""
        from rich.table import Table

        table = Table(title=title, show_header=False, title_justify="left")
        for name, value in rows.items():
            table.add_row(name, str(value))
        self(table)

    def figures(self, title: str, columns: Mapping[str, Mapping[str, float]]) -> None:
        """A table of figures: one column for each set of samples, one row for each figure."""
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        table.add_column("")
        for name in columns:
            table.add_column(name, justify="right")
        names = dict.fromkeys(figure for column in columns.values() for figure in column)
        for figure in names:
            cells = (column.get(figure) for column in columns.values())
            table.add_row(figure, *("" if cell is None else f"{cell:.4g}" for cell in cells))
        self(table)


def write_json(path: Path, content: object) -> None:
    """Written whole or not at all."""
    write_text(path, json.dumps(content, indent=2))


def write_text(path: Path, text: str) -> None:
    """Written whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)
