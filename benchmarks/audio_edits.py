"""python -m benchmarks.audio_edits [path=recordings.tar.gz] [parts=gaps,bands,clipped] [n=100]: how good edits are.

Of held-out sounds. `gaps`: a tenth of a second in the middle is lost; beside the edits stands linear prediction from
both sides. `bands`: all above a quarter of the sample rate is lost; beside them nothing, and the spectrum folded
upwards. `clipped`: what is lost beyond a level is `ratio` dB softer than the sound; beside them cubic splines.

Each row names a model and what `core.edit` is told; rows="fsdd steps=20; runs/audio-... sampler=ddpm" takes others.
Spectral distances (lsd) are in dB, of what is new alone; `gain` is by how much a row's first figure is less than
that of the best without a model, for the same sounds, and `nearer` the share of the sounds where it is less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks import audio_repairs as repairs
from benchmarks.audio_repairs import Sound
from benchmarks.common import chosen, machine
from benchmarks.image_edits import described, markdown, opened
from core import edits
from core.batch import Batch, concatenate
from core.build import build_operator, part
from core.cli import with_options
from core.data import whole
from core.runs import Reporter, write_json
from modalities.audio import clips, editing
from modalities.audio.artefacts import unpadded
from modalities.audio.vocoder import MODELS

SECONDS = 0.1  # of a gap
REPLACE = "method=replace method.resamplings="
GAPS = (
    *(f"fsdd {REPLACE}{times} steps=20" for times in (1, 3, 5)),
    f"fsdd {REPLACE}1 steps=100",
    f"fsdd {REPLACE}10 steps=10",
    f"fsdd {REPLACE}5 steps=20 sampler=ddpm",
    f"fsdd {REPLACE}5 steps=20 vocoder=diffusion",
    "fsdd method=pigdm steps=20",
    "fsdd method=pigdm steps=20 sampler=ddpm",
    *(f"fsdd_waveform {REPLACE}{times} steps=20 sampler=ddpm" for times in (1, 5)),
    "fsdd_waveform method=pigdm steps=20 sampler=ddpm",
)
BANDS = (
    *(f"fsdd {REPLACE}{times} steps=20" for times in (1, 3)),
    "fsdd method=pigdm steps=20",
    "fsdd_waveform measurement=lowpass noise=0.01 steps=20",
    "fsdd_waveform measurement=lowpass noise=0.01 steps=20 sampler=ddpm",
)
CLIPPED = (
    *(f"fsdd_waveform {REPLACE}{times} steps=20 sampler=ddpm" for times in (1, 3, 5)),
    f"fsdd_waveform {REPLACE}3 steps=20",
)
PARTS = {"gaps": GAPS, "bands": BANDS, "clipped": CLIPPED}
Figures = dict[str, float]


@dataclass
class Options:
    path: str = ""  # of the data, where it needs one
    parts: str = ",".join(PARTS)
    rows: str = ""  # instead of those of the part
    told: str = "all,nothing"  # what the model is told of each sound: its conditions or none
    ratio: float = 7  # dB
    n: int = 100
    micro_batch: int = 20
    seed: int = 0
    out: str = "benchmarks/out/audio_edits"


@dataclass(frozen=True)
class Task:
    """Sounds that something is lost of.

    known: what is left of them. keep: what `core.edit` is told of each. score: of a repaired sound, by its number; less
    is better. others: how sound i is repaired without a model, by name.
    """

    known: list[Sound]
    keep: list[str]
    score: Callable[[Sound, int], Figures]
    others: Mapping[str, Callable[[int], Sound]]

    def scores(self, sounds: list[Sound]) -> dict[str, list[float]]:
        rows = [self.score(sound, i) for i, sound in enumerate(sounds)]
        return {name: [row[name] for row in rows] for name in rows[0]}


def gaps(sounds: list[Sound], rate: int, options: Options) -> Task:
    size = round(SECONDS * rate)
    lost = [slice((len(x) - size) // 2, (len(x) + size) // 2) for x in sounds]
    known = [x.copy() for x in sounds]
    for x, gap in zip(known, lost, strict=True):
        x[gap] = 0
    others: dict[str, Callable[[int], Sound]] = {"silence": lambda i: known[i]}
    for order in (32, 128, 500):
        others[f"linear prediction of order {order}"] = lambda i, order=order: repairs.bridged(
            known[i], lost[i], order, max(size, 3 * order)
        )
    return Task(
        known,
        [f":{gap.start / rate},{gap.stop / rate}:" for gap in lost],
        lambda x, i: repairs.gap_distances(x, sounds[i], lost[i]),
        others,
    )


def bands(sounds: list[Sound], rate: int, options: Options) -> Task:
    hertz = rate / 4
    known = [repairs.low(x, hertz - repairs.SLOPE / 2, rate) for x in sounds]
    return Task(
        known,
        [f"bands 0:{hertz - repairs.SLOPE:g}"] * len(sounds),
        lambda x, i: repairs.band_distances(x, sounds[i], hertz, rate),
        {"nothing": lambda i: known[i], "folded": lambda i: repairs.folded(known[i], rate)},
    )


def clipped(sounds: list[Sound], rate: int, options: Options) -> Task:
    levels = [repairs.cut_off(x, options.ratio) for x in sounds]
    known = [x.clip(-level, level) for x, level in zip(sounds, levels, strict=True)]
    return Task(
        known,
        ["declip"] * len(sounds),
        lambda x, i: {"off, dB": -repairs.sdr(x, sounds[i])},
        {"clipped": lambda i: known[i], "cubic splines": lambda i: repairs.splined(known[i])},
    )


TASKS = {"gaps": gaps, "bands": bands, "clipped": clipped}


def main(options: Options) -> dict[str, dict[str, Figures]]:
    """One table for each part; figures as JSON."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report, tables = Reporter(folder), {}
    for name in chosen(options.parts, PARTS, "parts"):
        rows = [row.strip() for row in options.rows.split(";")] if options.rows else list(PARTS[name])
        batch, rate = held_out(rows[0], options)
        task = TASKS[name](unpadded(batch.x, batch.mask), rate, options)
        tables[name], best = without_model(task)
        for told in chosen(options.told, ["all", "nothing"], "told"):
            for row in rows:
                cond = batch.cond if told == "all" else {}
                sounds, cost = edited(row, cond, task, options, report)
                title = f"{row}, told {told}"
                tables[name][title] = repairs.means(task.scores(sounds), best) | cost
                report(described(title, tables[name][title]))
                write_json(folder / "audio_edits.json", {"machine": machine(), "options": asdict(options), **tables})
        report(f"\n{len(batch)} held-out sounds, {name}:\n\n{markdown(tables[name])}\n")
    return tables


