"""Checkpoint folders: exact round trips, exact resuming, no pickle, and no harm by an interrupted write."""

import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from core import checkpoint, tensor_files
from core.errors import UserError


def write(folder, value=0.0, state=None, averaged=True):
    weights = {"layer.weight": torch.full((2, 3), value)}
    ema = {"layer.weight": torch.full((2, 3), value + 0.5)} if averaged else None
    checkpoint.save(folder, weights, ema, state if state is not None else {"value": value}, f"value: {value}\n")


def value_of(folder):
    """The value that a folder was written with, after checking that all its parts agree."""
    value = checkpoint.load_state(folder)["value"]
    assert checkpoint.load_config_text(folder) == f"value: {value}\n"
    assert (checkpoint.load_weights(folder, averaged=False)["layer.weight"] == value).all()
    assert (checkpoint.load_weights(folder)["layer.weight"] == value + 0.5).all()
    return value


def same(a, b):
    """Whether two trees are equal in their types, keys, order, dtypes, strides and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, dict):
        return same(list(a.keys()), list(b.keys())) and same(list(a.values()), list(b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


def round_trip(tmp_path, state):
    write(tmp_path / "step-00000001", state=state)
    return checkpoint.load_state(tmp_path / "step-00000001")


TREES = {
    "scalars": [None, True, False, 0, -1, 10**40, 0.1, -0.0, 1e-320, math.inf, -math.inf, math.nan, "", "ä\n\"'"],
    "containers": {"list": [], "tuple": (), "dict": {}, "ordered": OrderedDict(b=1, a=(2, [3, (None,)]))},
    "keys": {0: {1: "int"}, "0": 2, None: 3, True: 4, 0.5: 5, (1, "a"): 6},
    "lookalikes": {"dict": {"dict": 1}, "tuple": [1], "tensor": "0", "float": "nan", "items": [[1, 2]], "ordered": 0},
    "empty key": {"": {"": torch.ones(1)}, "__metadata__": torch.ones(1), "a.b": {"c": 1}, "a": {"b.c": 2}},
    "top": (1, 2),
    "tensors": {
        "0-dim": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False]),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "one channel": torch.randn(4, 1, 3, 3).to(memory_format=torch.channels_last),
        **{str(d): torch.ones(3, dtype=d) for d in (torch.int64, torch.uint8, torch.bfloat16, torch.float64)},
    },
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_the_same(tmp_path, name):
    assert same(round_trip(tmp_path, TREES[name]), TREES[name])
    json.loads((tmp_path / "step-00000001" / checkpoint.STATE).read_text(), parse_constant=pytest.fail)  # strict JSON


def test_views_and_shared_tensors_come_back(tmp_path):
    base = torch.arange(12.0)
    parameter = nn.Parameter(torch.ones(2))
    state = {
        "expanded": torch.ones(1, 3).expand(4, 3),
        "strided": base[::2],
        "overlapping": [base[:8], base[4:]],
        "shared": [base, base, base.detach()],
        "parameter": parameter,
    }
    back = round_trip(tmp_path, state)
    assert torch.equal(back["expanded"], state["expanded"])
    assert torch.equal(back["strided"], base[::2])
    assert all(torch.equal(a, b) for a, b in zip(back["overlapping"], state["overlapping"], strict=True))
    assert back["shared"][0] is back["shared"][1] is back["shared"][2]
    assert torch.equal(back["parameter"], parameter)
    back["expanded"][0] = 7  # memory of its own
    assert (back["expanded"][1:] == 1).all()


def test_tied_and_transposed_weights_can_be_saved(tmp_path):
    weight = torch.randn(3, 4)
    checkpoint.save(tmp_path / "s", {"a": weight, "b": weight, "c": weight.T}, None, {}, "")
    back = checkpoint.load_weights(tmp_path / "s")
    assert all(torch.equal(back[name], value) for name, value in {"a": weight, "b": weight, "c": weight.T}.items())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [0, {"b": object()}]}, r"state\.a\[0\]|state\.a\[1\]\.b is a builtins\.object"),
        ({"a": np.float64(1)}, r"state\.a is a numpy\.float64"),
        ({"a": {3: defaultdict(list)}}, r"state\.a\[3\] is a collections\.defaultdict"),
        ([torch.Size([1])], r"state\[0\] is a torch\.Size"),
        ([{1}], "set"),
        ([print], "builtin"),
        ([b"x"], "bytes"),
        ([1j], "complex"),
        ({torch.ones(1): 1}, "tensor as a key"),
        ([torch.eye(2).to_sparse()], r"state\[0\] is a Tensor.*sparse"),
        ([torch.empty(2, device="meta")], "meta"),
        ([torch.ones(1, dtype=torch.complex128)], "complex128"),
    ],
)
def test_what_cannot_be_held_is_named_and_nothing_is_written(tmp_path, tree, message):
    with pytest.raises(TypeError, match=message):
        write(tmp_path / "run" / "step-00000001", state=tree)
    assert not (tmp_path / "run").exists()


def test_without_averages_the_weights_are_the_raw_ones(tmp_path):
    write(tmp_path / "s", 1.0, averaged=False)
    assert not (tmp_path / "s" / checkpoint.EMA).exists()
    assert (checkpoint.load_weights(tmp_path / "s", averaged=True)["layer.weight"] == 1).all()


# --- finding and pruning -----------------------------------------------------------------------------------------


def steps(run, *numbers):
    for number in numbers:
        write(run / "checkpoints" / checkpoint.step_name(number), float(number))


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_find(tmp_path):
    steps(tmp_path, 1, 2, 100_000_000)
    folder = tmp_path / "checkpoints"
    checkpoint.point(tmp_path, "best", "step-00000001")
    for path in (tmp_path, folder, str(tmp_path)):
        assert checkpoint.find(path).name == "step-100000000"
        assert checkpoint.find(path, "best").name == "step-00000001"
    assert checkpoint.find(folder / "step-00000002") == folder / "step-00000002"
    for lost in ("step-00000009", "", "../../elsewhere"):
        (folder / "last").write_text(lost)
        assert checkpoint.find(tmp_path).name == "step-100000000"


@pytest.mark.parametrize("place", ["nowhere", "empty", "file"])
def test_find_names_the_path_where_nothing_is(tmp_path, place):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "file").write_text("no checkpoint")
    with pytest.raises(UserError, match=f"no last checkpoint in .*{place}: expected a run folder") as error:
        checkpoint.find(tmp_path / place)
    assert "\n" not in str(error.value)


def test_there_may_be_no_best(tmp_path):
    steps(tmp_path, 1)
    with pytest.raises(UserError, match="no best checkpoint"):
        checkpoint.find(tmp_path, "best")


@pytest.mark.parametrize("name", ["step-00000009", "../checkpoints/step-00000001", "", "."])
def test_only_a_complete_folder_can_be_named(tmp_path, name):
    steps(tmp_path, 1)
    with pytest.raises(ValueError, match="best cannot name"):
        checkpoint.point(tmp_path, "best", name)


def test_prune_keeps_the_newest_and_the_named(tmp_path):
    steps(tmp_path, 1, 2, 3, 4, 5)
    checkpoint.point(tmp_path, "best", "step-00000001")
    checkpoint.prune(tmp_path, keep=2)
    kept = ["best", "last", "step-00000001", "step-00000003", "step-00000004", "step-00000005"]
    assert names(tmp_path) == kept
    (tmp_path / "checkpoints" / "last").unlink()
    checkpoint.prune(tmp_path, keep=0)
    assert names(tmp_path) == ["best", "step-00000001", "step-00000005"], "the newest is the last one without a name"
    checkpoint.prune(tmp_path / "nowhere", keep=1)


# --- interrupted writes ------------------------------------------------------------------------------------------


class Crash(BaseException):
    """What nothing catches: the process is gone."""


def crash_at(monkeypatch, moment):
    """Makes the `moment`-th change of the file system (from 0) the last one, before or in the middle of it."""
    count = iter(range(10_000))

    def crashing(function, name):
        def wrapper(*args, **kwargs):
            now = next(count)
            if now > moment:
                raise Crash
            if now == moment and name == "rmtree" and args[0].exists():  # half a removal
                os.unlink(next(args[0].iterdir()))
                raise Crash
            return function(*args, **kwargs)

        return wrapper

    for target, name in [
        (tensor_files, "save"),
        (checkpoint.Path, "write_text"),
        (checkpoint.Path, "rename"),
        (checkpoint.Path, "mkdir"),
        (os, "replace"),
        (os, "fsync"),
        (shutil, "rmtree"),
    ]:
        monkeypatch.setattr(target, name, crashing(getattr(target, name), name))


@pytest.mark.parametrize("number", [2, 1], ids=["a new folder", "the same folder again"])
def test_a_write_interrupted_anywhere_leaves_a_whole_checkpoint(tmp_path, number):
    """After each of its file operations in turn: the old or the new one is found whole, and the next write heals."""
    finished = False
    moment = -1
    while not finished:
        run = tmp_path / str(moment)
        write(run / "checkpoints" / "step-00000001", 1.0)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, moment)
            try:
                write(run / "checkpoints" / checkpoint.step_name(number), 2.0)
                finished = True
            except Crash:
                pass
        assert value_of(checkpoint.find(run)) in ((2.0,) if finished else (1.0, 2.0))
        write(run / "checkpoints" / "step-00000003", 3.0)
        assert value_of(checkpoint.find(run)) == 3.0
        assert not [name for name in names(run) if name.endswith((".tmp", ".old"))]
        assert value_of(run / "checkpoints" / "step-00000001") in (1.0, 2.0)
        moment += 1
    assert moment > 10


def test_an_interrupted_removal_leaves_no_half_checkpoint(tmp_path):
    steps(tmp_path, 1, 2)
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, 1)
        with pytest.raises(Crash):
            checkpoint.prune(tmp_path, keep=0)
    assert names(tmp_path) == [".step-00000001.tmp", "last", "step-00000002"]
    steps(tmp_path, 3)
    assert names(tmp_path) == ["last", "step-00000002", "step-00000003"]


# --- hostile and broken folders ----------------------------------------------------------------------------------


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.STATE_TENSORS, checkpoint.STATE, checkpoint.CONFIG])
def test_a_pickle_is_never_read(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    write(tmp_path / "s", averaged=False)
    for bait in ("state.pt", "last.ckpt", "model.pth", "data.pkl", name):
        (tmp_path / "s" / bait).write_bytes(pickle.dumps(Trap()))
    refusals = []
    for read in (checkpoint.load_weights, checkpoint.load_state, checkpoint.load_config_text):
        try:
            read(tmp_path / "s")
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) == 1
    assert name in refusals[0]
    assert "\n" not in refusals[0]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        '{"format": 1}',
        '{"format": 2, "state": null}',
        '{"format": 1, "state": {"pickle": "gASV"}}',
        '{"format": 1, "state": {"tensor": "7"}}',
        '{"format": 1, "state": {"tensor": "0", "stride": [1000000000000]}}',
        '{"format": 1, "state": {"tensor": "0", "stride": [-1]}}',
    ],
)
def test_a_broken_state_is_one_clear_line(tmp_path, document):
    write(tmp_path / "s", state=[torch.ones(3)])
    (tmp_path / "s" / checkpoint.STATE).write_text(document)
    with pytest.raises(UserError, match=checkpoint.STATE) as error:
        checkpoint.load_state(tmp_path / "s")
    assert "\n" not in str(error.value)


FILES = [checkpoint.MODEL, checkpoint.EMA, checkpoint.STATE, checkpoint.STATE_TENSORS, checkpoint.CONFIG]


def read_all(folder):
    for averaged in (True, False):
        checkpoint.load_weights(folder, averaged)
    checkpoint.load_state(folder)
    checkpoint.load_config_text(folder)


@pytest.mark.parametrize("harm", ["a bit flipped", "cut off", "swapped", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_was_written_is_named(tmp_path, name, harm):
    """Also where it would still load: a flipped bit of a weight, or the file of another step."""
    write(tmp_path / "step-1", 1.0, state=[torch.ones(3)])
    write(tmp_path / "step-2", 2.0, state=[torch.zeros(3), 1])
    read_all(tmp_path / "step-1")
    file, content = tmp_path / "step-1" / name, bytearray((tmp_path / "step-1" / name).read_bytes())
    if harm == "a bit flipped":
        content[-1] ^= 1
        file.write_bytes(content)
    elif harm == "cut off":
        file.write_bytes(content[:-1])
    elif harm == "swapped":
        other = (tmp_path / "step-2" / name).read_bytes()
        file.write_bytes(other if other != content else other + b" ")
    else:
        file.unlink()
    with pytest.raises(UserError, match=re.escape(name)) as error:
        read_all(tmp_path / "step-1")
    assert "\n" not in str(error.value)


def test_a_folder_without_digests_is_read(tmp_path):
    write(tmp_path / "s", 3.0)
    (tmp_path / "s" / "digests.json").unlink()
    assert value_of(tmp_path / "s") == 3.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model.safetensors": 3}'])
def test_broken_digests_are_one_line(tmp_path, text):
    write(tmp_path / "s")
    (tmp_path / "s" / "digests.json").write_text(text)
    with pytest.raises(UserError, match=r"digests\.json|not what was written") as error:
        read_all(tmp_path / "s")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("length", "said"), [(2**30, "allowed are 16,777,216"), (5000, "in a file of 13"), (3, "cannot be read")]
)
def test_a_header_that_claims_too_much_is_refused_unread(tmp_path, length, said):
    file = tmp_path / "model.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + b'{"a":')
    with pytest.raises(UserError, match=said):
        checkpoint.load_weights(tmp_path)


def test_reading_needs_no_lightning():
    code = "import sys, core.checkpoint; print(*{'lightning', 'hydra', 'omegaconf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


# --- resuming ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_resumes_to_the_last_bit(tmp_path, fused):
    def fresh():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 1))
        network = network.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, fused=fused)
        return network, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)

    def train(network, optimizer, scheduler, span):
        for step in span:
            x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            network(x.to(memory_format=torch.channels_last)).square().mean().backward()
            optimizer.step()
            scheduler.step()

    straight = fresh()
    train(*straight, range(6))
    half = fresh()
    train(*half, range(3))
    state = {"optimizer": half[1].state_dict(), "scheduler": half[2].state_dict()}
    checkpoint.save(tmp_path / "s", half[0].state_dict(), None, state, "")

    resumed = fresh()
    resumed[0].load_state_dict(checkpoint.load_weights(tmp_path / "s"))
    back = checkpoint.load_state(tmp_path / "s")
    assert same(back, state)
    resumed[1].load_state_dict(back["optimizer"])
    resumed[2].load_state_dict(back["scheduler"])
    train(*resumed, range(3, 6))
    assert same(dict(resumed[0].state_dict()), dict(straight[0].state_dict()))
    assert same(resumed[1].state_dict(), straight[1].state_dict())


@pytest.fixture(scope="module")
def lightning_run():
    """A function that fits a tiny module for some steps, resuming from a path; returns the trainer and the module."""
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import WeightAveraging
    from torch.optim.swa_utils import get_ema_avg_fn

    from core.checkpoint_io import FolderCheckpointIO

    class Tiny(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.denoiser = nn.Linear(4, 4)
            self.register_buffer("other", torch.ones(2))

        def training_step(self, batch, index):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(self.global_step))
            return (self.denoiser(x) - x.flip(1)).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def train_dataloader(self):
            return torch.utils.data.DataLoader(range(100), batch_size=1)

    class Kept(pl.Callback):
        """Keeps the checkpoint at the last step, before the averages replace the weights at the end of training."""

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == trainer.max_steps:
                self.checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
                self.checkpoint = torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, self.checkpoint)
                trainer.save_checkpoint(f"{trainer.default_root_dir}/checkpoints/step-{trainer.global_step:08d}")

    def fit(root, steps, resume=None, averaging=True):
        kept = Kept()
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            default_root_dir=root,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[WeightAveraging(avg_fn=get_ema_avg_fn(0.9)), kept] if averaging else [kept],
            plugins=[FolderCheckpointIO("seed: 0\n")],
        )
        trainer.fit(Tiny(), ckpt_path=resume)
        return trainer, kept.checkpoint

    return fit


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("averaging", [True, False])
def test_lightning_resumes_to_the_last_bit(tmp_path, lightning_run, averaging):
    _, straight = lightning_run(tmp_path / "straight", 6, averaging=averaging)
    trainer, half = lightning_run(tmp_path / "half", 3, averaging=averaging)
    folder = tmp_path / "half" / "checkpoints" / "step-00000003"

    loaded = trainer.strategy.checkpoint_io.load_checkpoint(folder)
    assert loaded.keys() == half.keys()
    weights = {"state_dict", "current_model_state"}
    assert same({k: v for k, v in loaded.items() if k not in weights}, {k: half[k] for k in loaded if k not in weights})
    assert all(same(dict(sorted(loaded[k].items())), dict(sorted(half[k].items()))) for k in weights & half.keys())

    assert checkpoint.load_weights(folder).keys() == {"weight", "bias"}
    raw, averaged = (checkpoint.load_weights(folder, averaged=a)["weight"] for a in (False, True))
    assert torch.equal(raw, averaged) != averaging
    assert torch.equal(averaged, half["state_dict"]["denoiser.weight"])

    _, resumed = lightning_run(tmp_path / "resumed", 6, resume=tmp_path / "half", averaging=averaging)
    for key in {"state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"}:
        if key in straight:
            assert same(resumed[key], straight[key]), key
    assert resumed["global_step"] == straight["global_step"] == 6

    trainer.strategy.remove_checkpoint(folder)
    assert not folder.exists()
