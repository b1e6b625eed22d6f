"""What only a GPU can show."""

from __future__ import annotations

import json

import pytest
import torch
from runs import assert_same_weights, train

from benchmarks import speed
from core import random
from core.batch import Batch
from core.denoiser import Denoiser
from core.prediction import Epsilon, Velocity
from core.samplers import DDIM, DDPM, AdamsBashforth, DPMSolverPP, Heun, PredictorCorrector, UniPC, invert, sample
from core.schedules import Cosine, LinearBeta
from core.times import Uniform
from modalities.image.unet import UNet2d

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(name="denoiser")
def make_denoiser() -> Denoiser:
    torch.manual_seed(0)
    network = UNet2d(channels=1, num_classes=10, widths=(32, 64), patch_size=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)  # a new network outputs zero
    return Denoiser(network, Cosine(), Velocity()).cuda().eval()


def test_noise_is_the_same_on_both_devices():
    places = torch.arange(64)
    on_cpu = random.normal(random.keys(1, 2, places), (1000,))
    on_gpu = random.normal(random.keys(1, 2, places, device="cuda"), (1000,)).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", [Epsilon(), Velocity()])
def test_half_precision_gives_finite_losses_and_gradients_at_every_level(denoiser, prediction):
    denoiser.prediction = prediction
    t = torch.linspace(0, 1, 257, device="cuda")[1:]
    batch = Batch.full(torch.rand(256, 1, 28, 28, device="cuda") * 2 - 1)
    with torch.autocast("cuda", torch.bfloat16):
        loss = denoiser.loss(batch, t, torch.randn_like(batch.x))
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite().all())
    loss.mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in denoiser.parameters() if p.grad is not None)


SAMPLERS = [
    DDIM(),
    DDPM(),
    Heun(0.2),
    DPMSolverPP(3),
    DPMSolverPP(sde=1),
    UniPC(),
    AdamsBashforth(),
    PredictorCorrector(),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_samples_agree_with_the_cpu(denoiser, sampler):
    template = Batch.full(torch.zeros(4, 1, 28, 28))
    times = Uniform(10)(denoiser.schedule)
    on_gpu = sample(denoiser, sampler, template.to("cuda"), times).cpu()
    on_cpu = sample(denoiser.cpu(), sampler, template, times)
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=2e-3)


def test_inversion_agrees_with_the_cpu(denoiser):
    data, times = Batch.full(torch.rand(4, 1, 28, 28) * 2 - 1), Uniform(10)(denoiser.schedule).flip(0)
    on_gpu = invert(denoiser, data.to("cuda"), times).cpu()
    torch.testing.assert_close(on_gpu, invert(denoiser.cpu(), data, times), rtol=0, atol=2e-3)


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_compiled_network_agrees(denoiser, mode):
    batch = Batch.full(torch.rand(8, 1, 28, 28, device="cuda"))
    t, eps = torch.linspace(0.1, 0.9, 8, device="cuda"), torch.randn_like(batch.x)
    plain = denoiser.loss(batch, t, eps)
    denoiser.network.compile(mode=mode)
    for _ in range(3):  # a graph is recorded in the second call and replayed from the third on
        torch.testing.assert_close(denoiser.loss(batch, t, eps), plain, rtol=1e-3, atol=1e-4)


def test_a_table_of_betas_stays_on_its_device():
    schedule = LinearBeta()
    t = torch.linspace(0.001, 1, 100)
    torch.testing.assert_close(schedule.log_snr(t.cuda()).cpu(), schedule.log_snr(t), rtol=1e-5, atol=1e-5)


def test_the_samples_at_the_end_of_training_are_made_on_the_gpu(tmp_path, cache, no_plots):
    """Lightning leaves the model on the CPU."""
    run = train(tmp_path / "run", "trainer=auto", "trainer.devices=1", "n=2")
    manifest = json.loads((run / "samples" / "step-00000002" / "manifest.json").read_text())
    assert manifest["device"].startswith("cuda")


def test_shared_out_over_one_gpu_is_the_run_on_it(tmp_path, cache, no_plots):
    """NCCL's group of one: what it takes of `trainer=fsdp` that tests over gloo do not see."""
    plainly = ("trainer.devices=1", "trainer.precision=32-true", "trainer.channels_last=false", "trainer.workers=0")
    try:
        one, other = (train(tmp_path / name, f"trainer={name}", *plainly) for name in ("auto", "fsdp"))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert_same_weights(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", ["networks", "same_network", "overheads", "audio", "molecules"])
def test_speed_is_measured_on_the_gpu(what, tmp_path, cache):
    sizes = {"batch": 2, "rounds": 1, "steps": 2, "lightning_steps": 2, "clips": 1, "seconds": 0.1}
    small = {"width": 8, "depth": 1, "molecule_batches": 2, "overrides": "network.widths=[32,64]"}
    found = speed.main(speed.Options(what, device="cuda", out=str(tmp_path), **sizes, **small))
    assert all(one.seconds > 0 for one in found)
    assert torch.cuda.max_memory_allocated() > 0
