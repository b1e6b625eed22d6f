"""What every command shares: a first line at once, Hydra's config, and errors in one line with exit code 2."""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core import peers
from core.errors import UserError, reason_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

Options = TypeVar("Options")

# parts of a config whose keys depend on what is loaded: `cond.label=3` needs no `+` before it
OPEN = ("cond", "guidance", "clip", "sampler", "times")
# further ones of a command: data.path=... says where a checkpoint's data lies here
OPEN_TO = {"sample": ("codec",), "evaluate": ("codec", "data"), "edit": ("codec", "method", "measurement", "grow")}

INTERRUPTED, TERMINATED = 130, 143  # exit codes, after Ctrl-C and after SIGTERM

WORDS = ("input", "to", "mask", "keep")  # of core.edit: text, whatever is in it


def is_first_process() -> bool:
    """Whether this process speaks for all of a distributed run (torchrun, SLURM, or Lightning's own launcher)."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def say(text: str) -> None:
    if is_first_process():
        print(text, flush=True)


def run(command: str, work: Callable[[DictConfig], object]) -> None:
    """Composes the config `command` from the command line and calls `work` with it.

    A `UserError`, or Hydra's about the command line, is printed in one line, with exit code 2; `debug=true` shows the
    traceback instead. One of several processes names its rank, and ends without waiting for the others.
    """
    peers.watch_parent()
    say(f"polydiffusion: core.{command} {' '.join(sys.argv[1:])}".rstrip())
    try:
        _hydra_main(command, work)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        line = _explain(error, command)
        if line is None and peers.is_loss(error):
            line = f"another process is gone, whose own line says why ({reason_of(error)})"
        shows = line is None or "debug=true" in sys.argv[1:]
        if peers.place()[1] > 1:
            if shows:
                traceback.print_exc()
            peers.leave(line or f"{type(error).__name__}: {reason_of(error)}", 1 if line is None else 2)
        if shows:
            raise
        print(f"error: {line}", file=sys.stderr, flush=True)
        sys.exit(2)


def _hydra_main(command: str, work: Callable[[DictConfig], object]) -> None:
    import hydra

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises its errors instead of printing them
    sys.argv[1:] = [opened(argument, command) for argument in sys.argv[1:]]
    if sum(argument.startswith("checkpoint=") for argument in sys.argv) > 1:  # Hydra would take the last one
        raise UserError("checkpoint= is given twice; modality= stands for the one that comes with the project")
    raised: list[BaseException] = []
    failed: list[str] = []
    home, given = os.getpid(), sys.argv[1:]

    def task(config: DictConfig) -> None:
        if job := _job(config, given):
            if os.getpid() != home:  # a launcher's process, from where Hydra brings errors back
                work(config)
            elif _in_own_process([sys.executable, "-m", f"core.{command}", *job]):
                failed.append(Path(config.out).name)
            return
        try:
            work(config)
        except BaseException as error:
            raised.append(error)  # out of Hydra's sight, which would print lines of its own

    hydra.main(version_base="1.3", config_path="pkg://configs", config_name=command)(task)()
    if failed:
        raise UserError(f"failed, for the reasons above: {', '.join(failed)}")
    if raised:
        raise raised[0]


def _job(config: DictConfig, given: Sequence[str]) -> list[str]:
    """The arguments of a job of a sweep (-m), whose `out` becomes a folder of its own if none is given; [] in no sweep.

    The folder is named by the job's number and by what of it is not as such in `given`, the command line.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    about = HydraConfig.get()
    if about.mode != RunMode.MULTIRUN:
        return []
    overrides = list(about.overrides.task)
    if not any(override.lstrip("+").startswith("out=") for override in overrides):
        own = [override for override in overrides if override not in given]
        name = re.sub(r"[^\w.+-]+", "-", "-".join([str(about.job.num), *own]).replace("++", ""))[:100].rstrip("-")
        config.out = str(Path(about.sweep.dir, name))
        overrides.append(f"out='{config.out}'")
    settings = [override for override in about.overrides.hydra if not override.startswith("hydra.mode=")]
    added = [source.path for source in about.runtime.config_sources if source.provider == "command-line"]
    return [*(f"--config-dir={path}" for path in added), *settings, *overrides]


def _in_own_process(call: Sequence[str]) -> int:
    """Runs a job and returns its exit code, after it has said what went wrong. What stops this process stops the job.

    Jobs share no process, since none leaves memory, process groups or threads as it found them.
    """
    process = subprocess.Popen(call)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    except KeyboardInterrupt:  # of the terminal, which has told the job too: it saves what it has
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code in (TERMINATED, -signal.SIGTERM):
        sys.exit(TERMINATED)
    return code


def opened(argument: str, command: str) -> str:
    """An argument as Hydra takes it."""
    key, _, value = argument.partition("=")
    if key == "modality" and command in ("sample", "edit"):  # its model, which comes with the project
        return f"checkpoint={value}"
    if command == "edit" and key in WORDS and not value.startswith(("'", '"')) and value != "null":
        # commas, colons and brackets are no lists there
        argument = f"{key}='{value}'" if "'" not in value else argument
    is_open = argument.split(".")[0] in (*OPEN, *OPEN_TO.get(command, ()))
    return f"++{argument}" if is_open and "." in argument.split("=")[0] else argument


def _explain(error: BaseException, command: str) -> str | None:
    """The one line for an error that the command line caused; None for any other."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        return str(error)
    if type(error).__name__ == "MisconfigurationException":  # Lightning's: there is no such accelerator, for example
        return reason_of(error)
    if _is_hydras(error):
        return f"these arguments cannot be composed: {reason_of(error)} ({' '.join(sys.argv[1:])!r})"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    text = reason_of(error).split(" Config search path")[0]
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found.group(1), command)
    return text


def _is_hydras(error: BaseException) -> bool:
    """Whether it is a plain error out of Hydra's own code, with which it meets some command lines (`=null`, `+=`)."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None or not isinstance(error, ValueError | TypeError | AssertionError):
        return False
    return str(at.tb_frame.f_globals["__name__"]).startswith("hydra.")


def _unknown_key(key: str, command: str) -> str:
    """Names the keys that stand beside an unknown one."""
    import hydra

    with hydra.initialize_config_module("configs", version_base="1.3"):
        node: Any = hydra.compose(command)
    *parents, last = key.split(".")
    for parent in parents:
        if parent not in node:
            return _unknown_key(".".join(parents), command)
        node = node[parent]
    known = sorted(map(str, node)) if hasattr(node, "keys") else []
    if last in known:
        return f"{key}: --config-dir has a folder {key}/, taken for a group of configs; name a folder of configs alone"
    close = difflib.get_close_matches(last, known, 1)
    hint = f"did you mean {'.'.join([*parents, close[0]])}? " if close else ""
    return f"unknown key {key}: {hint}{'.'.join(parents) or command} has {', '.join(known)}"


def with_options(kind: type[Options], work: Callable[[Options], object]) -> None:
    """For commands beside those of `core`, which need no config: calls `work` with the command line's key=value pairs
    as the dataclass `kind`. A mistake is printed in one line, with exit code 2.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        options: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.from_cli()))
        work(options)
    except (UserError, OmegaConfBaseException) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)
