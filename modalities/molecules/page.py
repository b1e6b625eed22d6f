"""One web page of turning molecules: it works offline, from the file alone, and loads nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from modalities.molecules import depiction, rendering
from modalities.molecules.artefacts import SDF, xyz_name
from modalities.molecules.elements import symbol_of
from modalities.molecules.molecule import VERDICTS, Molecule, spread

PAGE, TITLE = "index.html", "Samples"
MAX_MODELS = 200
FORMULA = (240, 110)  # pixels of a structural formula
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # browsers refuse all else


def write_page(folder: Path, found: Sequence[Molecule]) -> Path:
    """A turning ball-and-stick model of each of up to 200 molecules, evenly spaced over all; returns the page.

    Each has its structural formula, molecular formula, SMILES, conditions, and whether it is stable, valid and
    connected; the page shows all or the stable ones. It links to the XYZ files and samples.sdf that are in
    the folder by then.
    """
    shown = [found[k] for k in spread(len(found), MAX_MODELS)]
    cards = "".join(_card(molecule, folder) for molecule in shown)
    stable = sum(molecule.stable for molecule in shown)
    filters = (
        f'<button type="button" data-show="all" aria-pressed="true">All {len(shown)}</button>\n'
        f'<button type="button" data-show="stable" aria-pressed="false">Stable {stable}</button>\n'
        '<button type="button" id="turn">Pause</button>\n'
    )
    link = f'<a href="{SDF}" download>{SDF}</a>\n' if (folder / SDF).exists() else ""
    path = folder / PAGE
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{TITLE}</h1>\n<p>{_about(found, shown)}</p>\n<nav>\n{filters}{link}</nav>\n</header>\n"
        f'<main>\n{cards}</main>\n<script type="application/json" id="data">{_data(shown)}</script>\n'
        f"<script>\n{_file('viewer.js')}</script>\n</body>\n</html>\n",
        encoding="utf-8",
    )
    return path


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _about(found: Sequence[Molecule], shown: Sequence[Molecule]) -> str:
    """What there is, in a sentence."""
    shares = [
        f"{100 * sum(getattr(molecule, name) for molecule in found) / len(found):.1f}% {name}" for name in VERDICTS
    ]
    some = f"; {len(shown)} of them, evenly spaced, are shown" if len(shown) < len(found) else ""
    return f"{len(found):,} molecules: {', '.join(shares)}{some}. Drag to turn, click to enlarge."


def _card(molecule: Molecule, folder: Path) -> str:
    file = xyz_name(molecule.index)
    formula = re.sub(r"(\d+)", r"<sub>\1</sub>", escape(molecule.formula))
    label = f'<a href="{file}" download>{file}</a>' if (folder / file).exists() else f"{molecule.index:05d}"
    badges = "".join(f'<span class="{"yes" if getattr(molecule, name) else "no"}">{name}</span>' for name in VERDICTS)
    known = ", ".join(f"{key} {value:.4g}" for key, value in molecule.properties.items())
    about = f"<small>{escape(known)}</small>" if known else ""
    smiles = f"<code>{escape(depiction.smiles(molecule))}</code>" if molecule.valid else ""
    return (
        f'<figure class="{"stable" if molecule.stable else "unstable"}">\n'
        f'<canvas role="img" aria-label="Ball-and-stick model of {escape(molecule.formula)}"></canvas>\n'
        f"{depiction.svg(molecule, FORMULA)}\n"
        f'<figcaption>\n<div class="line"><strong>{formula}</strong><small>{label}</small></div>\n'
        f'<div class="badges">{badges}</div>\n{about}{smiles}\n</figcaption>\n</figure>\n'
    )


def _data(shown: Sequence[Molecule]) -> str:
    """What the viewer draws, as JSON without a character that could end its element."""
    kinds = {symbol_of(number): number for number in sorted({n for m in shown for n in m.numbers.tolist()})}
    data = {
        "colors": {symbol: rendering.COLORS.get(symbol, rendering.OTHER) for symbol in kinds},
        "radii": {symbol: round(rendering.radius(number), 3) for symbol, number in kinds.items()},
        "stick": rendering.STICK,
        "apart": rendering.APART,
        "molecules": [_model(molecule) for molecule in shown],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _model(molecule: Molecule) -> dict[str, object]:
    seen = molecule.positions @ rendering.facing(molecule.positions).T
    places = (seen - seen.mean(0)).round(3)
    return {"symbols": molecule.symbols, "places": places.tolist(), "bonds": molecule.bonds}
