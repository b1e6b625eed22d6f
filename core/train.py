"""python -m core.train modality=image [key=value ...]: trains a model, and ends with samples and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import cli

if TYPE_CHECKING:
    from omegaconf import DictConfig


def train(config: DictConfig) -> None:
    # torch and Lightning take seconds to load: only after the first line
    if config.replay:
        from core.replay import replay

        replay(config)
    else:
        from core.fit import fit
        from core.resume import begun

        if config.resume == "auto":
            config.resume = begun(config.out)
        fit(config)


if __name__ == "__main__":
    cli.run("train", train)
