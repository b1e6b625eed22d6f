"""The judge: a small classifier of short sounds, through which the metrics listen. `python -m modalities.audio.judge`

That command trains one again (`--data fsdd --path RECORDINGS` or `--data tones`) on the training split alone, in about
2 minutes on one CPU core, and writes `judge_fsdd.safetensors` or `judge_tones.safetensors` beside this file. How much
of the test split the shipped ones classify rightly stands in their metadata: no sample set should be expected to score
higher. It hears spectrograms of its own (see `logmel`), not the models'. Training and sampling never use it.

It hardly hears whether a voice is one: pitch strength is the other gate (see `pitch`).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.batch import Batch
from core.data import Data, whole
from core.errors import UserError
from core.features import Features
from core.tensor_files import read_metadata
from core.weights import load, save
from modalities.audio.features import Listener, listen
from modalities.audio.logmel import log_mel

SHIPPED = ("fsdd", "tones")
RECOGNISED = ("label", "speaker")  # the conditions it learns; a pitch is measured, not recognised
SECONDS = 1.0  # it hears the first second, filled up with silence
BANDS, FLOOR_DB = 40, -60.0
FEATURES = 64
STEPS = {"fsdd": 700, "tones": 200}  # of training
SMOOTHING = 0.02  # of the labels: unsure by that much, also of the clearest sound, or inception scores would explode

log = logging.getLogger(__name__)


class JudgeNetwork(nn.Module):
    """Five convolutions over time and frequency, the mean over time, a feature layer, a linear layer a condition."""

    def __init__(self, sizes: Mapping[str, int], width: int = 16) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _block(1, width, kernel=5, stride=2),
            _block(width, 2 * width, kernel=3),
            _block(2 * width, 2 * width, kernel=3, stride=2),
            _block(2 * width, 4 * width, kernel=3),
            _block(4 * width, 4 * width, kernel=3, stride=2),
            nn.AdaptiveAvgPool2d((1, None)),
            nn.Flatten(),
            nn.Linear(4 * width * (BANDS // 8), FEATURES),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.2)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, size) for name, size in sizes.items()})

    def forward(self, levels: Float[Tensor, "batch frames bands"]) -> Float[Tensor, "batch features"]:
        return self.trunk(levels[:, None])


def _block(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


def cut(x: Float[Tensor, "batch 1 length"], sample_rate: int) -> Float[Tensor, "batch 1 second"]:
    """The first second with a peak of 1, filled up with silence."""
    length = round(SECONDS * sample_rate)
    x = F.pad(x, (0, max(length - x.shape[2], 0)))[..., :length]
    return x / x.abs().amax(dim=2, keepdim=True).clamp(min=1e-6)


def hear(x: Float[Tensor, "batch 1 second"], sample_rate: int) -> Float[Tensor, "batch frames bands"]:
    """Levels between -1 (silence, 60 dB under a full sine) and about 1."""
    return log_mel(x, sample_rate, BANDS, floor_db=FLOOR_DB) * (-2 / FLOOR_DB) + 1


class Judge(Listener):
    """A trained network as a `Listener`.

    weights: `fsdd` or `tones`, the shipped ones, or a file that this module's command has written.
    Raises UserError if the file is missing, is not safetensors, or holds other tensors than the network has.
    """

    def __init__(self, weights: str | Path, device: str = "cpu") -> None:
        path = Path(weights)
        if weights in SHIPPED:
            path = Path(__file__).with_name(f"judge_{weights}.safetensors")
        self.device = device
        self.metadata = _metadata(path)
        self.name = f"judge of {self.metadata['data']}"
        self.sample_rate = int(self.metadata["sample_rate"])
        self.conditions = json.loads(self.metadata["conditions"])
        self.classes = self.conditions["label"]
        self.network = JudgeNetwork({name: len(values) for name, values in self.conditions.items()})
        load(self.network, path)
        self.network.to(device).eval()

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch 1 length"]) -> Features:
        features = self.network(hear(cut(x.to(self.device).float(), self.sample_rate), self.sample_rate))
        return Features(features.cpu(), self.network.heads["label"](features).cpu())

    @torch.no_grad()
    def recognise(self, features: Float[Tensor, "batch features"]) -> dict[str, Float[Tensor, "batch values"]]:
        return {name: head(features.to(self.device)).cpu() for name, head in self.network.heads.items()}


def _metadata(path: Path) -> dict[str, str]:
    wanted = ("data", "sample_rate", "conditions")
    try:
        found = read_metadata(path)
    except UserError as error:
        raise UserError(f"the judge's weights: {error}; {', '.join(SHIPPED)}, or a file") from error
    if missing := [name for name in wanted if name not in found]:
        raise UserError(f"{path} holds no judge of sounds: its metadata lack {', '.join(missing)}")
    return found


def train(data: Data, steps: int, batch_size: int = 64, seed: int = 0) -> JudgeNetwork:
    """A network trained on the training split of `data` alone; the same on every run with one seed and one machine."""
    sample_rate, conditions = int(data.facts["sample_rate"]), recognised(data)
    batch = whole(data.train)
    x, labels = cut(batch.x * batch.mask, sample_rate), {name: batch.cond[name] for name in conditions}
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initial weights and dropout
        network = JudgeNetwork({name: len(values) for name, values in conditions.items()})
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        order = torch.empty(0, dtype=torch.long)
        for step in range(steps):
            if len(order) < min(batch_size, len(x)):
                order = torch.randperm(len(x), generator=generator)
            rows, order = order[:batch_size], order[batch_size:]
            levels = mask_levels(hear(cut(vary(x[rows], sample_rate, generator), sample_rate), sample_rate), generator)
            features = network.dropout(network(levels))
            loss = sum(
                F.cross_entropy(network.heads[name](features), labels[name][rows], label_smoothing=SMOOTHING)
                for name in conditions
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % 50 == 0:
                log.info("step %d of %d: loss %.3f", step + 1, steps, loss.item())
    return network.eval()


def recognised(data: Data) -> dict[str, Sequence[str]]:
    """The conditions of the data that a judge of it recognises. ValueError if it has no labels."""
    conditions = {name: data.facts["conditions"][name] for name in RECOGNISED if name in data.facts["conditions"]}
    if "label" not in conditions:
        raise ValueError(f"a judge learns from data with labels, but {data.name} has the conditions {conditions}")
    return conditions


def vary(
    x: Float[Tensor, "batch 1 length"], sample_rate: int, generator: torch.Generator
) -> Float[Tensor, "batch 1 length"]:
    """Each clip up to 6% faster or slower (and so higher or lower), shifted by up to 60 ms, half of them in noise."""
    n, length = len(x), x.shape[2]

    def between(low: float, high: float) -> Float[Tensor, "batch 1 1"]:
        return torch.rand(n, 1, 1, generator=generator) * (high - low) + low

    speed, shift = between(0.94, 1.06), between(-0.06, 0.06) * sample_rate
    place = ((torch.arange(length) - shift) * speed + 0.5) * (2 / length) - 1  # grid_sample's coordinates
    grid = torch.stack([place, torch.zeros_like(place)], dim=-1)
    x = F.grid_sample(x[:, :, None], grid, mode="bicubic", align_corners=False)[:, :, 0]
    noise = torch.randn(x.shape, generator=generator) * 10 ** (between(-60, -20) / 20)  # relative to the peak
    return x + noise * (between(0, 1) < 0.5)


def mask_levels(
    levels: Float[Tensor, "batch frames bands"], generator: torch.Generator
) -> Float[Tensor, "batch frames bands"]:
    """Each spectrogram up to 6 dB softer or louder, without up to 12 of its frames and 6 of its bands."""
    n = len(levels)
    gain = (torch.rand(n, 1, 1, generator=generator) - 0.5) * (-24 / FLOOR_DB)
    levels = (levels + gain).clamp(min=-1)
    for axis, widest in ((1, 12), (2, 6)):
        size = levels.shape[axis]
        width = torch.rand(n, 1, generator=generator) * widest
        start = torch.rand(n, 1, generator=generator) * (size - width)
        place = torch.arange(size)
        hidden = (place >= start) & (place < start + width)
        levels = levels.masked_fill(hidden.unsqueeze(3 - axis), -1)
    return levels


def accuracies(judge: Judge, batch: Batch) -> dict[str, float]:
    """The share of clips in which the judge recognises each condition rightly."""
    scores = judge.recognise(listen(judge, batch, judge.sample_rate).features)
    return {name: (s.argmax(dim=1) == batch.cond[name]).double().mean().item() for name, s in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m modalities.audio.judge", description="Train a judge of sounds.")
    parser.add_argument("--data", choices=SHIPPED, required=True)
    parser.add_argument("--path", help="the recordings of fsdd: a folder or an archive (default: download)")
    parser.add_argument("--out", type=Path, help="where to write the weights (default: beside this module)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = _data(arguments.data, arguments.path)
    out = arguments.out or Path(__file__).with_name(f"judge_{arguments.data}.safetensors")
    network = train(data, STEPS[arguments.data], seed=arguments.seed)
    about = {
        "data": data.name,
        "split": "train",
        "sample_rate": str(data.facts["sample_rate"]),
        "conditions": json.dumps(recognised(data)),
        "seed": str(arguments.seed),
    }
    save(network, out, about)
    test = accuracies(Judge(out), whole(data.test))  # judged as the file keeps it
    save(network, out, about | {f"test_{name}": f"{share:.4f}" for name, share in test.items()})
    shares = ", ".join(f"{name} {share:.2%}" for name, share in test.items())
    print(f"wrote {out}: of {len(data.test)} test clips {shares}")


def _data(name: str, path: str | None) -> Data:
    if name == "fsdd":
        from modalities.audio.fsdd import Fsdd

        return Fsdd(path)
    from modalities.audio.tones import Tones

    return Tones()


if __name__ == "__main__":
    main()
