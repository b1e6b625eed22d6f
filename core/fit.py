"""One training run, from its config to its last figure."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from core import checkpoint
from core.build import build_codec, build_denoiser, build_modality, build_sampler, fill, guided, part, plain
from core.callbacks import Averaging, Budget, Checkpoints, Curves, Finite, Previews
from core.checkpoint_io import FolderCheckpointIO
from core.config import load_yaml
from core.data import Data, StepOrder, train_loader, val_loader
from core.denoiser import Denoiser
from core.errors import UserError
from core.evaluation import evaluate_model
from core.levels import NoiseLevels
from core.model import Model
from core.module import DiffusionModule, Optimisation
from core.objective import Objective
from core.progress import Progress
from core.runs import Reporter, new_folder
from core.settings import check

if TYPE_CHECKING:
    from omegaconf import DictConfig


def fit(config: DictConfig) -> Path:
    """Trains (or resumes) the run that `config` describes and returns its folder."""
    begun = time.monotonic()
    resumed = checkpoint.find(config.resume) if config.resume else None
    if resumed:
        config = _resumed_config(config, resumed)
    check(config)
    data: Data = part(config, "data")
    fill(config, data.facts)
    codec = build_codec(config)
    denoiser = build_denoiser(config, codec)
    model = Model(denoiser, codec, build_modality(config), config)
    module = build_module(config, model, data)
    _rehearse(config, model)
    begins = initialise(denoiser, config.init_from) if config.init_from and not resumed else None
    run = resumed.parent.parent if resumed else new_folder(config)  # only now: a wrong value leaves no folder behind
    report = Reporter(run)
    if begins:
        report(begins)
    trainer = build_trainer(config, run, model, report, first_step=_step_of(resumed))
    _summary(config, report, run, data, model, trainer)
    loaders = _loaders(config, data, trainer, first_step=_step_of(resumed))
    try:
        trainer.fit(module, *loaders, ckpt_path=resumed, weights_only=True if resumed else None)
    except SystemExit:
        if not trainer.interrupted:
            raise
        report(f"stopped at step {trainer.global_step}; resume={run} continues")
        raise KeyboardInterrupt from None  # Lightning has turned it into a silent exit
    if trainer.is_global_zero:
        report(f"trained {trainer.global_step} steps in {_clock(time.monotonic() - begun)}")
        _finish(config, run, model, data, report)
        report(f"all of it in {run}, after {_clock(time.monotonic() - begun)}")
    return run


def _resumed_config(config: DictConfig, folder: Path) -> DictConfig:
    """The checkpoint's own config, with the single keys that the command line gives; whole parts stay as they were."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    saved = load_yaml(checkpoint.load_config_text(folder))
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    for override in given:
        key = override.lstrip("+").split("=", 1)[0]
        if key == "resume":
            continue
        if OmegaConf.select(saved, key, default=None) is None and "." not in key and key not in saved:
            raise UserError(f"resume={config.resume} has no key {key}; allowed: {', '.join(map(str, saved))}")
        if key != "trainer" and OmegaConf.is_config(OmegaConf.select(saved, key)):  # other hardware is no other run
            raise UserError(f"{override}: a resumed run keeps its {key}; init_from= begins another from its weights")
        OmegaConf.update(saved, key, OmegaConf.select(config, key))
    saved.resume = config.resume
    return saved


def initialise(denoiser: Denoiser, path: str | Path) -> str:
    """Loads another run's averaged weights where name and shape agree, to fine-tune; says how many were left as new."""
    weights = checkpoint.load_weights(checkpoint.find(path))
    own = denoiser.state_dict()
    same = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    if not same:
        raise UserError(f"init_from={path}: none of its {len(weights)} tensors fits this network")
    denoiser.load_state_dict(same, strict=False)
    left = sorted(set(own) - set(same))
    return f"begins from {path}" + (f"; new: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}" if left else "")


def _rehearse(config: DictConfig, model: Model) -> None:
    """Builds what only sampling needs: a wrong value is told now, not after the first hundreds of steps."""
    guided(config, model.denoiser, model.codec)
    build_sampler(config, model.denoiser)
    if config.n:
        model.modality.template(config.n, plain(config.cond))


def build_module(config: DictConfig, model: Model, data: Data) -> DiffusionModule:
    training = config.training
    levels: NoiseLevels = part(config, "levels")
    objective = Objective(levels, training.drop_rate, config.seed)
    optimisation = Optimisation(**config.optimisation)
    if config.trainer.compile:
        model.denoiser.network.compile()
    return DiffusionModule(model.denoiser, model.codec, data, objective, optimisation, training.steps)


