"""python -m benchmarks.image_edits checkpoint=runs/image-... [parts=halves,measured,strengths]: how good edits are.

On held-out digits, by the judge's label of what was drawn: `halves` hides the left, right, top and bottom half in turn,
`measured` gives means over squares or a blurred digit, `strengths` adds noise and takes it away. Each row is what
`core.edit` is told; beside them stand the real digits and, for fewer pixels, bicubic interpolation and the model of
superres=runs/superres-..., which was trained for it.
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import chosen, compose, machine, markdown_table
from core import edits
from core.batch import Batch, concatenate
from core.build import build_operator, part
from core.cli import with_options
from core.data import whole
from core.errors import UserError
from core.metrics import frechet_distance
from core.model import Model
from core.runs import Reporter, write_json
from modalities.image.codec import as_float
from modalities.image.editing import SIDES, kept_part
from modalities.image.judge import Judge
from modalities.image.measurements import Downsample
from modalities.image.metrics import psnr
from modalities.image.panels import hidden, save_panels

if TYPE_CHECKING:
    from omegaconf import DictConfig

HALVES = (
    "method=replace method.resamplings=1 sampler=ddim steps=50",
    "method=replace method.resamplings=5 sampler=ddim steps=50",
    "method=replace method.resamplings=10 sampler=ddim steps=25",
    "method=replace method.resamplings=10 sampler=unipc steps=20",
    "method=replace method.resamplings=5 sampler=ddpm steps=50",
    "method=replace method.resamplings=5 sampler=dpmpp steps=20",
    "method=replace method.resamplings=5 sampler=unipc steps=20",
    "method=pigdm sampler=ddim steps=50",
    "method=pigdm sampler=ddpm steps=50",
    "method=pigdm sampler=dpmpp steps=20",
    "method=pigdm sampler=unipc steps=20",
    "method=dps sampler=ddpm steps=50",
)
MEASURED = (
    "measurement=downsample method=pigdm",
    "measurement=downsample measurement.factor=4 method=pigdm",
    "measurement=blur method=pigdm",
    "measurement=blur measurement.sigma=2 method=pigdm noise=0.05",
    "measurement=downsample method=dps",
)
STRENGTHS = ("strength=0.3", "strength=0.5", "strength=0.7")
SHOWN = 24
PARTS = {"halves": HALVES, "measured": MEASURED, "strengths": STRENGTHS}
Figures = dict[str, float]


@dataclass
class Options:
    checkpoint: str
    superres: str = ""  # a run of experiment=superres
    parts: str = ",".join(PARTS)
    rows: str = ""  # instead of those of the part: command lines, separated by ;
    told: str = "label,nothing"  # what the model is told of each digit
    n: int = 500
    seed: int = 0
    out: str = "benchmarks/out/image_edits"


@dataclass(frozen=True)
class Truth:
    """Held-out digits: those to edit, in [0, 1], and others to compare their distribution with."""

    digits: Batch
    others: Tensor
    judge: Judge

    def right(self, drawn: Tensor) -> Tensor:
        """Which of the drawn digits the judge takes for what they were."""
        logits = self.judge(drawn).logits
        assert logits is not None
        return logits.argmax(1) == self.digits.cond["label"]

    def figures(self, drawn: Tensor) -> Figures:
        """psnr: in dB, the mean over digits. label: the share that the judge takes for what they are."""
        features = self.judge(drawn).features
        return {
            "label": self.right(drawn).double().mean().item(),
            "frechet": frechet_distance(self.judge(self.others).features, features),
            "psnr": psnr(drawn, self.digits.x).mean().item(),
        }


def main(options: Options) -> dict[str, dict[str, Figures]]:
    """One table for each part, with and without the label; the figures as JSON; a picture of each row."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report, truth = Reporter(folder), held_out(options)
    tables: dict[str, dict[str, Figures]] = {}
    for name in chosen(options.parts, PARTS, "parts"):
        for told in chosen(options.told, ["label", "nothing"], "told"):
            table = tables[f"{name}, told {told}"] = {"real digits": truth.figures(truth.digits.x)}
            if name == "measured" and told == "nothing":
                table |= enlarged(truth, options, report)
            for row in filter(None, options.rows.split(";")) if options.rows else PARTS[name]:
                table[row] = measured(row.strip(), told == "label", truth, options, report)
                write_json(folder / "image_edits.json", {"machine": machine(), "options": asdict(options), **tables})
            report(f"\n{options.n} held-out digits, {name}, the model told {told}:\n\n{markdown(table)}\n")
    return tables


