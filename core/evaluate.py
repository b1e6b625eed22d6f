"""python -m core.evaluate checkpoint=runs/... n=500, or samples=folder reference=folder: the figures of samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from core.runs import Reporter


def evaluate(config: DictConfig) -> None:
    from core.runs import Reporter

    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    if config.samples is not None:
        _folders(config, folder, report)
    else:
        _checkpoint(config, folder, report)


def _checkpoint(config: DictConfig, folder: Path, report: Reporter) -> None:
    """Samples of a checkpoint against the held-out data of its run."""
    from omegaconf import OmegaConf

    from core.build import build_modality, part
    from core.evaluation import evaluate_model
    from core.output import Share
    from core.sample import open_model, request

    for name in ("modality", "network", "schedule", "codec"):
        if "_target_" in (config.get(name) or {}):
            raise UserError(f"a checkpoint has its own {name}; extractor= chooses what measures it, vocoder= its sound")
    model, drawing = open_model(config)
    if config.get("modality"):
        drawing.modality = OmegaConf.merge(drawing.modality, config.modality)
        model.modality = build_modality(drawing)
    if config.get("data"):  # where it lies on this machine, or other data
        chosen = config.data
        drawing.data = chosen if "_target_" in chosen else OmegaConf.merge(drawing.data, chosen)
    data = part(drawing, "data")
    asked = request(config, drawing)
    evaluate_model(
        model,
        data,
        drawing,
        folder,
        report,
        asked,
        config.likelihood,
        config.likelihood_steps,
        Share.of_launcher(),
    )


def _folders(config: DictConfig, folder: Path, report: Reporter) -> None:
    """At most n files of one folder against another; the floor compares the halves of the second one."""
    from omegaconf import OmegaConf

    from core.build import build_modality
    from core.evaluation import FIGURES, compare, publish, read_samples
    from core.settings import NULLABLE, check

    if config.reference is None:
        raise UserError("samples= needs reference=, a folder of real samples to compare with")
    if "modality" not in config:
        raise UserError("samples= needs modality=, the kind of the files, such as modality=image")
    check(config, (*NULLABLE, "steps"))
    for key in config.modality:
        if OmegaConf.is_missing(config.modality, key):
            config.modality[key] = []  # what data would fill: files alone have to do
    modality = build_modality(config)
    samples = read_samples(Path(config.samples), modality.read)
    reference = read_samples(Path(config.reference), modality.read)
    n = min(int(config.n), len(samples), len(reference) // 2)
    if n < 1:
        raise UserError(f"n={config.n}, {len(samples)} samples and {len(reference)} for reference: at least 1, 1 and 2")
    table = compare(modality, samples[:n], reference[:n], reference[n : 2 * n], None)
    publish(table, n, folder / FIGURES, f"{config.samples} against {config.reference}, n = {n}", modality, report)


if __name__ == "__main__":
    cli.run("evaluate", evaluate)