def build_trainer(config: DictConfig, run: Path, model: Model, report: Reporter, first_step: int) -> pl.Trainer:
    from omegaconf import OmegaConf

    training, hardware = config.training, config.trainer
    _quiet()
    config_text = OmegaConf.to_yaml(config, resolve=True)
    (run / "config.yaml").write_text(config_text)
    every = _interval(training.validate_every, training.steps)

    def budgeted(steps: int, each: float) -> None:
        report(f"{training.minutes:g} minutes are {steps} steps of {each * 1000:.0f} ms")

    callbacks: list[pl.Callback] = [Progress(report.console), Curves(run), Previews(_previewer(config, run, model))]
    callbacks += [Finite(), Checkpoints(run, training.keep), Averaging(config.optimisation.ema_decay)]
    if training.steps is None:
        callbacks.append(Budget(training.minutes, every, budgeted))
    version = f"from-{first_step:08d}"
    return pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=hardware.strategy,
        precision=_precision(str(hardware.precision), hardware.accelerator),
        max_steps=training.steps or -1,
        max_epochs=-1,
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=config.optimisation.clip_norm,
        val_check_interval=every * training.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        callbacks=callbacks,
        plugins=[FolderCheckpointIO(config_text)],
        logger=[
            pl.loggers.CSVLogger(run / "metrics", name="", version=version),
            pl.loggers.TensorBoardLogger(run, name="", version="tensorboard"),
        ],
        default_root_dir=run,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        detect_anomaly=hardware.detect_anomaly,
    )


def _interval(validate_every: int, steps: int | None) -> int:
    """Steps between validations: about `validate_every`, such that the last one falls at the end."""
    if steps is None:
        return validate_every
    return max(1, steps // max(1, round(steps / validate_every)))


def _precision(wanted: str, accelerator: str) -> Any:
    """What Lightning calls the precision: bf16 where a GPU has it, and never on a CPU that lacks it."""
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    if wanted == "auto":
        return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    if wanted.startswith("bf16") and not on_gpu and not torch.cpu._is_avx512_bf16_supported():
        raise UserError(
            f"trainer.precision={wanted}: this CPU emulates bf16, tens of times slower; use auto or 32-true"
        )
    return wanted


def _loaders(config: DictConfig, data: Data, trainer: pl.Trainer, first_step: int) -> tuple[Any, Any]:
    training, hardware = config.training, config.trainer
    rank, world = trainer.global_rank, trainer.world_size
    first = first_step * training.accumulate
    order = StepOrder(len(data.train), training.batch_size, config.seed, first, rank, world)
    pin = trainer.accelerator.__class__.__name__ == "CUDAAccelerator"
    return (
        train_loader(data.train, order, hardware.workers, pin),
        val_loader(data.val, training.batch_size, training.validate_on, rank, world),
    )


def _previewer(config: DictConfig, run: Path, model: Model) -> Callable[[int], Path]:
    def draw(step: int) -> Path:
        preview = config.copy()
        preview.steps = min(config.steps, config.preview.steps)
        batch = next(model.stream(model.modality.template(config.preview.n), preview, seed=config.seed))
        path = run / "previews" / f"{checkpoint.step_name(step)}.png"
        path.parent.mkdir(exist_ok=True)
        model.modality.grid(batch, path)
        return path

    return draw


def _finish(config: DictConfig, run: Path, model: Model, data: Data, report: Reporter) -> None:
    """The samples and figures at the end, with the averaged weights, which training leaves in the model."""
    model.denoiser.eval()
    if config.n:
        step = checkpoint.find(run).name
        evaluate_model(model, data, config, run / "samples" / step, report, {"n": config.n, "seed": config.seed})


def _summary(config: DictConfig, report: Reporter, run: Path, data: Data, model: Model, trainer: pl.Trainer) -> None:
    training = config.training
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    budget = f"{training.steps} steps" if training.steps else f"{training.minutes:g} minutes"
    batch = training.batch_size * training.accumulate * trainer.world_size
    device = f"{trainer.world_size} x {trainer.strategy.root_device}, {trainer.precision}"
    if trainer.strategy.root_device.type == "cpu":
        device += f", {torch.get_num_threads()} threads"
    report.table(
        "training",
        {
            "data": data.describe(),
            "network": f"{type(model.denoiser.network).__name__}, {parameters:,} parameters",
            "diffusion": " / ".join(
                type(part).__name__
                for part in (model.denoiser.schedule, model.denoiser.prediction, model.denoiser.weighting)
            ),
            "device": device,
            "budget": f"{budget}, batches of {batch}",
            "run folder": run,
        },
    )


def _step_of(folder: Path | None) -> int:
    return 0 if folder is None else int(checkpoint.load_state(folder)["global_step"])


def _clock(seconds: float) -> str:
    return f"{math.floor(seconds / 60)}:{seconds % 60:04.1f} min"


def _quiet() -> None:
    """Lightning's notes about what this loop does on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in (".*does not have many workers.*", ".*_foreach_lerp.*", ".*lr_scheduler.step.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", text)
