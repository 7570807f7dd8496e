"""Label cells that are numbers: a quantity to be predicted, or classes that are called 0, 1, 2."""

from __future__ import annotations

import math

from bantam.errors import DataError
from optimizer.data.cells import Cell, name, number
from optimizer.data.dataset import Columns
from optimizer.data.label_column import LabelColumn, Labels, in_order, one_label
from optimizer.data.separators import is_decimal_comma

MANY = 10
"""Whole numbers of more values than this may be a quantity."""


def read_numbers(column: LabelColumn, columns: Columns) -> Labels | None:
    """The labels of a column of numbers; None if it is none.

    Fractions are a quantity (regression), whole numbers are classes, unless the user says otherwise. Raises
    :class:`DataError` for a cell that is no number where a quantity is asked for, or where most others are fractions.
    """
    if columns.task == "regression":
        return _quantity(column)
    if columns.separator:
        return None
    values = [number(seen.cell) for seen in column.full]
    commas = any(isinstance(seen.cell, str) and "," in seen.cell for seen in column.full)
    if commas and not is_decimal_comma({cell: n for cell, n in column.counts.items() if number(cell) is not None}):
        return None
    fractions = any(value is not None and not value.is_integer() for value in values)
    if None in values:
        if fractions and columns.task is None:
            _refuse_names_among_numbers(column)
        return None
    if fractions:
        # As classes, 3.10 and 3.1 are two.
        return _quantity(column) if columns.task is None else None
    made = column.rows(_class)
    names = in_order(made)
    notes = [f"{len(names)} whole numbers are read as classes; --task regression predicts a number."]
    return one_label(column, made, columns, notes if len(names) > MANY and columns.task is None else [])


def _class(cell: Cell) -> tuple[str, ...]:
    value = number(cell)
    return () if value is None else (name(value),)


def _refuse_names_among_numbers(column: LabelColumn) -> None:
    """Raise :class:`DataError` if most of the different cells are numbers: hundreds of classes would be made."""
    odd = [seen for seen in column.full if number(seen.cell) is None]
    if len(odd) < len(column.full) / 2 and len(column.full) > MANY:
        raise DataError(
            f"{odd[0].where}: the label is {str(odd[0].cell)[:60]!r}, and most others are numbers. Remove the row, or "
            "say --task single_label if each number is a class."
        )


def _quantity(column: LabelColumn) -> Labels:
    for seen in column.full:
        value = number(seen.cell)
        if value is None or not math.isfinite(value):
            raise DataError(f"{seen.where}: {column.label!r} is {str(seen.cell)[:60]!r}, expected a number.")
    commas = [seen for seen in column.full if isinstance(seen.cell, str) and "," in seen.cell]
    if commas and all(len(str(seen.cell).partition(",")[2]) == 3 for seen in commas):
        written = str(commas[0].cell)
        raise DataError(
            f"{commas[0].where}: {written!r} may be {written.replace(',', '.').rstrip('0')} or "
            f"{written.replace(',', '')}. Write fractions with a point, and thousands without a mark."
        )
    column.refuse_empty()
    made = column.rows(lambda cell: number(cell) or 0.0)
    first = next(iter(made.values()))[0]
    if all(value == first for values in made.values() for value in values):
        raise DataError(f"The numbers in {column.label!r} are all {first:g}: nothing can be learned from them.")
    note = f"{column.label!r} is a number to be predicted (regression); --task single_label reads classes instead."
    return Labels("regression", (column.label,), values=made, notes=(note,))
