"""The chemical elements of a data set: their symbols, their numbers, and which one stands in each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.errors import UserError

# fmt: off
_SYMBOLS = [  # in the order of their atomic numbers
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr",
    "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe",
    "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf",
    "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn",
]
# fmt: on
HEAVIEST = len(_SYMBOLS)  # the last atomic number that is known, radon's
_NUMBERS = {symbol: number for number, symbol in enumerate(_SYMBOLS, start=1)}


def atomic_numbers(symbols: Sequence[str]) -> list[int]:
    """UserError names a symbol that is no element (up to radon)."""
    for symbol in symbols:
        if symbol not in _NUMBERS:
            raise UserError(f"unknown element {symbol!r}: must be a chemical symbol, such as H, C or Cl")
    return [_NUMBERS[symbol] for symbol in symbols]


def symbol_of(number: int) -> str:
    """The symbol of an atomic number, 1 to 86."""
    return _SYMBOLS[number - 1]


def check(symbols: Sequence[str]) -> list[str]:
    """The symbols, at least one, all different. UserError otherwise."""
    atomic_numbers(symbols)
    if not symbols or len(set(symbols)) < len(symbols):
        raise UserError(f"elements={list(symbols)}: must be at least one symbol, each once")
    return list(symbols)


def numbers(x: Float[Tensor, "b n c"], mask: Float[Tensor, "b n 1"], elements: Sequence[str]) -> Int64[Tensor, "b n"]:
    """The atomic number of each row of x = (position, scores of the elements), 0 in the padding."""
    if x.shape[-1] != 3 + len(elements):
        raise UserError(f"atoms have {x.shape[-1] - 3} element columns, but there are {len(elements)} elements")
    table = torch.tensor(atomic_numbers(elements), device=x.device)
    return table[x[..., 3:].argmax(-1)] * (mask[..., 0] > 0)
