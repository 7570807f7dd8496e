"""Cells that say yes or no: whether a label applies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

FLAGS = {
    **dict.fromkeys(("0", "0.0", "0,0", "false", "no"), 0),
    **dict.fromkeys(("1", "1.0", "1,0", "true", "yes"), 1),
}


def flag(cell: Any) -> int | None:
    """0 or 1; None if the cell says neither. Booleans and numbers count, and yes and no."""
    return FLAGS.get(str(cell).strip().lower())


def are_flags(columns: Iterable[Sequence[Any]]) -> bool:
    """Whether all cells of a column, of all tables, are 0 or 1; cells of tables that lack it are not asked."""
    try:
        found = {cell for cells in columns for cell in set(cells)}
    except TypeError:
        return False  # lists
    return bool(found) and all(flag(cell) is not None for cell in found)
