"""python -m benchmarks.audio_quality [seconds=300] [n=100]: how good spoken digits are after equal CPU time.

Our three routes to sound (spectrograms, the default; waveforms; the MDCT) and DiffWave with as many parameters as the
first. Each trains for the same CPU seconds on the same batches, with all conditions, and draws n clips with its
averaged weights; `real` is the same figures of other held-out clips. `overrides="data=fsdd data.path=FILE"` takes the
digits from a file. What is finished stays in `out` and is not done again: give another `out` for another setting.

DiffWave is as published for spoken digits (Kong et al. 2021): waveforms as they are, 200 steps of a linear table of
betas, the epsilon loss, ancestral sampling. It gets our optimisation with a lower peak and a shorter warm-up, as its
steps are few, and our guidance and clipping.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.audio_speed import ROUTES, STEPS, diffwave
from benchmarks.common import Run, chosen, compose, count
from benchmarks.contenders import Polydiffusion
from benchmarks.contest import Budget, Entry, Figures, compare
from core.cli import with_options
from core.module import Optimisation

CONTENDERS: dict[str, list[str]] = {  # overrides of modality=audio
    "spectrogram": ROUTES["spectrograms"],
    "waveform": ROUTES["waveforms"],
    "mdct": ["codec=mdct", "network.bands=128"],
    "diffwave": [
        *("codec=affine", "codec.low=-1", "codec.high=1"),
        *("network=diffwave_sc09", "network.layers=30", "network.cycle=10", "network.conditions=???"),
        *("schedule=linear_beta", f"schedule.num_steps={STEPS}", "levels=discrete", f"levels.num_steps={STEPS}"),
        *("prediction=epsilon", f"prediction.num_steps={STEPS}", "weighting=epsilon"),
        *("sampler=ddpm", "times=uniform"),
        *("optimisation.lr=1e-3", "optimisation.warmup=5"),
    ],
}


@dataclass
class Options(Budget):
    contenders: str = ",".join(CONTENDERS)
    seconds: float = 300
    n: int = 100
    steps: int = 20
    batch: int = 8
    micro_batch: int = 25
    overrides: str = "data=fsdd"  # of all runs
    out: str = "benchmarks/out/audio_quality"


def main(options: Options) -> dict[str, Figures]:
    """Trains and measures the contenders; see `compare`."""
    names = chosen(options.contenders, CONTENDERS, "contenders")
    base = Run.of("modality=audio", *options.overrides.split())

    def enter(name: str) -> Entry:
        overrides = CONTENDERS[name]
        if name == "diffwave":
            peer = diffwave(count(base.denoiser), base.data.facts["conditions"])
            overrides = [*overrides, f"network.channels={peer.input.out_channels}"]
        run = Run.on(compose("modality=audio", *options.overrides.split(), *overrides), base.data)
        return Entry(Polydiffusion(run), run.codec, Optimisation(**run.config.optimisation))

    return compare(names, enter, base, options)


if __name__ == "__main__":
    with_options(Options, main)
