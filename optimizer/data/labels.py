"""What the label cells mean: the task, the labels, and which of them each row has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bantam.errors import DataError
from optimizer.data.cells import BRACKETS, number
from optimizer.data.columns import Roles
from optimizer.data.dataset import Columns
from optimizer.data.label_column import LabelColumn, Labels, Seen
from optimizer.data.label_lists import read_flags, read_lists
from optimizer.data.label_names import read_names
from optimizer.data.label_numbers import read_numbers
from optimizer.data.rows import RawRows


def read_labels(parts: Mapping[str, RawRows], roles: Roles, columns: Columns) -> Labels:
    """The labels of the rows; without label columns there are none.

    Raises :class:`DataError` if a cell is no label, the cells are of several kinds, or a row has none where it needs
    one.
    """
    if not roles.label_columns:
        note = "No row has a label: quality is agreement with the model as it is, which must be a trained classifier."
        return Labels("unlabelled", rows={part: [()] * len(rows.cells) for part, rows in parts.items()}, notes=(note,))
    if roles.label is None:
        return read_flags(parts, roles.labels, columns)
    return _in_own_order(_of_column(LabelColumn(roles.label, parts), columns), parts, roles.label)


def _of_column(column: LabelColumn, columns: Columns) -> Labels:
    if not column.full:
        raise DataError(
            f"The label column {column.label!r} is empty. --label-column names another; '' says: no labels."
        )
    if columns.task != "regression" and _are_lists(column):
        return read_lists(column, columns)
    _refuse_mixed(column)
    return read_numbers(column, columns) or read_names(column, columns)


def _in_own_order(labels: Labels, parts: Mapping[str, RawRows], column: str) -> Labels:
    """The labels in the order in which the file itself numbers its classes, where it does.

    A classifier that names none (``LABEL_0`` ...) was trained with these numbers.
    """
    for table in (table for rows in parts.values() for table in rows.tables):
        own = table.classes.get(column, ())
        if labels.names and {*labels.names} <= {*own}:
            return replace(labels, names=tuple(label for label in own if label in labels.names), classes=tuple(own))
    return labels


def _are_lists(column: LabelColumn) -> bool:
    """Whether the cells are lists; a name among them is a list of one, unless it looks like a list that is broken."""
    cells = [seen.cell for seen in column.full]
    names = [cell for cell in cells if isinstance(cell, str) and cell[:1] + cell[-1:] not in BRACKETS]
    lists = [cell for cell in cells if isinstance(cell, tuple)]
    return bool(lists) and len(lists) + len(names) == len(cells)


def _refuse_mixed(column: LabelColumn) -> None:
    """Numbers may be written as text; anything else is all of one kind."""
    kinds: dict[str, Seen] = {}
    for seen in column.full:
        numeric = number(seen.cell) is not None
        kind = "list" if isinstance(seen.cell, tuple) else type(seen.cell).__name__
        kinds.setdefault("number" if numeric else kind, seen)
    text = {"str", "number"} if all(isinstance(s.cell, str) for s in column.full) else {"number"}
    if len(kinds) > 1 and not set(kinds) <= text:
        examples = "; ".join(f"{seen.where}: {repr(seen.cell)[:60]} ({kind})" for kind, seen in kinds.items())
        raise DataError(f"The label column {column.label!r} mixes types. {examples}.\nWrite all of them the same way.")
