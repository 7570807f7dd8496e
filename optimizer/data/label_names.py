"""Label cells that are names: one a cell, or several with a separator."""

from __future__ import annotations

from collections.abc import Mapping

from bantam.errors import DataError
from optimizer.data.cells import name
from optimizer.data.dataset import Columns
from optimizer.data.label_column import LabelColumn, Labels, in_order, one_label
from optimizer.data.separators import AROUND, SEPARATORS, find_separator, odd_cell, parts_of, without_brackets


def read_names(column: LabelColumn, columns: Columns) -> Labels:
    """The labels of a column of names.

    Raises :class:`DataError` if the user's separator is in no cell, or one cell is another with a separator at its end.
    """
    bare = without_brackets(column.counts)
    separator = _separator(column, {bare[cell]: count for cell, count in column.counts.items()}, columns)
    if separator:
        made = column.rows(lambda cell: () if cell is None else parts_of(bare[str(cell)], separator))
        note = f"Several labels a row, separated by {separator!r}; --separator '' reads each cell as one label."
        return Labels("multi_label", in_order(made), made, notes=(note,))
    notes = _look_alike(column, columns)
    return one_label(column, column.rows(lambda cell: () if cell is None else (name(cell),)), columns, notes)


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


def _look_alike(column: LabelColumn, columns: Columns) -> list[str]:
    """Refuse a cell that is another one with a separator at its end; name those that could be read otherwise."""
    counts = column.counts
    if columns.separator is None and (odd := odd_cell(counts)):
        seen = next(seen for seen in column.full if str(seen.cell) == odd)
        raise DataError(
            f"{seen.where}: the label is {odd!r}, and others are {odd.strip(AROUND)!r}. Mend the cell; or say "
            "--separator '' if it is a class of its own."
        )
    by_case: dict[str, list[str]] = {}
    for label in counts:
        by_case.setdefault(label.casefold(), []).append(label)
    alike = [" and ".join(map(repr, sorted(same))) for same in by_case.values() if len(same) > 1]
    notes = [f"Labels that differ in case alone are different labels: {'; '.join(alike[:3])}."] if alike else []
    for mark in SEPARATORS:
        whole = [cell for cell in counts if len(parts_of(cell, mark)) > 1]
        if whole and columns.separator is None and all(part in counts for part in parts_of(whole[0], mark)):
            notes.append(f"{whole[0]!r} is read as one label; --separator {mark!r} reads the parts.")
    return notes