def markdown(table: dict[str, Figures]) -> str:
    """A line for each row."""
    columns = list(dict.fromkeys(figure for figures in table.values() for figure in figures))
    rows = (
        [row, *(f"{figures[column]:.3g}" if column in figures else "" for column in columns)]
        for row, figures in table.items()
    )
    return markdown_table(["", *columns], rows)


def held_out(options: Options) -> Truth:
    _, drawing = opened(options, "")
    digits = whole(part(drawing, "data").test, 2 * options.n)
    if len(digits) < 2 * options.n:
        raise UserError(f"n={options.n}: twice as many held-out pictures are needed, and there are {len(digits)}")
    digits = digits.with_x(as_float(digits.x))
    return Truth(digits[: options.n], digits[options.n :].x, Judge())


def opened(options: Options, row: str, checkpoint: str = "") -> tuple[Model, DictConfig]:
    """The model and its config with what the row says, as `core.edit` opens them."""
    fixed = (f"checkpoint={checkpoint or options.checkpoint}", f"n={options.n}", f"seed={options.seed}", "degrade=true")
    return edits.opened(compose(*fixed, *row.split(), command="edit"))


def measured(row: str, told: bool, truth: Truth, options: Options, report: Reporter) -> Figures:
    """The figures of one row, its evaluations of the network and its CPU seconds for each digit."""
    model, drawing = opened(options, row)
    known = Batch.full(truth.digits.x, {"label": truth.digits.cond["label"]} if told else {})
    operator, begun = build_operator(drawing), time.process_time()
    if operator is not None:
        edited = edits.agreeing(model, *edits.measured(model, known, operator, drawing), drawing, report.console)
    else:
        halves = drawing.strength == 1
        known = Batch.full(known.x, {**known.cond, "keep": half_kept(known.x)}) if halves else known
        edited = edits.edited(model, known, drawing, report.console)
    seconds = (time.process_time() - begun) / len(known)
    figures = truth.figures(edited.x) | {"nfe": model.nfe, "seconds": seconds}
    if held := "keep" in known.cond:
        figures["exact"] = ((edited.x == known.x) | (known.cond["keep"] == 0)).flatten(1).all(1).double().mean().item()
        for place, side in enumerate(SIDES):
            rows = slice(place, None, len(SIDES))
            figures[f"{side} kept"] = truth.right(edited.x)[rows].double().mean().item()
    report(described(row, figures))
    name = re.sub("[^a-z0-9.]+", "-", f"{row} {'label' if told else ''}".lower()).strip("-")
    shown = [hidden(x, keep) for x, keep in zip(known.x, known.cond["keep"], strict=True)] if held else list(known.x)
    save_pairs(shown, edited.x, Path(options.out) / f"{name}.png")
    return figures


def enlarged(truth: Truth, options: Options, report: Reporter) -> dict[str, Figures]:
    """The figures of what enlarges 14x14 pixels otherwise: interpolation, and a model trained for it."""
    found, truths = {}, truth.digits
    small = Downsample(2)(truths.x)
    found["bicubic from 14x14"] = truth.figures(F.interpolate(small, scale_factor=2, mode="bicubic").clamp(0, 1))
    if options.superres:
        model, drawing = opened(options, "", options.superres)
        begun = time.process_time()
        drawn = concatenate(list(model.stream(model.codec.template(truths), drawing, seed=options.seed))).x
        cost = {"nfe": model.nfe, "seconds": (time.process_time() - begun) / len(truths)}
        found["superres from 14x14"] = truth.figures(drawn) | cost
        save_pairs(list(small), drawn, Path(options.out) / "superres.png")
    for row, figures in found.items():
        report(described(row, figures))
    return found


def described(row: str, figures: Figures) -> str:
    return f"{row}: {', '.join(f'{name} {value:.4g}' for name, value in figures.items())}"


def half_kept(x: Tensor) -> Tensor:
    """(n, 1, H, W): of the pictures in turn the left, right, top and bottom half."""
    return torch.stack([kept_part(SIDES[i % len(SIDES)], picture) for i, picture in enumerate(x)])


def save_pairs(before: list[Tensor], after: Tensor, path: Path) -> None:
    save_panels(
        [
            pair
            for one, drawn in zip(before, after[:SHOWN], strict=False)
            for pair in (("known", one), ("drawn", drawn))
        ],
        path,
    )


if __name__ == "__main__":
    with_options(Options, main)
