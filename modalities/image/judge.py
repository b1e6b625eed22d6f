"""The judge: a small classifier of 28x28 digits, through which the metrics look. `python -m modalities.image.judge`

That command trains it again, on the training split of `data=mnist5k` alone (about 2 minutes on one CPU core), and
writes `judge.safetensors` beside this file. The shipped one classifies TEST_ACCURACY of the 1,000 test digits, which it
has never seen, rightly; so no sample set should be expected to score higher. Training and sampling never use it.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.batch import Batch
from core.features import FeatureExtractor, Features
from core.weights import load, save
from modalities.image.codec import as_float
from modalities.image.data import ImageData

WEIGHTS = Path(__file__).with_name("judge.safetensors")
TEST_ACCURACY = 0.99  # of the shipped weights, also in their metadata; a test holds the two together
CLASSES = [str(digit) for digit in range(10)]
SIZE = 28

log = logging.getLogger(__name__)


class JudgeNetwork(nn.Module):
    """Five convolutions, global average pooling, a 64-dimensional feature layer and a linear classifier."""

    def __init__(self, width: int = 24, feature_dim: int = 64) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _block(1, width, kernel=5, stride=2),
            _block(width, 2 * width, kernel=3),
            _block(2 * width, 2 * width, kernel=3, stride=2),
            _block(2 * width, 4 * width, kernel=3),
            _block(4 * width, 4 * width, kernel=3, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, feature_dim),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(feature_dim, len(CLASSES))

    def forward(self, x: Float[Tensor, "batch 1 28 28"]) -> Features:
        features = self.trunk(x)
        return Features(features, self.classifier(self.dropout(features)))


def _block(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


class Judge(FeatureExtractor):
    """The trained network as a `FeatureExtractor` for 28x28 images of digits in one channel.

    weights: a file written by `core.weights.save`; None takes the shipped one.
    Raises UserError if the file is missing, is not safetensors, or holds other tensors than the network has.
    """

    classes = CLASSES

    def __init__(self, weights: str | Path | None = None, device: str = "cpu") -> None:
        self.device = device
        self.network = JudgeNetwork()
        self.metadata = load(self.network, Path(weights or WEIGHTS))
        self.network.to(device).eval()
        self.name = f"judge of {self.metadata.get('data', 'unnamed data')}"

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "batch 1 28 28"]) -> Features:
        if images.shape[1:] != (1, SIZE, SIZE):
            raise ValueError(f"the judge sees images of 1x{SIZE}x{SIZE}, not {'x'.join(map(str, images.shape[1:]))}")
        return Features(*(output.cpu() for output in self.network(images.to(self.device))))


def train(data: ImageData, epochs: int = 45, batch_size: int = 64, seed: int = 0) -> JudgeNetwork:
    """A network trained on the training split of `data` alone; the same on every run with one seed and one machine.

    Raises ValueError unless the images are 1x28x28 digits.
    """
    expected = {"shape": [1, SIZE, SIZE], "classes": CLASSES}
    if (found := {name: data.facts[name] for name in expected}) != expected:
        raise ValueError(f"the judge learns from data with {expected}, but {data.name} has {found}")
    batch = data.train.batch(range(len(data.train)))
    x, labels = as_float(batch.x), batch.cond["label"]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initial weights and dropout
        network = JudgeNetwork()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
        steps = epochs * (len(x) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        for epoch in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for rows in order[: len(x) // batch_size * batch_size].split(batch_size):
                loss = F.cross_entropy(network(deform(x[rows], generator)).logits, labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            log.info("epoch %d of %d: loss %.3f", epoch + 1, epochs, loss.item())
    return network.eval()


def deform(x: Float[Tensor, "batch 1 h w"], generator: torch.Generator) -> Float[Tensor, "batch 1 h w"]:
    """Each image under its own small affine map (15 degrees, 12% scale, 2 pixels) and smooth elastic displacement."""

    def within(limit: float) -> Tensor:
        return (torch.rand(len(x), generator=generator) * 2 - 1) * limit

    angle, scale_x, scale_y, shear = within(math.radians(15)), 1 + within(0.12), 1 + within(0.12), within(0.2)
    cos, sin = angle.cos(), angle.sin()
    to_x = torch.stack([cos * scale_x, shear - sin * scale_y, within(0.15)], dim=1)
    to_y = torch.stack([sin * scale_x, cos * scale_y, within(0.15)], dim=1)
    grid = F.affine_grid(torch.stack([to_x, to_y], dim=1), list(x.shape), align_corners=False)
    coarse = 0.06 * torch.randn(len(x), 2, 7, 7, generator=generator)
    displacement = F.interpolate(coarse, size=x.shape[2:], mode="bicubic", align_corners=False)
    return F.grid_sample(x, grid + displacement.permute(0, 2, 3, 1), align_corners=False)


@torch.no_grad()
def accuracy(network: JudgeNetwork, batch: Batch) -> float:
    """The share of images that the network classifies rightly."""
    predicted = network.eval()(as_float(batch.x)).logits.argmax(dim=1)
    return (predicted == batch.cond["label"]).double().mean().item()


def main() -> None:
    from modalities.image.mnist import Mnist5k

    parser = argparse.ArgumentParser(prog="python -m modalities.image.judge", description="Train the digit judge.")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where to write the weights (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = Mnist5k()
    network = train(data, seed=arguments.seed).half().float()  # judged as the file keeps it
    test_accuracy = accuracy(network, data.test.batch(range(len(data.test))))
    figures = {"test_accuracy": f"{test_accuracy:.4f}", "test_n": str(len(data.test))}
    save(network, arguments.out, {"data": data.name, "split": "train", "seed": str(arguments.seed)} | figures)
    print(f"wrote {arguments.out}: {test_accuracy:.2%} of {len(data.test)} test digits")


if __name__ == "__main__":
    main()
