"""One training run, from its config to its last figure."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from core import checkpoint
from core.budget import Budget, interval
from core.build import (
    build_codec,
    build_denoiser,
    build_levels,
    build_modality,
    build_sampler,
    fill,
    fitted_codec,
    guided,
    part,
    plain,
    try_once,
)
from core.callbacks import Averaging, Checkpoints, Curves, Previews
from core.checkpoint_io import FolderCheckpointIO
from core.cli import TERMINATED, is_first_process
from core.clipping import RecentClipping
from core.data import Data, sizes_of, train_loader, training_order, val_loader
from core.denoiser import Denoiser
from core.errors import UserError
from core.evaluation import evaluate_model
from core.model import Model
from core.module import DiffusionModule, Optimisation
from core.objective import Objective
from core.output import ALL, request
from core.peers import watched
from core.recorder import Recorder
from core.resume import initialise, other_batches, resumed_config, step_of
from core.runs import Reporter, in_use, new_folder, writable
from core.settings import check
from core.sharding import Sharded
from core.termination import Termination
from core.watching import Progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

PRECISIONS = ("auto", "32-true", "bf16-mixed")


def fit(config: DictConfig) -> Path:
    """Trains (or resumes) the run that `config` describes and returns its folder."""
    begun = time.monotonic()
    resumed = checkpoint.find(config.resume) if config.resume else None
    renewed = False
    if resumed:
        config, renewed = resumed_config(config, resumed)
    check(config)
    data: Data = part(config, "data")
    fill(config, data.facts)
    codec = build_codec(config) if resumed else fitted_codec(config, data.train)
    denoiser = build_denoiser(config, codec)
    model = Model(denoiser, codec, build_modality(config), config)
    _rehearse(config, model, data)
    module = build_module(config, model, data)
    module.keeps_total = not renewed
    begins = initialise(denoiser, config.init_from) if config.init_from and not resumed else None
    run = resumed.parent.parent if resumed else new_folder(config)  # only now: a wrong value leaves no folder behind
    with in_use(run):
        report = Reporter(run)
        if begins:
            report(begins)
        if renewed:
            report(f"{config.training.minutes:g} minutes more, from step {step_of(resumed)}")
        trainer = build_trainer(config, run, model, data, report, first_step=step_of(resumed))
        _summary(config, report, run, data, model, trainer)
        by_size = sizes_of(data.train) is not None
        if resumed and (other := other_batches(resumed, config, trainer.world_size, by_size)):
            report(other)
        if config.n and trainer.is_global_zero and (missing := model.modality.missing(config.n)):
            report(missing)
        loaders = _loaders(config, data, trainer, first_step=step_of(resumed))
        with watched(trainer.strategy.launcher), _interruptions(trainer, run, report), writable(run):
            trainer.fit(module, *loaders, ckpt_path=resumed, weights_only=True if resumed else None)
        if trainer.is_global_zero:
            report(f"trained {trainer.global_step} steps in {_clock(time.monotonic() - begun)}")
            if isinstance(trainer.strategy, Sharded):  # the others have their parts, and leave
                model.denoiser = trainer.strategy.blank
                model.denoiser.load_state_dict(checkpoint.load_weights(checkpoint.find(run)))
            model.to(trainer.strategy.root_device)  # Lightning has left it on the CPU
            _finish(config, run, model, data, report)
            report(f"all of it in {run}, after {_clock(time.monotonic() - begun)}")
    return run


@contextmanager
def _interruptions(trainer: pl.Trainer, run: Path, report: Reporter) -> Iterator[None]:
    """Says how to go on after Ctrl-C, which Lightning turns into a silent exit, and after SIGTERM."""
    try:
        yield
    except SIGTERMException:
        report(f"told to stop at step {trainer.global_step}; {_way_on(run)}")
        raise SystemExit(TERMINATED) from None  # by which a scheduler requeues, such as SLURM's RequeueExit=143
    except SystemExit:
        if not trainer.interrupted:
            raise
        report(f"stopped at step {trainer.global_step}; {_way_on(run)}")
        raise KeyboardInterrupt from None


def _way_on(run: Path) -> str:
    try:
        return f"resume={run} continues from {checkpoint.find(run).name}"
    except UserError:
        return "nothing was saved yet"


def _rehearse(config: DictConfig, model: Model, data: Data) -> None:
    """Builds what only sampling needs: a wrong value is told now, not after the first hundreds of steps."""
    template = model.template(1, source=data.test)
    try_once(model.denoiser, template)
    model.codec.decode(template)
    guided(config, model.denoiser, model.codec)
    build_sampler(config, model.denoiser)
    if config.n:
        model.template(config.n, plain(config.cond), data.test)
    if config.preview.n:
        model.template(config.preview.n, source=data.val)


def build_module(config: DictConfig, model: Model, data: Data) -> DiffusionModule:
    training = config.training
    objective = Objective(build_levels(config), training.drop_rate, config.seed)
    optimisation = Optimisation(**config.optimisation)
    graphs = config.trainer.get("cuda_graphs", False)  # runs of earlier versions do not say
    if graphs and not config.trainer.compile:
        raise UserError("trainer.cuda_graphs=true: needs trainer.compile=true, whose kernels the graph is of")
    if graphs and training.accumulate > 1:  # a replay writes over gradients that are kept (PyTorch issue 169545)
        raise UserError(f"trainer.cuda_graphs=true: needs training.accumulate=1, not {training.accumulate}")
    if config.trainer.compile:
        model.denoiser.network.compile(mode="reduce-overhead" if graphs else None)
    return DiffusionModule(model.denoiser, model.codec, data, objective, optimisation, training.steps)


def build_trainer(
    config: DictConfig, run: Path, model: Model, data: Data, report: Reporter, first_step: int
) -> pl.Trainer:
    from omegaconf import OmegaConf

    training, hardware = config.training, config.trainer
    _quiet()
    config_text = OmegaConf.to_yaml(config, resolve=True)
    if is_first_process():
        (run / "config.yaml").write_text(config_text)
    # a budget in minutes sets the interval when it has become a number of steps, and nothing is validated before
    every = sys.maxsize if training.steps is None else interval(training.validate_every, training.steps)

    def budgeted(steps: int, each: float) -> None:
        report(f"{training.minutes:g} minutes are {steps} steps of {each * 1000:.0f} ms")

    callbacks: list[pl.Callback] = [Progress(report.console), Termination(), Curves(run)]
    if config.preview.n:
        callbacks.append(Previews(_previewer(config, run, model, data)))
    patience = training.get("patience", 10)  # runs of earlier versions have none
    callbacks += [Recorder(run, config_text, report, patience), Checkpoints(run, training.keep)]
    callbacks.append(Averaging(Optimisation(**config.optimisation)))
    if recent := config.optimisation.get("clip_recent"):
        callbacks.append(RecentClipping(recent))
    if training.steps is None:
        callbacks.append(Budget(training.minutes, training.validate_every, budgeted))
    version = f"from-{first_step:08d}"
    return pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=_strategy(hardware),
        precision=_precision(str(hardware.precision), hardware.accelerator),
        max_steps=training.steps or -1,
        max_epochs=-1,
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=config.optimisation.clip_norm,
        val_check_interval=min(every * training.accumulate, sys.maxsize),
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


def _strategy(hardware: DictConfig) -> Any:
    """Lightning's name for how several devices work together, or our own way."""
    if hardware.strategy != "fsdp":
        return hardware.strategy
    for switch in ("channels_last", "compile"):
        if hardware[switch]:
            raise UserError(f"trainer.{switch}=true: false with trainer.strategy=fsdp, which shares out plain weights")
    return Sharded()


