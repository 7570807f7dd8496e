"""What the label cells mean: the task, the labels, and which of them each row has."""

from __future__ import annotations

from collections.abc import Mapping

from bantam.errors import DataError
from optimizer.data.cells import Cell, name, number
from optimizer.data.columns import Roles
from optimizer.data.dataset import Columns
from optimizer.data.label_column import LabelColumn, Labels, Seen, in_order
from optimizer.data.label_lists import read_flags, read_lists
from optimizer.data.rows import RawRows
from optimizer.data.separators import find_separator, is_decimal_comma, odd_cell, parts_of

MANY_NUMBERS = 10
"""Whole numbers of more values than this may be a quantity."""


def read_labels(parts: Mapping[str, RawRows], roles: Roles, columns: Columns) -> Labels:
    """The labels of the rows; without label columns there are none.

    Raises :class:`DataError` if a cell is no label, the cells are of several kinds, or a row has none where it needs
    one.
    """
    if not roles.label_columns:
        note = (
            "No row has a label: a trained classifier can be compared with itself on these texts, none can be trained."
        )
        return Labels("unlabelled", rows={part: [()] * len(rows.cells) for part, rows in parts.items()}, notes=(note,))
    if roles.label is None:
        return read_flags(parts, roles.labels, columns)
    column = LabelColumn(roles.label, parts)
    if not column.full:
        raise DataError(f"The label column {roles.label!r} is empty. --label-column names another; '' says: no labels.")
    if columns.task != "regression" and all(isinstance(seen.cell, tuple) for seen in column.full):
        return read_lists(column, columns)
    _refuse_mixed(column)
    if columns.task == "regression" or _fractions(column, columns):
        return _regression(column)
    return _names(column, columns)


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


def _fractions(column: LabelColumn, columns: Columns) -> bool:
    """Whether the cells are numbers with fractions; names among many such numbers are refused."""
    if columns.task is not None or columns.separator:
        return False
    numbers = [(number(seen.cell), seen) for seen in column.full]
    known = [value for value, _ in numbers if value is not None]
    if not any(not value.is_integer() for value in known):
        return False
    if any(isinstance(s.cell, str) and "," in s.cell for s in column.full) and not is_decimal_comma(_counts(column)):
        return False
    odd = next((seen for value, seen in numbers if value is None), None)
    if odd is None:
        return True
    if len(known) > len(numbers) / 2 and len(known) > MANY_NUMBERS:
        raise DataError(
            f"{odd.where}: the label is {odd.cell!r}, and most others are numbers. Remove the row, or say "
            "--task single_label if each number is a class."
        )
    return False


def _counts(column: LabelColumn) -> dict[str, int]:
    counts: dict[str, int] = {}
    for seen in column.full:
        counts[str(seen.cell)] = counts.get(str(seen.cell), 0) + seen.count
    return counts


def _regression(column: LabelColumn) -> Labels:
    for seen in column.full:
        value = number(seen.cell)
        if value is None or value in (float("inf"), float("-inf")):
            raise DataError(f"{seen.where}: {column.label!r} is {str(seen.cell)[:60]!r}, expected a number.")
    column.refuse_empty()
    values = column.rows(lambda cell: number(cell) or 0.0)
    note = f"{column.label!r} is a number to be predicted (regression); --task single_label reads classes instead."
    return Labels("regression", (column.label,), values=values, notes=(note,))


def _names(column: LabelColumn, columns: Columns) -> Labels:
    """One name a cell, or several with a separator."""
    counts = _counts(column)
    decimal = is_decimal_comma(counts) and not columns.separator
    if decimal or all(number(seen.cell) is not None and "," not in str(seen.cell) for seen in column.full):
        made: dict[str, list[tuple[str, ...]]] = column.rows(_one_number)
        names = in_order(made)
        more = len(names) > MANY_NUMBERS and columns.task is None
        notes = (
            [f"{len(names)} whole numbers are read as classes; --task regression predicts a number."] if more else []
        )
    else:
        separator = _separator(column, counts, columns)
        if separator:
            made = column.rows(lambda cell: parts_of(str(cell), separator) if cell is not None else ())
            note = f"Several labels a row, separated by {separator!r}; --separator '' reads each cell as one label."
            return Labels("multi_label", in_order(made), made, notes=(note,))
        made = column.rows(lambda cell: () if cell is None else (name(cell),))
        names = in_order(made)
        notes = _look_alike(column, counts, columns)
    if columns.task == "multi_label":
        return Labels("multi_label", names, made, notes=tuple(notes))
    column.refuse_empty()
    return Labels("single_label", names, made, notes=tuple(notes))


def _one_number(cell: Cell) -> tuple[str, ...]:
    value = number(cell)
    return () if value is None else (name(value),)


def _separator(column: LabelColumn, counts: Mapping[str, int], columns: Columns) -> str | None:
    if columns.separator is not None:
        if columns.separator and not any(columns.separator in cell for cell in counts):
            example = next(iter(counts))
            raise DataError(
                f"The separator {columns.separator!r} is in no cell of the column {column.label!r}, "
                f"for example {example[:60]!r}."
            )
        return columns.separator
    return None if columns.task == "single_label" else find_separator(counts, sure=columns.task == "multi_label")


def _look_alike(column: LabelColumn, counts: Mapping[str, int], columns: Columns) -> list[str]:
    """Refuse a cell that is another one with a separator at its end; name labels that differ in case alone."""
    if columns.separator is None and (odd := odd_cell(counts)):
        seen = next(seen for seen in column.full if str(seen.cell) == odd)
        raise DataError(
            f"{seen.where}: the label is {odd!r}, and others are {odd.strip(' ,;|')!r}. Mend the cell; or say "
            "--separator '' if it is a class of its own."
        )
    by_case: dict[str, list[str]] = {}
    for label in counts:
        by_case.setdefault(label.casefold(), []).append(label)
    alike = [" and ".join(map(repr, sorted(same))) for same in by_case.values() if len(same) > 1]
    return [f"Labels that differ in case alone are different labels: {'; '.join(alike[:3])}."] if alike else []
