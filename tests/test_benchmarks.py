"""The benchmarks run and write what they say, and compare equal things; how fast anything is, no test asserts."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from runs import audio

from benchmarks import audio_quality, equal_time, speed
from benchmarks.common import Run
from benchmarks.contenders import Polydiffusion
from benchmarks.molecule_speed import disagreement, usual
from benchmarks.peers import Peer, ddpm_pytorch, diffusers
from core.batch import Batch
from core.errors import UserError
from modalities.molecules.egnn import Egnn, StepTime

BUILDERS = {"denoising_diffusion_pytorch": ddpm_pytorch, "diffusers": diffusers}
PARAMETERS = 707_844
TINY = "network.widths=[8,16]"


@pytest.fixture(params=BUILDERS, scope="module")
def peer(request: pytest.FixtureRequest) -> Peer:
    pytest.importorskip(request.param)
    return BUILDERS[request.param](PARAMETERS, 28)


def test_peer_has_equally_many_parameters(peer: Peer) -> None:
    assert sum(p.numel() for p in peer.network.parameters()) == pytest.approx(PARAMETERS, rel=0.02)


def test_our_loss_around_a_peers_network_is_its_own(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, eps = torch.rand(4, 1, 28, 28) * 2 - 1, torch.randn(4, 1, 28, 28)
    steps = torch.tensor([0, 10, 500, 999])
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: steps)
    monkeypatch.setattr(torch, "randn_like", lambda x: eps)
    with torch.no_grad():
        ours = peer.denoiser().loss(Batch.full(x), (steps + 1) / 1000, eps).mean()
        torch.testing.assert_close(ours, peer.loss(x), rtol=1e-4, atol=0)


def test_peer_samples_images(peer: Peer) -> None:
    images = peer.sample(2, 3)
    assert images.shape == (2, 1, 28, 28)
    assert images.abs().max() <= 1


def test_speed_writes_what_it_measured(tmp_path: Path) -> None:
    options = speed.Options(
        what="overheads", batch=2, rounds=1, steps=2, lightning_steps=2, overrides=TINY, out=str(tmp_path)
    )
    found = speed.main(options)
    assert len(found) == 5
    assert all(c.ratio > 0 and c.low <= c.ratio <= c.high for c in found)
    written = json.loads((tmp_path / "speed.json").read_text())
    assert len(written["overheads"]) == 5
    assert (tmp_path / "speed.png").stat().st_size > 0


def test_importing_is_timed_in_a_fresh_interpreter() -> None:
    assert 0 < speed.importing("import json")() < 10


@pytest.mark.skipif(not all(map(find_spec, BUILDERS)), reason="the peers are not installed")
def test_speed_beside_peers(tmp_path: Path) -> None:
    size = "network.widths=[32,64]"  # of about PARAMETERS
    options = speed.Options("networks,same_network", batch=2, rounds=1, steps=2, overrides=size, out=str(tmp_path))
    found = speed.main(options)
    assert {c.baseline for c in found} == {"denoising-diffusion-pytorch", "diffusers"}
    assert len(found) == 8


def test_speed_of_sound(tmp_path: Path) -> None:
    options = speed.Options("audio", batch=2, rounds=1, clips=1, seconds=0.05, overrides=TINY, out=str(tmp_path))
    found = speed.main(options)
    assert len(json.loads((tmp_path / "speed.json").read_text())["audio"]) == len(found) == 2
    for comparison in found:  # of equal sizes, as their names say
        ours, theirs = (int("".join(filter(str.isdigit, text))) for text in (comparison.what, comparison.baseline))
        assert ours == pytest.approx(theirs, rel=0.02)


@pytest.mark.skipif(find_spec("qm9pack") is None, reason="QM9 is not installed")
def test_speed_of_molecules(tmp_path: Path, cache: Path) -> None:
    small = {"width": 8, "depth": 1, "molecule_batches": 2}
    options = speed.Options("molecules", batch=2, rounds=1, overrides=TINY, out=str(tmp_path), **small)
    (comparison,) = speed.main(options)
    assert comparison.what.startswith("a molecule, 8 x 1")
    assert json.loads((tmp_path / "speed.json").read_text())["molecules"][0]["ratio"] == comparison.ratio


@pytest.mark.parametrize("reference", [False, True], ids=["default", "edm_qm9"])
def test_the_usual_arrangement_of_the_graph_network_is_the_same_function(reference: bool) -> None:
    torch.manual_seed(0)
    as_published = {"radial": 0, "norm": False, "reach": 15, "context": StepTime(10), "spare": 1}
    egnn = Egnn(5, {}, width=32, **(as_published if reference else {}))
    with torch.no_grad():
        for layer in egnn.layers:
            layer.strength.weight += 0.01 * torch.randn_like(layer.strength.weight)  # positions move
    mask = (torch.arange(9) < torch.tensor([9, 2, 5])[:, None]).float()[..., None]
    batch = Batch(torch.randn(3, 9, 8) * mask, mask)
    assert disagreement(egnn, usual(egnn), batch) < 1e-5
    assert disagreement(egnn.double(), usual(egnn), Batch(batch.x.double(), mask.double())) < 1e-12
    moved = usual(egnn)
    with torch.no_grad():
        next(moved.parameters()).mul_(1.001)
    assert disagreement(egnn, moved, Batch(batch.x.double(), mask.double())) > 1e-5


def test_quality_continues_where_it_stopped(tmp_path: Path) -> None:
    small = {"n": 10, "steps": 2, "batch": 4, "micro_batch": 5, "overrides": TINY, "out": str(tmp_path)}
    options = equal_time.Options([0.5, 1.0], "polydiffusion", **small)
    figures = equal_time.main(options)
    assert [set(rows) for rows in figures.values()] == [{"polydiffusion", "real"}] * 2
    shorter, longer = (rows["polydiffusion"]["training_steps"] for rows in figures.values())
    assert 1.3 * shorter < longer  # it is trained anew, and for twice as long
    assert equal_time.main(options) == figures
    assert (tmp_path / "1" / "samples.png").stat().st_size > 1000
    record = tmp_path / "record.json"
    for seconds in options.seconds:  # one after the other, into one record
        equal_time.main(replace(options, seconds=[seconds], record=str(record)))
    assert json.loads(record.read_text())["seconds"] == figures
    assert "| 0.5 | polydiffusion |" in equal_time.markdown(json.loads(record.read_text()))
    options.steps = 3
    with pytest.raises(UserError, match="other settings"):
        equal_time.main(options)


def test_samples_do_not_depend_on_how_many_are_drawn_at_once(cache: Path) -> None:
    run = Run.of("modality=image", TINY)
    ours, template = Polydiffusion(run), Batch.full(torch.zeros(20, 1, 28, 28), {"label": torch.arange(20) % 10})
    together, apart = (
        torch.cat([ours.sample(ours.model, template[places], places, 2) for places in torch.arange(20).split(size)])
        for size in (20, 10)
    )
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    assert len(together.unique(dim=0)) == 20


def test_quality_of_sound(sounds: Path, tmp_path: Path) -> None:
    data = " ".join((*audio(sounds)[1:], "data.max_seconds=0.08"))
    options = audio_quality.Options(
        seconds=0.1, n=4, steps=2, batch=2, micro_batch=3, overrides=data, out=str(tmp_path)
    )
    figures = audio_quality.main(options)
    assert set(figures) == {*audio_quality.CONTENDERS, "real"}
    assert figures["diffwave"]["parameters"] == pytest.approx(figures["spectrogram"]["parameters"], rel=0.02)
    assert all((tmp_path / f"{name}.png").stat().st_size > 0 for name in audio_quality.CONTENDERS)
    assert json.loads((tmp_path / "quality.json").read_text())["diffwave"] == figures["diffwave"]
    options.n, options.out = 99, str(tmp_path / "more")
    with pytest.raises(UserError, match=r"n=99: with \d+ held-out samples, at most \d+"):
        audio_quality.main(options)


def test_unknown_names_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="what=nothing: allowed are networks"):
        speed.main(speed.Options(what="nothing", out=str(tmp_path)))
