"""A label column: its cells, each different one cleaned once, and what is read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bantam.errors import DataError
from optimizer.data.cells import Cell, NotALabelError, clean
from optimizer.data.dataset import Columns
from optimizer.data.rows import RawRows

MANY = 20
"""Fewer labels than this may be as many as there are rows."""


@dataclass(frozen=True)
class Labels:
    """The labels of a data set, and of each row of each split."""

    task: str
    names: tuple[str, ...] = ()
    rows: Mapping[str, Sequence[tuple[str, ...]]] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """regression: a number a row, instead of ``rows``."""
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """All classes that the file itself numbers, in its order: some may have no row."""


@dataclass
class Seen:
    """A label cell, cleaned: how many rows have it, and where the first one is."""

    cell: Cell
    where: str
    count: int = 0


class LabelColumn:
    """The cells of a label column in all splits: each different one is cleaned once."""

    def __init__(self, label: str, parts: Mapping[str, RawRows]) -> None:
        """Raises :class:`DataError` for a cell that can be no label."""
        self.label = label
        self.parts = parts
        self._seen: dict[Any, Seen] = {}
        self._of: dict[str, list[Seen]] = {
            part: [self._look(cell, rows, i) for i, cell in enumerate(rows.cells)] for part, rows in parts.items()
        }

    def _look(self, cell: Any, rows: RawRows, i: int) -> Seen:
        # 1, 1.0 and True are one key of a dictionary.
        key = (type(cell), repr(cell) if isinstance(cell, (list, dict)) else cell)
        try:
            seen = self._seen.get(key)
        except TypeError as exc:
            raise _no_label(cell, rows.where(i)) from exc
        if seen is None:
            try:
                seen = self._seen[key] = Seen(clean(cell), rows.where(i))
            except NotALabelError as exc:
                raise _no_label(cell, rows.where(i)) from exc
        seen.count += 1
        return seen

    @property
    def full(self) -> list[Seen]:
        """The different cells that are not empty."""
        return [seen for seen in self._seen.values() if seen.cell is not None]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each different cell, as text."""
        counts: dict[str, int] = {}
        for seen in self.full:
            counts[str(seen.cell)] = counts.get(str(seen.cell), 0) + seen.count
        return counts

    def rows(self, read: Callable[[Cell], Any]) -> dict[str, list[Any]]:
        """What ``read`` makes of each row's cell, by split; asked once for each different cell."""
        made = {id(seen): read(seen.cell) for seen in self._seen.values()}
        return {part: [made[id(seen)] for seen in found] for part, found in self._of.items()}

    def refuse_empty(self) -> None:
        """Raise :class:`DataError` if a row has no label."""
        for part, found in self._of.items():
            bare = [i for i, seen in enumerate(found) if seen.cell is None]
            if bare:
                rows = self.parts[part]
                shown = "; ".join(rows.where(i) for i in bare[:3]) + ("; ..." if len(bare) > 3 else "")
                raise DataError(f"{len(bare):,} rows have no {self.label!r}: {shown}. Label or remove them.")


def _no_label(cell: Any, where: str) -> DataError:
    return DataError(
        f"{where}: the label is {repr(cell)[:60]}, expected a name, a number or a list of them; --label-column names "
        "another column."
    )


def in_order(made: Mapping[str, Sequence[tuple[str, ...]]]) -> tuple[str, ...]:
    """All labels: by name; by value if all are numbers."""
    labels = {label for rows in made.values() for row in rows for label in row}
    try:
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(labels))


def one_label(
    column: LabelColumn, made: Mapping[str, Sequence[tuple[str, ...]]], columns: Columns, notes: Sequence[str]
) -> Labels:
    """Rows with one label each; with --task multi_label at most one.

    Raises :class:`DataError` if a row has none, or nearly each row has one of its own.
    """
    names = in_order(made)
    if columns.task == "multi_label":
        return Labels("multi_label", names, made, notes=tuple(notes))
    column.refuse_empty()
    rows = sum(map(len, made.values()))
    if len(names) > MANY and len(names) > rows / 2:
        raise DataError(
            f"{len(names):,} labels for {rows:,} rows, such as {names[0][:60]!r}. Is {column.label!r} the one? "
            "--label-column names another; --task regression predicts a number."
        )
    return Labels("single_label", names, made, notes=tuple(notes))
