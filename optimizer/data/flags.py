"""Cells that say yes or no: whether a label applies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from optimizer.data.names import fold

FLAGS = {
    **dict.fromkeys(("0", "0.0", "0,0", "false", "no"), 0),
    **dict.fromkeys(("1", "1.0", "1,0", "true", "yes"), 1),
}


def flag(cell: Any) -> int | None:
    """0 or 1; None if the cell says neither. Booleans and numbers count, and yes and no."""
    return FLAGS.get(str(cell).strip().lower())


SECRET = ("-1", "-1.0")
"""What competitions write for a label that is kept secret."""


def is_secret(cell: Any) -> bool:
    """Whether a cell says that there is a label which nobody may know."""
    return str(cell).strip() in SECRET


def are_flags(name: str, columns: Iterable[Sequence[Any]]) -> bool:
    """Whether all cells of a column, of all tables, are 0 or 1, secret ones and headers in between apart."""
    try:
        found = {cell for cells in columns for cell in set(cells)}
    except TypeError:
        return False  # lists
    bits = [flag(cell) for cell in found if not is_secret(cell) and fold(cell) != fold(name)]
    return bool(bits) and None not in bits
