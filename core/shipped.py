"""The models that come with the project: folders `modalities/<modality>/models/<name>`, each taken for a checkpoint.

`models/default` has the name of the one that the modality itself stands for: `core.sample modality=audio`.
"""

from __future__ import annotations

from pathlib import Path

MODALITIES = Path(__file__).resolve().parent.parent / "modalities"
WEIGHTS, DEFAULT = "model.safetensors", "default"


def of_modality(name: str) -> list[Path]:
    """The folders of a modality's models, the one that it stands for first."""
    default = models().get(name)
    others = {folder for folder in models().values() if default is not None and folder.parent == default.parent}
    return [] if default is None else [default, *sorted(others - {default})]


def models() -> dict[str, Path]:
    """The folder of each shipped model, by its name and, of one of each modality, by the modality's."""
    found = {file.parent.name: file.parent for file in sorted(MODALITIES.glob(f"*/models/*/{WEIGHTS}"))}
    for file in sorted(MODALITIES.glob(f"*/models/{DEFAULT}")):
        found[file.parent.parent.name] = found[file.read_text(encoding="utf-8").strip()]
    return found
