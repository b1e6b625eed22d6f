"""python -m benchmarks.compare [modality=all] [preset=quick]: which sampler, evaluations and guidance to use.

Each modality's model (checkpoint.image=runs/..., or the one that comes with the project) is sampled with every setting
and measured by the modality's headline figures (`Modality.headlines`), beside other real data. A setting is a cell,
kept in `out/cells` under a digest of all that it follows from: an interrupted run continues, and no cell is drawn
twice. Writes compare.json, a plot of each modality (PNG, SVG) and compare.html, one page that works offline.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.common import chosen, clock_of, compose, machine, peak, reset_peak
from benchmarks.compare_page import PAGE, html, shown
from benchmarks.compare_plots import plot
from benchmarks.compare_presets import PRESETS, Preset
from benchmarks.compare_table import table
from benchmarks.drawing import Subject, draw, names, steps_within
from benchmarks.pareto import Board, Cell
from core import output
from core.batch import NO_CONDITIONS, Batch
from core.build import plain
from core.cli import with_options
from core.errors import UserError
from core.metrics import Headline
from core.progress import counting
from core.runs import Reporter, in_use, write_json
from core.shipped import models, of_modality

if TYPE_CHECKING:
    from omegaconf import DictConfig

CELLS = "cells"
MEASURE = "1"  # of what a cell holds and how it is measured: a change makes all cells anew
FEW = 60  # samples of a modality that a preset does not name
ERRORS = "bootstrap over the samples, each label drawn from by itself (core.metrics.Headline.error)"


@dataclass
class Options:
    modality: str = "all"  # or some, separated by commas
    preset: str = "quick"  # or full; what follows overrides it
    checkpoint: dict[str, str] = field(default_factory=dict)  # by modality; else the model that comes with the project
    data: dict[str, Any] = field(default_factory=dict)  # of each modality, such as data.audio.path=recordings.tar.gz
    samplers: str = ""
    evaluations: list[int] = field(default_factory=list)
    guidance: list[float] = field(default_factory=list)  # scales, for models with conditions
    n: dict[str, int] = field(default_factory=dict)
    headline: dict[str, str] = field(default_factory=lambda: {"molecules": "molecule_stability"})  # else the first one
    show: int = 12  # samples to see of a setting
    resamples: int = 200
    micro_batch: int = 50
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    out: str = "benchmarks/out/compare"


def main(options: Options) -> list[Board]:
    """Draws and measures all that `options` names; what is written after each modality holds those before it too."""
    preset = PRESETS[chosen(options.preset, list(PRESETS), "preset")[0]]
    every = names("modality")
    wanted = every if options.modality == "all" else chosen(options.modality, every, "modality")
    chosen(options.samplers or preset.samplers, names("sampler"), "samplers")
    torch.set_num_threads(options.threads)
    about = machine()
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    with in_use(folder):
        report = Reporter(folder)
        boards: list[Board] = []
        skipped: dict[str, str] = {}
        for name in wanted:
            try:
                subject = _subject(name, options, preset, report)
            except UserError as error:
                if options.modality != "all":
                    raise
                skipped[name] = str(error)
                report(f"{name} is left out: {error}")
                continue
            boards.append(_board(subject, options, preset, folder, report))
            _publish(boards, skipped, options, about, folder)
        if not boards:
            raise UserError("no modality has both a model and its data here; the lines above say why")
        report(f"all of it in {folder / PAGE}")
    return boards


def _subject(name: str, options: Options, preset: Preset, report: Reporter) -> Subject:
    """The model and its data. UserError if there is none, or too few held-out samples."""
    data = options.data.get(name)
    runs = [options.checkpoint[name]] if name in options.checkpoint else of_modality(name)
    if not runs:
        raise UserError(f"no model of it comes with the project; checkpoint.{name}=runs/... names one")
    n = options.n.get(name) or preset.n.get(name, FEW)
    subject = _with_data(name, runs[:1] if data else runs, n, data, report)
    if len(subject.floor) < n:
        held_out = len(subject.data.test)
        raise UserError(f"n.{name}={n}: with {held_out} held-out samples, at most {held_out // 2}")
    subject.model.to(options.device)
    return subject


def _with_data(
    name: str, runs: Sequence[str | Path], n: int, data: Mapping[str, Any] | None, report: Reporter
) -> Subject:
    """Of the first model whose data are here, or can be had. The first one's UserError if there is none."""
    missing: list[UserError] = []
    for run in runs:
        try:
            subject = Subject.of(name, run, n, data)
        except UserError as error:
            missing.append(error)
            continue
        if missing:
            report(f"{name}: {_called(str(run))}, in the place of another: {missing[0]}")
        return subject
    raise missing[0]


