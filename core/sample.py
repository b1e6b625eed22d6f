"""python -m core.sample checkpoint=runs/... n=64 steps=50 cond.label=3 out=samples/: draws samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import cli
from core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from core.model import Model


def sample(config: DictConfig) -> None:
    from core.output import Share, write_samples, write_trajectory
    from core.runs import Reporter

    if config.n == 0:
        raise UserError("n=0: must be a whole number of at least 1")
    model, drawing = open_model(config)
    model.guided(drawing)  # before the folder is taken by guidance that is wrong
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    report, share = Reporter(folder), Share.of_launcher()
    if write_samples(model, drawing, folder, report.console, request(config, drawing), share) is None:
        report("this process has drawn its share")
        return
    if config.trajectory:
        write_trajectory(model, drawing, folder)
    report(f"{config.n} samples in {folder}")


def open_model(config: DictConfig) -> tuple[Model, DictConfig]:
    """The checkpoint's model, and its config with what the command line says of sampling."""
    from omegaconf import OmegaConf

    from core.build import build_codec
    from core.model import load
    from core.output import SAMPLING
    from core.settings import NULLABLE, check
    from core.shipped import models

    check(config, (*NULLABLE, "steps"))
    if config.checkpoint is None:
        raise UserError(f"checkpoint= is not set: a run folder, or one of {', '.join(models())}, which are here")
    if config.which not in ("last", "best"):
        raise UserError(f"which={config.which}: must be last or best")
    averaged, which, device = config.averaged, config.which, config.device
    model = load(config.checkpoint, averaged=averaged, which=which, device=device, allow=list(config.allow))
    drawing: Any = model.config.copy()
    OmegaConf.set_struct(drawing, False)
    for part in SAMPLING:
        if (given := config.get(part)) is not None:  # a group that is null has no key
            drawing[part] = _over(drawing.get(part), given)
    for key in ("n", "seed", "micro_batch", "cond"):
        drawing[key] = config[key]
    if given := _of_codec(config):
        drawing.codec = {
            **drawing.codec,
            **{name: _over(drawing.codec.get(name), value) for name, value in given.items()},
        }
        model.codec = build_codec(drawing)
    return model, drawing


def _over(before: Any, given: Any) -> Any:
    """`given` in place of `before`; within it where it is single keys, such as guidance.scale=2."""
    from omegaconf import OmegaConf

    single = OmegaConf.is_dict(given) and "_target_" not in given
    return OmegaConf.merge(before or {}, given) if single else given


def _of_codec(config: DictConfig) -> dict[str, Any]:
    """The parts of the codec that the command line replaces, such as how it decodes; what it has measured stays."""
    codec = config.get("codec") or {}
    return {} if "_target_" in codec else dict(codec.items())


def request(config: DictConfig, drawing: DictConfig) -> dict[str, object]:
    """What the samples follow from."""
    from core import checkpoint, output
    from core.build import plain

    follows = output.request(str(checkpoint.find(config.checkpoint, config.which)), drawing, config.averaged)
    return follows | ({"codec": plain(config.codec)} if _of_codec(config) else {})


if __name__ == "__main__":
    cli.run("sample", sample)
