"""python -m core.edit checkpoint=runs/... input=photo.png mask=hole.png out=edited/: draws what fits what is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from core.editable import EditRequest
    from core.editing import Method

PICTURE = "edit"


def edit(config: DictConfig) -> None:
    from core import edits
    from core.batch import Batch
    from core.build import build_method, build_operator, plain
    from core.output import begin_edits, write_edits
    from core.runs import Reporter
    from core.sample import request

    _check(config)
    model, drawing = edits.opened(config)
    if config.to is not None and config.get("times") is None:
        drawing.times = {"_target_": "core.times.LogSNR"}  # on which the way to noise and back is nearest to closed
    # all that can be wrong with the request comes before the folder is taken by it
    known, operator = model.modality.known(edit_request(config)), build_operator(drawing)
    _check_method(build_method(drawing), operator is not None, "keep" in known.cond)
    other = None if config.to is None else model.modality.known(edit_request(config, "to"))
    measured = None if operator is None else edits.measured(model, known, operator, drawing)
    ends = None if other is None else edits.ends(model, known, other)
    folder = Path(config.out)
    follows = request(config, drawing) | {key: plain(config).get(key) for key in (*FILES, *edits.KEYS)}
    begin_edits(folder, follows)
    report, picture = Reporter(folder), folder / PICTURE
    if measured is not None:
        edited = edits.agreeing(model, *measured, drawing, report.console)
        observed = model.codec.decode(Batch.full(measured[1].observed)).x
        model.modality.show_measured(observed, edited, picture)
    else:
        if ends is not None:
            edited = edits.between(model, *ends, drawing, report.console)
        else:
            edited = edits.edited(model, known, drawing, report.console)
        model.modality.show_edit(known, edited, picture)
    write_edits(model, edited, folder, follows)
    report(f"{len(edited)} edits in {folder}")


FILES = ("input", "to", "keep", "mask", "grow")


def edit_request(config: DictConfig, which: str = "input") -> EditRequest:
    """What the command line asks for of the file in `config.input` (or `to`)."""
    from core.build import plain
    from core.editable import EditRequest

    asked = plain(config)
    grow, cond = asked["grow"], asked["cond"]
    assert isinstance(grow, dict)
    assert isinstance(cond, dict)
    mask = None if config.mask is None else Path(config.mask)
    keep = None if config.keep is None else str(config.keep)
    if which == "to":
        return EditRequest(Path(config.to), 1, cond)
    measured = config.get("measurement") is not None and not config.degrade
    return EditRequest(Path(config.input), config.n, cond, keep, mask, grow, measured)


def _check(config: DictConfig) -> None:
    """UserError for keys that do not go together, before anything is loaded."""
    if config.input is None:
        raise UserError("input= is not set: name a file to edit, such as input=photo.png")
    if not isinstance(config.n, int) or config.n < 1:
        raise UserError(f"n={config.n}: must be a whole number of at least 1")
    if isinstance(config.strength, str | bool) or not 0 < config.strength <= 1:
        raise UserError(f"strength={config.strength}: must be above 0 and at most 1")
    if isinstance(config.noise, str | bool) or config.noise < 0:
        raise UserError(f"noise={config.noise}: must be a number of at least 0")
    if config.keep is not None and config.mask is not None:
        raise UserError(f"keep={config.keep} and mask={config.mask} both say what stays: give one")
    if not isinstance(config.degrade, bool):
        raise UserError(f"degrade={config.degrade}: must be true or false")
    measured = config.get("measurement") is not None
    if config.degrade and not measured:
        raise UserError("degrade=true needs a measurement to make, such as measurement=downsample")
    if config.noise and not measured:
        raise UserError(f"noise={config.noise} is a measurement's: choose one, such as measurement=downsample")
    held = config.keep is not None or config.mask is not None or bool(config.grow)
    for name, given in (("measurement", measured), ("to", config.to is not None)):
        if given and held:
            raise UserError(f"{name}= takes the input as a whole: leave keep, mask and grow out")
    if config.to is not None:
        _check_way(config, measured)
    if not (held or measured or config.to is not None) and config.strength == 1:
        raise UserError("nothing of the input would remain: give keep, mask, grow, measurement, to or strength below 1")


def _check_way(config: DictConfig, measured: bool) -> None:
    """UserError for what the way between two files has no use for."""
    if config.n < 2:
        raise UserError(f"n={config.n}: the way from input to to= has two ends")
    given = {"measurement": measured, "strength": config.strength < 1}
    given |= {name: config.get(name) is not None for name in ("method", "sampler")}
    if unused := [name for name, is_given in given.items() if is_given]:
        raise UserError(f"to= draws the way by DDIM from the noise of both ends: leave {unused[0]} out")


def _check_method(method: Method | None, measured: bool, held: bool) -> None:
    if method is not None and not (measured or held):
        raise UserError("method= has nothing to follow: give keep, mask, grow or a measurement")
    if measured and method is not None and method.of_kept:
        name = type(method).__name__.lower()
        raise UserError(f"method={name} needs parts that stay: a measurement is followed by method=pigdm or method=dps")


if __name__ == "__main__":
    cli.run("edit", edit)
