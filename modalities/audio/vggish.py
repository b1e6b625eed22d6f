"""VGGish, through which published Fréchet audio distances (FAD) listen."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.cache import cache_dir
from core.errors import UserError
from core.features import Features
from modalities.audio.archives import download
from modalities.audio.features import Listener

URL = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"
INSTEAD = "get the file on another machine, and name it as weights=FILE"
FRAMES, BANDS = 96, 64
WINDOW, HOP, FFT = 400, 160, 512  # samples at 16 kHz
LOW, HIGH = 125.0, 7500.0  # Hz
OFFSET = 0.01  # inside the logarithm


class VGGish(Listener):
    """The 128 numbers of VGGish for the first 0.975 seconds of each clip, filled up with silence; no logits.

    The Fréchet distance of these is the FAD of Kilgour et al. 2019, with one embedding a clip, before the last
    activation and without principal components (the default of the package frechet-audio-distance). Clips are taken as
    loud as they are.

    weights: a file of the published weights as torchvggish converted them; None downloads them once (289 MB).
    Raises UserError if they cannot be had, or are others. Nothing is loaded before the first call.
    """

    name = "VGGish"
    sample_rate = 16000

    def __init__(self, weights: str | None = None, device: str = "cpu") -> None:
        self.weights, self.device = weights, device
        self._network: VGGishNetwork | None = None

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch 1 length"]) -> Features:
        if self._network is None:
            self._network = self._load()
        return Features(self._network(spectrograms(x.to(self.device).float())).cpu(), None)

    def _load(self) -> VGGishNetwork:
        path = cache_dir("vggish") / URL.rsplit("/", 1)[1] if self.weights is None else Path(self.weights)
        if self.weights is None and not path.exists():
            download(URL, path, INSTEAD)
        with torch.device("meta"):
            network = VGGishNetwork()
        try:
            # Tensors alone: with weights_only nothing in the file is executed.
            tensors = torch.load(path, map_location=self.device, weights_only=True)
            network.load_state_dict(tensors, assign=True)
        except Exception as error:  # damaged files raise many kinds of errors
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} holds no readable weights of VGGish ({reason}); {INSTEAD}") from error
        return network.eval()


class VGGishNetwork(nn.Module):
    """Six convolutions and three linear layers, 72 million parameters. (Hershey et al. 2017)"""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for widths in ((64,), (128,), (256, 256), (512, 512)):
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = channels * (FRAMES // 16) * (BANDS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, levels: Float[Tensor, "batch frames bands"]) -> Float[Tensor, "batch 128"]:
        return self.embeddings(self.features(levels[:, None]).permute(0, 2, 3, 1).flatten(1))  # its own order: by frame


def spectrograms(x: Float[Tensor, "batch 1 length"]) -> Float[Tensor, "batch 96 64"]:
    """ln(mel magnitude + 0.01) of the first 96 frames at 16 kHz."""
    length = WINDOW + (FRAMES - 1) * HOP
    x = F.pad(x[:, 0, :length], (0, max(length - x.shape[2], 0)))
    frames = x.unfold(1, WINDOW, HOP) * torch.hann_window(WINDOW, device=x.device)
    return (torch.fft.rfft(frames, FFT).abs() @ _filters().to(x) + OFFSET).log()


def _filters() -> Float[Tensor, "bins bands"]:
    """Triangles whose sides are straight on the mel scale, not in hertz as elsewhere."""
    mel = 1127 * (1 + torch.linspace(0, VGGish.sample_rate / 2, FFT // 2 + 1, dtype=torch.float64) / 700).log()[:, None]
    low, high = (1127 * math.log(1 + hertz / 700) for hertz in (LOW, HIGH))
    ends = torch.linspace(low, high, BANDS + 2, dtype=torch.float64)
    rising, falling = (mel - ends[:-2]) / (ends[1:-1] - ends[:-2]), (ends[2:] - mel) / (ends[2:] - ends[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)
