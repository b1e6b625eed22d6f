"""Sums of atoms as chemists write them: C7H10O2, and whether any molecule can have them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from core.errors import UserError
from modalities.molecules import bonds
from modalities.molecules.elements import symbol_of

TERM = re.compile(r"([A-Z][a-z]?)(\d{0,4})", re.ASCII)  # more of an element is no molecule to draw
VALENCES = {symbol_of(number): valence for number, valence in bonds.VALENCES.items()}
VALENCES |= {"B": 3, "Si": 4, "P": 3, "S": 2, "Cl": 1, "Br": 1, "I": 1}
HYPERVALENT = {"B", "P", "S", "Cl", "Br", "I"}  # they may bind more atoms, boron those that lend it both electrons


def parse(formula: str, elements: Sequence[str]) -> list[int]:
    """The place in `elements` of each atom, in their order.

    UserError for what is no formula, an element that the model does not know, and a formula of no neutral molecule
    whose atoms have their usual valences.
    """
    terms = TERM.findall(formula)
    if not formula or "".join(symbol + number for symbol, number in terms) != formula:
        raise UserError(f"formula={formula!r}: must be symbols with numbers, such as C7H10O2")
    counts: Counter[str] = Counter()
    for symbol, number in terms:
        if symbol not in elements:
            raise UserError(f"formula={formula}: unknown element {symbol}; this model knows {', '.join(elements)}")
        counts[symbol] += int(number or 1)
    _check(formula, counts)
    return [place for place, symbol in enumerate(elements) for _ in range(counts[symbol])]


def _check(formula: str, counts: Counter[str]) -> None:
    """A connected graph of n atoms has n - 1 bonds or more, and every bond takes two valences."""
    atoms = sum(counts.values())
    if atoms < 1:
        raise UserError(f"formula={formula}: must have at least one atom")
    if not counts.keys() <= VALENCES.keys():
        return  # metals and noble gases: nothing is known
    valences = sum(VALENCES[symbol] * count for symbol, count in counts.items())
    if valences % 2:
        raise UserError(f"formula={formula} is impossible: its {valences} valences are odd, and each bond takes two")
    if valences < 2 * (atoms - 1) and not counts.keys() & HYPERVALENT:
        raise UserError(
            f"formula={formula} is impossible: {valences // 2} bonds cannot hold {atoms} atoms together; "
            "it has too many hydrogens or halogens"
        )
