"""Several labels a row without a separator: lists of names, lists of zeros and ones, a column of them a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bantam.errors import DataError
from optimizer.data.cells import Cell, name
from optimizer.data.dataset import Columns
from optimizer.data.flags import flag
from optimizer.data.label_column import LabelColumn, Labels, Seen, in_order
from optimizer.data.rows import RawRows


def read_flags(parts: Mapping[str, RawRows], names: tuple[str, ...], columns: Columns) -> Labels:
    """The labels of rows with a column of 0 and 1 for each. Raises :class:`DataError` for any other cell."""
    memo: dict[tuple[Any, ...], tuple[str, ...]] = {}
    made: dict[str, list[tuple[str, ...]]] = {part: [] for part in parts}
    for part, rows in parts.items():
        for i, cells in enumerate(rows.cells):
            if cells not in memo:
                bits = [flag(cell) for cell in cells or ()]
                if cells is None or None in bits:
                    odd = (
                        "no labels" if cells is None else f"{names[bits.index(None)]!r} is {cells[bits.index(None)]!r}"
                    )
                    raise DataError(f"{rows.where(i)}: {odd}, expected 0 or 1 in each label column.")
                memo[cells] = tuple(label for label, bit in zip(names, bits, strict=True) if bit)
            made[part].append(memo[cells])
    return _settled(parts, names, made, columns)


def read_lists(column: LabelColumn, columns: Columns) -> Labels:
    """The labels of rows with a list each, of names or of a zero or one for each label.

    Raises :class:`DataError` for a list that is neither, or not as long as the others.
    """
    lists = [(seen.cell, seen) for seen in column.full if isinstance(seen.cell, tuple)]
    if len(lists) == len(column.full) and _is_multi_hot([cells for cells, _ in lists]):
        return _multi_hot(column, lists, columns)
    for cells, seen in lists:
        if any(isinstance(cell, float) and not cell.is_integer() for cell in cells):
            raise DataError(f"{seen.where}: the labels are {str(list(cells))[:60]}, expected names or whole numbers.")
    made: dict[str, list[tuple[str, ...]]] = column.rows(_in_list)
    if columns.task is None and all(len(row) == 1 for rows in made.values() for row in rows):
        how = "Each list has one label: read as one label a row; --task multi_label reads them as several."
        return Labels("single_label", in_order(made), made, notes=(how,))
    return _settled(column.parts, in_order(made), made, columns, "Labels are lists: several a row.")


def _in_list(cell: Cell) -> tuple[str, ...]:
    each = cell if isinstance(cell, tuple) else () if cell is None else (cell,)
    return tuple(dict.fromkeys(map(name, each)))


def _is_multi_hot(lists: Sequence[tuple[Any, ...]]) -> bool:
    """Whether lists of 0 and 1 say which labels apply, rather than being numbers of labels.

    A label is not twice in a list of labels, so a list with a value twice, or all of them of two, are multi-hot.
    """
    if any(flag(cell) is None for cells in lists for cell in cells):
        return False
    lengths = {len(cells) for cells in lists}
    return lengths == {2} or any(len({flag(cell) for cell in cells}) < len(cells) for cells in lists)


def _multi_hot(column: LabelColumn, lists: Sequence[tuple[tuple[Any, ...], Seen]], columns: Columns) -> Labels:
    lengths: Counter[int] = Counter()
    for cells, seen in lists:
        lengths[len(cells)] += seen.count
    width = max(lengths, key=lengths.__getitem__)
    for cells, seen in lists:
        if len(cells) != width:
            raise DataError(f"{seen.where}: a list of {len(cells)} zeros and ones, where most have {width}.")
    names = columns.labels or tuple(f"label_{i}" for i in range(width))
    if len(names) != width:
        raise DataError(f"--label-columns names {len(names)} labels, and the lists in {column.label!r} have {width}.")
    column.refuse_empty()
    chosen = {cells: tuple(label for label, bit in zip(names, cells, strict=True) if flag(bit)) for cells, _ in lists}
    made: dict[str, list[tuple[str, ...]]] = column.rows(lambda cell: chosen.get(cell, ()))  # type: ignore[arg-type]
    note = f"Lists of zeros and ones, a label a position: {', '.join(names)}."
    how = "" if columns.labels else " --label-columns a,b,... names them in this order."
    return _settled(column.parts, names, made, columns, note + how)


def _settled(
    parts: Mapping[str, RawRows],
    names: tuple[str, ...],
    made: Mapping[str, Sequence[tuple[str, ...]]],
    columns: Columns,
    *notes: str,
) -> Labels:
    """multi_label, unless the user says that each row has one label; then each must."""
    if columns.task == "regression":
        raise DataError("Several labels a row are no number, as --task regression says; --label-column names a column.")
    odd = next(((part, i) for part, rows in made.items() for i, row in enumerate(rows) if len(row) != 1), None)
    if columns.task == "single_label":
        if odd is not None:
            part, i = odd
            raise DataError(
                f"{parts[part].where(i)}: {len(made[part][i])} labels, where --task single_label expects 1."
            )
        return Labels("single_label", names, made, notes=notes)
    if odd is None:
        notes = (
            *notes,
            "Each row has exactly one label, though several may apply; --task single_label if never more than one can.",
        )
    return Labels("multi_label", names, made, notes=notes)
