"""A molecule as a sample to edit: which of its atoms stay, and how many are drawn around them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.batch import Batch
from core.editable import EditRequest
from core.errors import UserError, reason_of
from core.modality import each
from modalities.molecules.artefacts import READERS, atoms_of, check_elements, records
from modalities.molecules.reading import Record, bounded

Usual = Callable[[int, int], Tensor]  # (n, least) -> (n,) sizes
WORDS = "atoms and their numbers from 0, such as atoms 0-5,8; heavy; or smarts and a pattern, such as smarts c1ccccc1"


def read(path: Path, elements: Sequence[str]) -> Record:
    """The first molecule of an SDF, XYZ or SMILES file, hydrogens as the file has them (SMILES: all of them)."""
    if not path.is_file():
        raise UserError(f"{path} is no file")
    suffix = path.suffix.lower()
    if suffix in READERS:
        return records(path, elements)[0]
    if suffix not in (".smi", ".smiles"):
        raise UserError(f"{path}: a molecule is read from {', '.join(READERS)}, .smi or .smiles")
    from modalities.molecules.embedding import embed_all, read_list

    with path.open(encoding="utf-8", errors="replace") as file:
        entry = next(iter(embed_all(read_list(bounded(file)))), None)
    if entry is None or not isinstance(entry[1], Record):
        raise UserError(f"{path}: {entry[1] if entry else 'is empty: it must hold a molecule'}")
    check_elements(entry[1], elements, str(path))
    return entry[1]


def known(
    request: EditRequest,
    elements: Sequence[str],
    usual: Usual,
    size_of: Callable[[object], int],
    properties: Mapping[str, Tensor],
) -> Batch:
    """The file n times, in data units: as it is, or its kept atoms first and then those that are to be drawn.

    usual: n sizes like those of training molecules, from a least one on, for grow.atoms=auto. size_of: refuses sizes
    that training had not.
    """
    record = read(request.input, elements)
    if request.mask is not None:
        raise UserError(f"mask={request.mask}: what stays of a molecule is said in words: keep={WORDS}")
    if unknown := sorted(set(request.grow) - {"atoms"}):
        raise UserError(f"grow.{unknown[0]}: a molecule grows by grow.atoms")
    grown, total = request.grow.get("atoms"), len(record.numbers)
    keep = list(range(total)) if request.keep is None else kept_atoms(request.keep, record)
    if grown is None:
        rows, counts = list(range(total)), [total] * request.n
    else:
        rows, counts = keep, _grown(grown, request.n, len(keep), usual)
    if request.keep is not None and grown is None and len(keep) == total:
        raise UserError(f"keep={request.keep}: all {total} atoms stay: there is nothing to draw")
    counts = [size_of(count) for count in counts]
    x = torch.zeros(request.n, max(counts), 3 + len(elements))
    x[:, : len(rows)] = atoms_of(record, elements)[rows]
    mask = (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).float()[..., None]
    cond = dict(properties)
    if request.keep is not None or grown is not None:
        stays = torch.zeros_like(mask)
        stays[:, [rows.index(atom) for atom in keep]] = 1
        cond["keep"] = stays
    return Batch(x, mask, cond)


def kept_atoms(words: str, record: Record) -> list[int]:
    """The atoms that `keep=` names, in the order of the file."""
    kind, _, rest = words.strip().partition(" ")
    total = len(record.numbers)
    if kind == "heavy" and not rest:
        found = [atom for atom, number in enumerate(record.numbers.tolist()) if number > 1]
    elif kind == "smarts" and rest:
        found = _matching(rest.strip(), record)
    elif kind == "atoms" and re.fullmatch(r"\s*\d+(-\d+)?(\s*,\s*\d+(-\d+)?)*\s*", rest):
        spans = [[int(end) for end in span.split("-")] for span in rest.replace(" ", "").split(",")]
        for span in spans:
            if span[-1] < span[0] or span[-1] >= total:
                text = "-".join(map(str, span))
                raise UserError(f"keep={words}: {text}: the file has the atoms 0 to {total - 1}")
        found = sorted({atom for span in spans for atom in range(span[0], span[-1] + 1)})
    else:
        raise UserError(f"keep={words}: what stays of a molecule is {WORDS}")
    if not found:
        raise UserError(f"keep={words}: no atom of the molecule is among them")
    return found


def _matching(smarts: str, record: Record) -> list[int]:
    """The atoms of the pattern's first match, by the bonds that their distances imply."""
    from rdkit import Chem, rdBase

    from modalities.molecules.chemistry import sanitised
    from modalities.molecules.molecule import Molecule

    with rdBase.BlockLogs():
        pattern = Chem.MolFromSmarts(smarts)
        if pattern is None:
            raise UserError(f"keep=smarts {smarts}: RDKit cannot read this pattern")
        bare = Molecule(0, record.positions, record.numbers, {}).mol
        mol = sanitised(bare) or bare
        try:
            match = mol.GetSubstructMatch(pattern)
        except RuntimeError as error:  # a pattern of rings, of a molecule that could not be sanitised
            raise UserError(f"keep=smarts {smarts}: {reason_of(error)}") from error
    if not match:
        raise UserError(f"keep=smarts {smarts}: the molecule has no such part")
    return sorted(match)


def _grown(wanted: object, n: int, kept: int, usual: Usual) -> list[int]:
    """How many atoms each sample has: the kept ones and so many more; auto: sizes as training molecules have."""
    if wanted == "auto":
        return usual(n, kept + 1).tolist()
    more = each("grow.atoms", wanted, n)
    for one in more:
        if isinstance(one, bool) or not isinstance(one, int) or one < 1:
            raise UserError(f"grow.atoms={one}: must be a whole number of at least 1, a list of them, or auto")
    return [kept + one for one in more if isinstance(one, int)]


def finished(edited: Batch, known: Batch) -> Batch:
    """The edited molecules in the file's frame: the kept atoms lie where they were, in every digit."""
    keep, x = known.cond["keep"].to(edited.x), edited.x
    off = ((known.x - x)[..., :3] * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True)
    moved = torch.cat([x[..., :3] + off * edited.mask, x[..., 3:]], dim=-1)
    return edited.with_x(torch.where(keep > 0, known.x.to(x), moved))
