"""Columns as they are in a file: what they mean is found out in :mod:`optimizer.data.columns`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Columns of equal length; a cell is a string, or what JSON or Parquet have there."""

    name: str
    """For messages: the file, or the hub data set and its split."""
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    """Where each row is in the file, counted from 1."""
    notes: tuple[str, ...] = ()
    """What was left out when it was read."""
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The names of the classes in their own order, of columns for which the file says it."""

    def where(self, row: int) -> str:
        """File and line of a row, for messages."""
        return f"{self.name}, line {self.lines[row]}"