def _precision(wanted: str, accelerator: str) -> Any:
    """What Lightning calls the precision: bf16 where the device has it, and never where it would be emulated."""
    if wanted not in PRECISIONS:
        raise UserError(f"trainer.precision={wanted}: must be one of {', '.join(PRECISIONS)}")
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "auto":
        return "bf16-mixed" if has_bf16 else "32-true"
    if wanted == "bf16-mixed" and not has_bf16 and (on_gpu or not torch.cpu._is_avx512_bf16_supported()):
        raise UserError(f"trainer.precision={wanted}: this device emulates bf16, tens of times slower; use 32-true")
    return wanted


def _loaders(config: DictConfig, data: Data, trainer: pl.Trainer, first_step: int) -> tuple[Any, Any]:
    training, hardware = config.training, config.trainer
    rank, world = trainer.global_rank, trainer.world_size
    first = first_step * training.accumulate
    order = training_order(data.train, training.batch_size, config.seed, first, rank, world)
    pin = trainer.strategy.root_device.type == "cuda"
    return (
        train_loader(data.train, order, hardware.workers, pin),
        val_loader(data.val, training.batch_size, training.validate_on, rank, world),
    )


def _previewer(config: DictConfig, run: Path, model: Model, data: Data) -> Callable[[int, Denoiser], Path]:
    def draw(step: int, denoiser: Denoiser) -> Path:
        preview = config.copy()
        preview.steps = min(config.steps, config.preview.steps)
        drawn = model if denoiser is model.denoiser else Model(denoiser.eval(), model.codec, model.modality, config)
        batch = next(drawn.stream(model.template(config.preview.n, source=data.val), preview, seed=config.seed))
        path = run / "previews" / f"{checkpoint.step_name(step)}.png"
        path.parent.mkdir(exist_ok=True)
        model.modality.grid(batch, path)
        return path

    return draw


def _finish(config: DictConfig, run: Path, model: Model, data: Data, report: Reporter) -> None:
    """The samples and figures at the end, with the averaged weights, which training leaves in the model.

    The first process makes all of them: the others have left by now, or soon will.
    """
    model.denoiser.eval()
    if config.n:
        step = checkpoint.find(run).name  # without its path: a run folder may be moved
        evaluate_model(model, data, config, run / "samples" / step, report, request(step, config), share=ALL)


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


def _clock(seconds: float) -> str:
    return f"{math.floor(seconds / 60)}:{seconds % 60:04.1f} min"


def _quiet() -> None:
    """Lightning's notes about what this loop does on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in (".*does not have many workers.*", ".*_foreach_lerp.*", ".*lr_scheduler.step.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", text)