@dataclass(frozen=True)
class Setting:
    """What of a cell is known before it is drawn; key: the digest of all that it follows from."""

    key: str
    sampler: str
    evaluations: int
    scale: float
    config: DictConfig


def _settings(subject: Subject, options: Options, preset: Preset) -> Iterator[Setting]:
    """Every sampler at every scale and number of evaluations; one scale, 1, for a model without conditions."""
    samplers = (options.samplers or preset.samplers).split(",")
    guided = bool(subject.model.template(1).cond.keys() - NO_CONDITIONS)
    scales = (options.guidance or preset.guidance) if guided else [1.0]
    guidance = compose("guidance=classifier_free").guidance
    counts = options.evaluations or preset.other_evaluations.get(subject.name, preset.evaluations)
    for sampler in samplers:
        asked = subject.requesting(sampler, 1)
        for scale in scales:
            for evaluations in counts:
                config = asked.copy()
                config.guidance = {**guidance, "scale": float(scale)}
                config.steps = steps_within(evaluations, config, subject.model.denoiser.schedule)
                config.n, config.seed, config.micro_batch = len(subject.reference), options.seed, options.micro_batch
                key = _key(subject, config, options, evaluations)
                yield Setting(key, sampler, evaluations, float(scale), config)


def _key(subject: Subject, config: DictConfig, options: Options, evaluations: int) -> str:
    parts = {name: plain(config[name]) for name in ("codec", "modality", "data")}
    ours = {name: getattr(options, name) for name in ("resamples", "threads", "device")}
    asked = output.request(subject.digest, config)
    return _digest({"measure": MEASURE, "evaluations": evaluations, **asked, **parts, **ours})


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _board(subject: Subject, options: Options, preset: Preset, folder: Path, report: Reporter) -> Board:
    settings = list(_settings(subject, options, preset))
    modality, n = subject.model.modality, len(subject.reference)
    found = modality.headlines(subject.floor, subject.reference)
    if not found:
        raise UserError(f"{subject.name}: its modality names no headline figures (Modality.headlines)")
    headline = options.headline.get(subject.name) or next(iter(found))
    if headline not in found:
        raise UserError(f"headline.{subject.name}={headline}: its figures are {', '.join(found)}")
    values, errors = _measured(found, options)
    board = Board(
        name=subject.name,
        checkpoint=_called(subject.run),
        digest=subject.digest,
        data=subject.data.describe(),
        instrument=None if modality.instrument is None else modality.instrument.name,
        n=n,
        headline=headline,
        lower_is_better=[name for name, one in found.items() if one.lower_is_better],
        floor=values,
        floor_errors=errors,
        floor_samples=f"{CELLS}/real-{_digest([n, plain(subject.model.config.data)])}",
    )
    cells: list[Cell] = []
    total = sum(int(setting.config.steps) for setting in settings) * math.ceil(n / options.micro_batch)
    with counting(report.console, f"{subject.name}: steps of {len(settings)} settings", total) as count:
        for place, setting in enumerate(settings, 1):
            cells.append(_cell(subject, setting, options, folder / CELLS, count))
            said = f"{cells[-1].values.get(headline, math.nan):.4g}"
            report(f"{subject.name} {place}/{len(settings)}: {cells[-1].label}: {headline} {said}")
    board = replace(board, cells=cells)
    _present(subject, board, options.show, folder)
    plot(board, folder / board.name)
    report(table(board))
    report(f"{board.name}: {board.verdict}")
    return board