def without_model(task: Task) -> tuple[dict[str, Figures], list[float]]:
    """Figures of what needs no model, and the first score of each sound by the one that is best in it."""
    table, firsts = {}, []
    for name, repaired in task.others.items():
        scores = task.scores([repaired(i) for i in range(len(task.known))])
        table[name] = repairs.means(scores, None)
        firsts.append(next(iter(scores.values())))
    return table, min(firsts, key=sum)


def held_out(row: str, options: Options) -> tuple[Batch, int]:
    """The first n held-out sounds of at least two gaps' length, and their rate."""
    model, drawing = open_row(row, options)
    if options.path:
        drawing.data.path = options.path
    source, rate = part(drawing, "data").test, model.modality.about["sample_rate"]
    batch = whole(source, len(source))
    enough = batch.mask.expand_as(batch.x).sum((1, 2)) >= 2 * SECONDS * rate
    return batch[torch.nonzero(enough).flatten()[: options.n]], int(rate)


def open_row(row: str, options: Options):
    name, *words = row.split()
    checkpoint = MODELS / name if (MODELS / name).is_dir() else Path(name)
    return opened(options, " ".join([*words, f"micro_batch={options.micro_batch}"]), str(checkpoint))


def edited(
    row: str, cond: Mapping[str, torch.Tensor], task: Task, options: Options, report: Reporter
) -> tuple[list[Sound], Figures]:
    """What the row's model makes of the task; its evaluations and CPU seconds for each sound."""
    model, drawing = open_row(row, options)
    rate, multiple = model.modality.sample_rate, model.modality.multiple
    operator = build_operator(drawing)
    sounds = []
    for sound, words in zip(task.known, task.keep, strict=True):
        x = torch.from_numpy(sound).float()
        sounds.append(editing.as_known(x, None if operator else editing.kept(words, x, rate), (0, 0), multiple))
    known = collated(sounds)
    known, begun = Batch(known.x, known.mask, {**cond, **known.cond}), time.process_time()
    if operator is None:
        new = edits.edited(model, known, drawing, report.console)
    else:
        new = edits.agreeing(model, *edits.measured(model, known, operator, drawing), drawing, report.console)
        given = torch.tensor([abs(sound).max() for sound in task.known])[:, None, None]  # what `as_known` has scaled
        new = new.with_x(new.x * given / clips.PEAK)
    cost = {"nfe": model.nfe, "seconds": (time.process_time() - begun) / len(known)}
    return unpadded(new.x, new.mask), cost


def collated(sounds: list[Batch]) -> Batch:
    """Known sounds of different lengths as one batch: what is added is padding, which is known."""
    longest = max(sound.x.shape[-1] for sound in sounds)

    def filled(sound: Batch) -> Batch:
        length = sound.x.shape[-1]
        room, cond = (0, longest - length), dict(sound.cond)
        for name, value in ((editing.BEYOND, 0.0), ("keep", 1.0)):
            if name in cond:
                cond[name] = F.pad(cond[name], room, value=value)
        return Batch(F.pad(sound.x, room), F.pad(sound.mask.expand(1, 1, length), room), cond)

    return concatenate([filled(sound) for sound in sounds])


if __name__ == "__main__":
    with_options(Options, main)
