"""python -m benchmarks.round_trips [data=fsdd] [path=recordings.tar.gz] [n=200]: what each codec of sound keeps.

Held-out clips go through each codec and back, without any model of what they say: the best that samples in those
coordinates could be. A spectrogram comes back by each vocoder; the diffusion vocoder is the only one that was trained.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import Run, machine
from core.batch import Batch
from core.build import build_modality
from core.cli import with_options
from core.codec import Codec
from core.data import whole
from core.runs import Reporter, write_json

DIFFUSION = "spectrogram, diffusion vocoder"
CODECS = {  # by name, the overrides of the default run
    "waveform": "codec=waveform network=unet1d",
    "mdct": "codec=mdct network.bands=128",
    "spectrogram, Griffin-Lim 16": "vocoder=griffin_lim codec.vocoder.iterations=16",
    "spectrogram, Griffin-Lim 32": "vocoder=griffin_lim",
    "spectrogram, Griffin-Lim 200": "vocoder=griffin_lim codec.vocoder.iterations=200",
    DIFFUSION: "vocoder=diffusion",
}


@dataclass
class Options:
    data: str = "fsdd"
    path: str = ""  # of the data, where it needs one
    vocoder: str = "vocoder_fsdd"  # a shipped one, or a run folder
    steps: int = 20  # of the diffusion vocoder
    n: int = 200
    out: str = "benchmarks/out/round_trips"


def main(options: Options) -> dict[str, dict[str, float]]:
    """One table, the figures as JSON, and a grid of the sounds of each codec."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder)
    base = ["modality=audio", f"data={options.data}", *([f"data.path={options.path}"] if options.path else [])]
    first = Run.of(*base)
    modality = build_modality(first.config)
    modality.paired = True
    held_out = whole(first.data.test, options.n)
    figures = {"real": modality.metrics(held_out, held_out, None)}
    for name, overrides in CODECS.items():
        more = [f"codec.vocoder.weights={options.vocoder}", f"codec.vocoder.steps={options.steps}"]
        codec = Run.of(*base, *overrides.split(), *(more if name == DIFFUSION else [])).codec
        back = through(codec, held_out)
        modality.grid(back, folder / f"{name.replace(', ', '-').replace(' ', '-')}.png")
        figures[name] = modality.metrics(back, held_out, None)
        report(f"{name}: done")
    report.figures(f"{options.n} held-out clips of {options.data}, there and back", figures)
    write_json(folder / "round_trips.json", {"machine": machine(), "options": asdict(options), "figures": figures})
    return figures


def through(codec: Codec, clips: Batch) -> Batch:
    """Encoded and decoded, cut to the length that they had."""
    back = codec.decode(codec.encode(clips))
    length = clips.x.shape[-1]
    return Batch(back.x[..., :length] * clips.mask, clips.mask, clips.cond)


if __name__ == "__main__":
    with_options(Options, main)