def _cell(subject: Subject, setting: Setting, options: Options, folder: Path, count: Callable[[int], object]) -> Cell:
    """From its file, or drawn, measured and kept."""
    path, steps = folder / f"{setting.key}.json", int(setting.config.steps)
    n = len(subject.reference)
    if path.exists():
        count(steps * math.ceil(n / options.micro_batch))
        return Cell(**json.loads(path.read_text()))
    folder.mkdir(exist_ok=True)
    on_cpu = subject.model.device.type == "cpu"
    if on_cpu:
        reset_peak()
    else:
        torch.cuda.reset_peak_memory_stats()
    clock = clock_of(subject.model.device.type)
    drawn = draw(subject, setting.config, n, options.micro_batch, options.seed, folder, setting.key, count, clock)
    memory = peak() if on_cpu else float(torch.cuda.max_memory_allocated())
    values, errors = _measured(subject.model.modality.headlines(drawn.samples, subject.reference), options)
    cost = (steps, setting.scale, drawn.nfe, drawn.seconds, memory)
    home = f"{CELLS}/{setting.key}"
    cell = Cell(setting.key, setting.sampler, setting.evaluations, *cost, values, errors, home)
    (folder / setting.key).mkdir(exist_ok=True)
    output.write_arrays(folder / setting.key / output.ARRAYS, drawn.samples, subject.model.modality.about)
    write_json(path, asdict(cell))
    for parts in folder.glob(f"{setting.key}-*"):  # what `draw` has kept until here
        shutil.rmtree(parts, ignore_errors=True)
    return cell


def _measured(found: Mapping[str, Headline], options: Options) -> tuple[dict[str, float], dict[str, float]]:
    """The figures that are numbers, and their errors."""
    values = {name: one.value for name, one in found.items()}
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    return values, {name: found[name].error(options.seed, options.resamples) for name in values}


def _present(subject: Subject, board: Board, show: int, folder: Path) -> None:
    """Files, pictures and pages of some samples, spread over all, by the modality, where they are not there yet."""
    rows = torch.linspace(0, board.n - 1, min(show, board.n)).round().long()
    sets = {cell.samples: None for cell in shown(board)} | {board.floor_samples: subject.floor}
    for place, batch in sets.items():
        home = folder / place
        mark = home / f".shown-{len(rows)}"
        if mark.exists():
            continue
        home.mkdir(parents=True, exist_ok=True)
        some: Batch = (output.read_arrays(home / output.ARRAYS) if batch is None else batch)[rows]
        subject.model.modality.write(some, home, 0)
        subject.model.modality.present(some, home, None)
        mark.touch()


def _publish(
    boards: list[Board], skipped: Mapping[str, str], options: Options, about: Mapping[str, object], folder: Path
) -> None:
    content = {
        "machine": dict(about),
        "seed": options.seed,
        "measure": MEASURE,
        "errors": ERRORS,
        "options": asdict(options),
        "preset": asdict(PRESETS[options.preset]),
        "skipped": dict(skipped),
        "modalities": [_as_json(board) for board in boards],
    }
    write_json(folder / "compare.json", content)
    (folder / PAGE).write_text(html(boards, folder, {**about, "seed": options.seed}, skipped), encoding="utf-8")


def _as_json(board: Board) -> dict[str, object]:
    """The board, and what follows from it: its fronts by figure and cost, the best cell and the advised one."""
    fronts = {
        figure: {cost: [cell.key for cell in board.front(figure, cost)] for cost in ("nfe", "seconds")}
        for figure in board.figures
    }
    best, advised = (None if cell is None else cell.key for cell in (board.best, board.advised))
    return {**asdict(board), "fronts": fronts, "best": best, "advised": advised, "verdict": board.verdict}


def _called(run: str) -> str:
    """A model that comes with the project by its name, whatever the machine; another by its path."""
    return next((f"the shipped {path.name}" for path in models().values() if str(path) == run), run)


if __name__ == "__main__":
    with_options(Options, main)
