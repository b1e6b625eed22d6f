"""Molecules as a modality: how they are asked for, written, read, drawn and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core import random
from core.batch import Batch
from core.editable import EditRequest
from core.editing import Method, Search, Told
from core.errors import UserError
from core.metrics import Headline
from core.modality import GRID, Modality, each
from modalities.molecules import artefacts, drawing, editing, metrics, page
from modalities.molecules.codec import Atoms
from modalities.molecules.elements import check
from modalities.molecules.formula import parse
from modalities.molecules.molecule import molecules


class Molecules(Modality):
    """Atoms in space; decoded batches are (B, N, 3 + elements), angstrom and one-hot elements, with a mask (B, N, 1).

    elements:   symbols, in the order of the one-hot columns.
    sizes:      how many training molecules have n atoms, by n: what sizes samples have that are not asked for.
    properties: the mean and the standard deviation of each property that can be asked for, by its name.
    """

    name = "molecules"

    def __init__(
        self,
        elements: Sequence[str],
        sizes: Mapping[int, int] | None = None,
        properties: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if not elements:
            raise UserError("the elements are not set: modality.elements=[H,C,N,O,F], in the order of the columns")
        self.elements = check(elements)
        self.sizes = {int(n): int(count) for n, count in sorted(dict(sizes or {}).items())}
        self.properties = {name: tuple(values) for name, values in (properties or {}).items()}
        super().__init__((max(self.sizes, default=1), 3 + len(self.elements)))

    def template(self, n: int, cond: Mapping[str, object] | None = None) -> Batch:
        """Molecules to draw, in data units.

        cond: `n_atoms`, or `formula`, such as C7H10O2, whose elements are then known (`cond["keep"]`, see
        `composition`); and a number for each property that is wanted. Each is one for all, or a list of n. Sizes that
        are not given are quantiles of those of training molecules, in increasing order, so that molecules that are
        drawn together are about equally large; in a random order where a property has a list of values.
        """
        wanted = dict(cond or {})
        formula, n_atoms = wanted.pop("formula", None), wanted.pop("n_atoms", None)
        if formula is not None and n_atoms is not None:
            raise UserError(f"cond.formula={formula} has its own number of atoms: leave cond.n_atoms={n_atoms} out")
        properties = {name: self._values(name, value, n) for name, value in wanted.items()}
        if formula is not None:
            return self._of_formulas([str(text) for text in each("formula", formula, n)], properties)
        if n_atoms is not None:
            sizes = torch.tensor([self._size(value) for value in each("n_atoms", n_atoms, n)])
        else:
            sizes = self._usual_sizes(n)
            if any(len(set(value.tolist())) > 1 for value in properties.values()):
                sizes = sizes[random.permutation(0, 0, n)]
        return Batch(torch.zeros(n, int(sizes.max()), self.shape[1]), _mask(sizes), properties)

    def _values(self, name: str, value: object, n: int) -> Float[Tensor, " n"]:
        if name not in self.properties:
            known = ", ".join(["n_atoms", "formula", *self.properties])
            raise UserError(f"unknown condition {name}; this model's conditions: {known}")
        values = each(name, value, n)
        for one in values:
            if isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one):
                raise UserError(f"cond.{name}={one}: must be a number")
        return torch.tensor(values, dtype=torch.float32)

    def _size(self, value: object) -> int:
        if not self.sizes:
            raise UserError("this modality knows no sizes: they come from the training data")
        smallest, largest = min(self.sizes), max(self.sizes)
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
            raise UserError(f"n_atoms={value}: must be a whole number from {smallest} to {largest}, as in training")
        return value

    def _usual_sizes(self, n: int, least: int = 0) -> Int64[Tensor, " n"]:
        """Quantiles of the training molecules' sizes, of those of at least so many atoms."""
        sizes = {size: count for size, count in self.sizes.items() if size >= least}
        if not sizes:
            large = f" of {least} or more atoms" if self.sizes else ""
            raise UserError(f"this modality knows no sizes{large}: they come from the training data")
        counts = torch.tensor(list(sizes.values()), dtype=torch.float64)
        quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        places = torch.searchsorted(counts.cumsum(0) / counts.sum(), quantiles)
        return torch.tensor(list(sizes))[places.clamp(max=len(counts) - 1)]

    def _of_formulas(self, formulas: Sequence[str], properties: Mapping[str, Tensor]) -> Batch:
        atoms = {text: parse(text, self.elements) for text in set(formulas)}
        rows = [atoms[text] for text in formulas]
        sizes = torch.tensor([self._size_of(text, len(row)) for text, row in zip(formulas, rows, strict=True)])
        x = torch.zeros(len(rows), int(sizes.max()), self.shape[1])
        for number, row in enumerate(rows):
            x[number, torch.arange(len(row)), 3 + torch.tensor(row)] = 1
        mask = _mask(sizes)
        keep = mask.expand_as(x).clone()
        keep[..., :3] = 0
        return Batch(x, mask, {**properties, "keep": keep})

    def _size_of(self, formula: str, atoms: int) -> int:
        try:
            return self._size(atoms)
        except UserError as error:
            raise UserError(f"formula={formula} has {atoms} atoms: {error}") from None

    def known(self, request: EditRequest) -> Batch:
        """A molecule of a file, n times; keep: see `editing.WORDS`; grow.atoms: how many are drawn beside the kept."""
        if unknown := {"formula", "n_atoms"} & set(request.cond):
            raise UserError(f"cond.{min(unknown)}: the atoms of an edit are those of the file and grow.atoms")
        properties = {name: self._values(name, value, request.n) for name, value in request.cond.items()}
        return editing.known(request, self.elements, self._usual_sizes, self._size, properties)

    def method(self, codec: Atoms, network: nn.Module) -> Method:
        """Measured on scaffolds: see docs/editing.md."""
        return Told() if getattr(network, "kept", False) else Search(scale=codec.scales)

    def finished(self, edited: Batch, known: Batch) -> Batch:
        return editing.finished(edited, known)

    def show_edit(self, known: Batch, edited: Batch, path: Path) -> None:
        there = known.x[:1, :, 3:].sum(-1, keepdim=True)  # atoms to come have no element yet
        before = molecules(Batch(known.x[:1], known.mask[:1] * there), self.elements)[0]
        drawing.save_edit(before, _kept(known), molecules(edited, self.elements), path.with_suffix(".png"))

    def holding(self, denoiser: nn.Module, known: Batch, keep: Tensor) -> nn.Module | None:
        if bool(keep[..., :3].any()):  # atoms that have their places
            return None
        from modalities.molecules.composition import Composed  # SciPy takes a second

        return Composed(denoiser, known.x)

    def log_prior(self, batch: Batch) -> Float[Tensor, " b"]:
        """log p(N) of each molecule's number of atoms, by the training molecules'."""
        total = sum(self.sizes.values())
        found = batch.mask.sum(dim=(1, 2)).long().tolist()
        if missing := sorted(set(found) - self.sizes.keys()):
            raise UserError(f"molecules of {missing[0]} atoms have no likelihood: training had none")
        return torch.tensor([math.log(self.sizes[n] / total) for n in found])

    def write(self, batch: Batch, folder: Path | str, first: int) -> None:
        artefacts.write_files(molecules(batch, self.elements, first), Path(folder))

    def read(self, folder: Path | str) -> Batch:
        return artefacts.read(Path(folder), self.elements)

    def grid(self, batch: Batch, path: Path | str) -> None:
        drawing.save_grid(molecules(batch, self.elements), Path(path))

    def present(self, batch: Batch, folder: Path, real: Batch | None) -> None:
        found = molecules(batch, self.elements)
        artefacts.write_sdf(found, folder / artefacts.SDF)
        drawing.save_grid(found, folder / GRID, [] if real is None else molecules(real, self.elements))
        page.write_page(folder, found)

    def trajectory(self, moments: Sequence[Batch], folder: Path | str) -> None:
        folder = Path(folder)
        drawing.save_strip(moments, folder / "trajectory.png", self.elements)
        drawing.save_gif(moments, folder / "trajectory.gif", self.elements)

    def missing(self, n: int) -> str:
        return metrics.too_few(n)

    def metrics(
        self, samples: Batch, reference: Batch, training: Batch | None, floor: bool = False
    ) -> dict[str, float]:
        return metrics.evaluate(samples, reference, training, self.elements)

    def headlines(self, samples: Batch, reference: Batch) -> dict[str, Headline]:
        return metrics.headlines(samples, self.elements)


def _mask(sizes: Int64[Tensor, " n"]) -> Float[Tensor, "n longest 1"]:
    return (torch.arange(int(sizes.max())) < sizes[:, None]).float()[..., None]


def _kept(known: Batch) -> list[int]:
    """Which atoms of the first sample stay."""
    if "keep" not in known.cond:
        return []
    return known.cond["keep"][0, :, 0].nonzero().flatten().tolist()
