"""What every set of molecules shares: atoms one after another in memory-mapped files, batches padded to their largest.

A data set is cached once as `positions.npy` (atoms, 3) float32 in angstrom, `species.npy` (atoms,) uint8, the place of
each atom's element in `elements`, `size.npy` (molecules,), one `property_<name>.npy` float32 for each property, and
the rows of each split, in a folder that appears under its final name only when it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from core.batch import Batch
from core.errors import UserError
from core.folders import describe_skipped
from core.shards import Resident, Shards
from core.splits import SPLITS
from modalities.molecules.elements import check
from modalities.molecules.fragments import fragments

HALVES = ("first", "second")


class MoleculeSource:
    """One split: molecules padded to the largest of the batch.

    positions, species: of all atoms, one molecule after another; starts, sizes: of this split's molecules in them.
    """

    def __init__(
        self,
        positions: Float32[np.ndarray, "atoms 3"] | Shards,
        species: UInt8[np.ndarray, " atoms"] | Shards,
        starts: Int64[np.ndarray, " n"],
        sizes: Int64[np.ndarray, " n"],
        cond: Mapping[str, Float32[np.ndarray, " n"]],
        elements: int,
    ) -> None:
        self.positions, self.species, self.starts, self.sizes = positions, species, starts, sizes
        self.cond, self.elements = dict(cond), elements

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, indices: Sequence[int]) -> Batch:
        """x (B, N, 3 + elements): positions in angstrom, then one-hot elements; mask (B, N, 1)."""
        rows = np.asarray(indices, dtype=np.int64)
        starts, sizes = self.starts[rows], self.sizes[rows]
        real = np.arange(int(sizes.max(initial=1))) < sizes[:, None]
        atoms = (starts[:, None] + np.arange(real.shape[1]))[real]
        x = np.zeros((*real.shape, 3 + self.elements), dtype=np.float32)
        values = np.zeros((len(atoms), 3 + self.elements), dtype=np.float32)
        values[:, :3] = self.positions[atoms]
        values[np.arange(len(atoms)), 3 + self.species[atoms].astype(np.int64)] = 1
        x[real] = values
        cond = {name: torch.from_numpy(value[rows]) for name, value in self.cond.items()}
        return Batch(torch.from_numpy(x), torch.from_numpy(real[..., None].astype(np.float32)), cond)


class MoleculeData:
    """A cached data set of molecules: the sources `train`, `val` and `test`.

    properties: which of the set's properties are conditions; [] for a model without them.
    half:       "first" or "second": a random half of the training molecules alone, so that a generator and a judge of
                properties have seen different ones; None for all.
    rotate:     whether training turns each molecule at random, for networks that are not equivariant.
    kept:       the share of training molecules of which a part stays without noise, so that the network learns to draw
                the rest of a known part: `cond["keep"]`, see `fragments`.

    facts: `elements` (symbols), `sizes` (how many training molecules have n atoms, by n), `scale` (the standard
           deviation of centred positions, angstrom), `properties` (mean and deviation of each condition in training),
           `kept` (whether parts of training molecules are).
    """

    def __init__(
        self,
        name: str,
        cache: Path,
        properties: Sequence[str] = (),
        half: str | None = None,
        rotate: bool = False,
        kept: float = 0.0,
    ) -> None:
        if not 0 <= kept <= 1:
            raise UserError(f"data.kept={kept}: must lie in [0, 1]")
        if half is not None and half not in HALVES:
            raise UserError(f"data.half={half}: must be first, second or null")
        self.name, self.rotate, self.kept = name, rotate, kept
        self.classes: list[str] = []
        about = json.loads((cache / "about.json").read_text())
        self.elements, self.skipped = check(about["elements"]), about["skipped"]
        if unknown := sorted(set(properties) - set(about["properties"])):
            known = ", ".join(about["properties"]) or "none"
            raise UserError(f"data.properties: unknown {', '.join(unknown)}; {name} has {known}")
        resident = Resident()
        positions, species = (Shards.of([cache / f"{what}.npy"], resident) for what in ("positions", "species"))
        sizes = np.load(cache / "size.npy")
        starts = np.cumsum(sizes) - sizes
        values = {key: np.load(cache / f"property_{key}.npy") for key in properties}

        def source(split: str) -> MoleculeSource:
            rows = np.load(cache / f"{split}.npy")
            if split == "train" and half is not None:
                # shuffled: every other row of an order that is stratified would be no random half
                shuffled = np.random.default_rng(0).permutation(len(rows))
                rows = rows[np.sort(shuffled[HALVES.index(half) :: 2])]
            cond = {key: value[rows] for key, value in values.items()}
            return MoleculeSource(positions, species, starts[rows], sizes[rows], cond, len(self.elements))

        self.train, self.val, self.test = map(source, SPLITS)
        found, counts = np.unique(self.train.sizes, return_counts=True)
        self.facts: dict[str, object] = {
            "elements": self.elements,
            "scale": about["spread"],
            "sizes": dict(zip(found.tolist(), counts.tolist(), strict=True)),
            "properties": {key: [float(v.mean()), float(v.std())] for key, v in self.train.cond.items()},
            "kept": kept > 0,
        }

    def augment(self, batch: Batch, u: Float[Tensor, "b 8"]) -> Batch:
        """Each molecule turned by a rotation drawn uniformly from all, if `rotate`; a part marked in a share `kept`."""
        if self.rotate:
            turned = batch.x[..., :3] @ rotations(u[:, :3]).to(batch.x)
            batch = batch.with_x(torch.cat([turned, batch.x[..., 3:]], dim=-1))
        if self.kept:
            hydrogen = [3 + self.elements.index("H")] if "H" in self.elements else []
            heavy = batch.mask - batch.x[..., hydrogen].sum(-1, keepdim=True)
            keep = fragments(batch.x[..., :3], heavy, batch.mask, u[:, 3:7]) * (u[:, 7] < self.kept)[:, None, None]
            batch = Batch(batch.x, batch.mask, {**batch.cond, "keep": keep})
        return batch

    def describe(self) -> str:
        """One line for the start-up summary."""
        counts = f"{len(self.train):,} training, {len(self.val):,} validation and {len(self.test):,} test molecules"
        sizes = self.train.sizes
        atoms = f"of {sizes.min()} to {sizes.max()} atoms, {', '.join(self.elements)}"
        known = f", conditions {', '.join(self.train.cond)}" if self.train.cond else ""
        return f"{self.name}: {counts} {atoms}{known}{describe_skipped(self.skipped, 'records')}"


def rotations(u: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Rotation matrices, uniform over all for uniform u: unit quaternions as Shoemake (1992) draws them."""
    a, b = (1 - u[:, 0]).sqrt(), u[:, 0].sqrt()
    first, second = 2 * torch.pi * u[:, 1], 2 * torch.pi * u[:, 2]
    x, y, z, w = a * first.sin(), a * first.cos(), b * second.sin(), b * second.cos()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def write_cache(
    folder: Path,
    elements: Sequence[str],
    positions: Float32[np.ndarray, "atoms 3"],
    species: UInt8[np.ndarray, " atoms"],
    sizes: Int64[np.ndarray, " molecules"],
    properties: Mapping[str, Float32[np.ndarray, " molecules"]],
    rows: Mapping[str, Int64[np.ndarray, " _"]],
    skipped: Sequence[str] = (),
) -> None:
    """Fills a cache. rows: of each split, in its order. UserError if a split is empty or a property is no number."""
    for split in SPLITS:
        if not len(rows[split]):
            reason = f"; skipped {len(skipped):,} records, such as {skipped[0]}" if skipped else ""
            raise UserError(f"{len(sizes)} usable molecules are too few: none is left for the {split} split{reason}")
        np.save(folder / f"{split}.npy", rows[split].astype(np.int64))
    np.save(folder / "positions.npy", positions.astype(np.float32))
    np.save(folder / "species.npy", species.astype(np.uint8))
    np.save(folder / "size.npy", sizes.astype(np.int64))
    for name, values in properties.items():
        if not np.isfinite(values).all():
            raise UserError(f"the property {name} of molecule {np.argmin(np.isfinite(values)) + 1} is no finite number")
        np.save(folder / f"property_{name}.npy", values.astype(np.float32))
    about = {"elements": list(elements), "properties": list(properties), "skipped": list(skipped)}
    about["spread"] = round(_spread(positions, sizes), 2)
    (folder / "about.json").write_text(json.dumps(about))


def _spread(positions: Float32[np.ndarray, "atoms 3"], sizes: Int64[np.ndarray, " molecules"]) -> float:
    """The standard deviation of the positions about their molecules' centres, in angstrom."""
    starts = np.cumsum(sizes) - sizes
    centres = np.add.reduceat(positions.astype(np.float64), starts) / sizes[:, None]
    return float(np.sqrt(np.mean((positions - np.repeat(centres, sizes, axis=0)) ** 2)))
