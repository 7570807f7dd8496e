"""Which column is the text, which the label, and how many labels a row has: found, or given by the user."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bantam.errors import DataError
from optimizer.data.dataset import Columns, Dataset, Rows, build
from optimizer.data.split import fill_splits
from optimizer.data.table import Table

TEXT = (
    *("text", "sentence", "review", "content", "comment", "message", "body", "tweet", "document", "utterance"),
    *("question", "query", "input", "sms", "title"),
)
LABEL = (
    *("labels", "label", "categories", "category", "targets", "target", "classes", "class", "emotions", "emotion"),
    *("sentiment", "intent", "topic", "tags", "rating", "stars"),
)
SPLIT = "split"
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "val"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SEPARATORS = (",", ";", "|")


def build_from_tables(
    name: str,
    tables: Mapping[str, Table],
    *,
    columns: Columns,
    seed: int,
    licence: str,
    source: str,
    notes: Iterable[str] = (),
    hub_id: str | None = None,
) -> Dataset:
    """A data set from one table a split; one table called train may have a split column, or is split here.

    Raises :class:`DataError` if a column is missing, a cell is not usable, or the data set is not (see ``build``).
    """
    said = list(notes)
    first = next(iter(tables.values()))
    text = find_column(first, columns.text, TEXT, "text")
    label = find_column(first, columns.label, LABEL, "label")
    said.append(f"Text column {text!r}, label column {label!r}.")
    for table in tables.values():
        find_column(table, text, (), "text")
        find_column(table, label, (), "label")
    cells, task, how = _label_cells(tables, label, columns.separator)
    said += how
    given: dict[str, Rows] = {}
    for part, table in tables.items():
        rows, parts = _rows(table, text, label, cells[part], task, said)
        if len(tables) == 1 and SPLIT in table.columns and SPLIT not in (text, label):
            given |= _by_split_column(table, rows, parts)
        else:
            given[part] = rows
    if "train" not in given:
        raise DataError(f"{name} has the splits {', '.join(given)}, but no train split.")
    splits, made = fill_splits(given, seed=seed)
    labels = _in_order({found for rows in given.values() for row in rows.labels for found in row})
    return build(name, task, splits, labels=labels, licence=licence, source=source, notes=[*said, *made], hub_id=hub_id)


def find_column(table: Table, given: str | None, usual: Sequence[str], what: str) -> str:
    """The column ``given``, or the first of the ``usual`` ones; raises :class:`DataError` if there is none."""
    if given is not None:
        if given in table.columns:
            return given
        raise DataError(f"{table.name} has no column {given!r}. Columns: {', '.join(table.columns)}.")
    by_lower = {str(column).lower(): column for column in table.columns}
    for candidate in usual:
        if candidate in by_lower:
            return by_lower[candidate]
    raise DataError(
        f"{table.name} has no {what} column that Bantam knows. Columns: {', '.join(map(str, table.columns))}.\n"
        f"Expected one of {', '.join(usual[:6])} ...: name the {what} column, or add a header line if there is none."
    )


def _label_cells(
    tables: Mapping[str, Table], label: str, separator: str | None
) -> tuple[dict[str, list[tuple[str, ...]]], str, list[str]]:
    """The label names of each row, the task, and a line on how they were found."""
    raw = {
        part: [_cell(cell, table, i) for i, cell in enumerate(table.columns[label])] for part, table in tables.items()
    }
    where = [(cell, table, i) for part, table in tables.items() for i, cell in enumerate(raw[part])]
    _refuse_mixed(where, label)
    full = [cell for cell, _, _ in where if cell not in (None, "")]
    if any(isinstance(cell, list) for cell in full):
        cells = {part: [tuple(map(str, cell or ())) for cell in found] for part, found in raw.items()}
        return cells, "multi_label", ["Labels are lists: several a row."]
    if separator is None:
        separator = _find_separator({str(cell) for cell in full})
    elif separator and not any(separator in str(cell) for cell in full):
        raise DataError(f"The separator {separator!r} is in no cell of the column {label!r}, for example {full[0]!r}.")
    if separator:
        cells = {part: [_split_cell(cell, separator) for cell in found] for part, found in raw.items()}
        return cells, "multi_label", [f"Several labels a row, separated by {separator!r}."]
    one: dict[str, list[tuple[str, ...]]] = {
        part: [() if cell in (None, "") else (str(cell),) for cell in found] for part, found in raw.items()
    }
    return one, "single_label", []


def _cell(cell: Any, table: Table, row: int) -> Any:
    """A label cell without what its format added: lists written as text, whole numbers as floats, spaces around."""
    if isinstance(cell, float):
        if cell != cell:
            return None
        if not cell.is_integer():
            raise DataError(f"{table.name}, line {table.lines[row]}: the label {cell} is a fraction, expected a class.")
        return int(cell)
    if not isinstance(cell, str):
        return cell
    cell = cell.strip()
    if not (cell.startswith("[") and cell.endswith("]")):
        return cell
    try:
        return list(json.loads(cell))
    except ValueError:
        pass
    try:
        return list(ast.literal_eval(cell))
    except (ValueError, SyntaxError, TypeError, RecursionError) as exc:
        raise DataError(f"{table.name}, line {table.lines[row]}: {cell[:60]!r} is not a list of labels.") from exc


def _refuse_mixed(where: Sequence[tuple[Any, Table, int]], label: str) -> None:
    seen: dict[str, tuple[Any, Table, int]] = {}
    for cell, table, row in where:
        if cell in (None, ""):
            continue
        kind = type(cell).__name__
        if not all(isinstance(label, (str, int)) for label in (cell if isinstance(cell, list) else [cell])):
            raise DataError(
                f"{table.name}, line {table.lines[row]}: the label is {cell!r}, expected a name, a number or a list."
            )
        seen.setdefault(kind, (cell, table, row))
    if len(seen) > 1:
        examples = "; ".join(f"{t.name}, line {t.lines[i]}: {cell!r} ({kind})" for kind, (cell, t, i) in seen.items())
        raise DataError(f"The label column {label!r} mixes types. {examples}.\nWrite all of them the same way.")


def _find_separator(cells: set[str]) -> str | None:
    """The separator by which the cells have no more different parts than there are cells.

    Labels come back in other combinations; the parts of a name such as "Home, Garden" do not.
    """
    for separator in SEPARATORS:
        parts = {part for cell in cells for part in _split_cell(cell, separator)}
        if any(separator in cell for cell in cells) and len(parts) <= len(cells):
            return separator
    return None


def _split_cell(cell: Any, separator: str) -> tuple[str, ...]:
    if cell is None:
        return ()
    return tuple(part.strip() for part in str(cell).split(separator) if part.strip())


def _rows(
    table: Table, text: str, label: str, cells: Sequence[tuple[str, ...]], task: str, said: list[str]
) -> tuple[Rows, list[int]]:
    """The rows with text, and their numbers in the table."""
    texts: list[str] = []
    labels: list[tuple[str, ...]] = []
    kept: list[int] = []
    bare: list[int] = []
    for row, value in enumerate(table.columns[text]):
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{table.name}, line {table.lines[row]}: the text is {type(value).__name__} ({value!r}), "
                f"expected a string. Is {text!r} the text column?"
            )
        if value is None or not value.strip():
            continue
        if task == "single_label" and not cells[row]:
            bare.append(table.lines[row])
        texts.append(value)
        labels.append(cells[row])
        kept.append(row)
    if bare:
        shown = ", ".join(map(str, bare[:5])) + (" ..." if len(bare) > 5 else "")
        raise DataError(f"{table.name}: {len(bare):,} rows have no {label!r}, in lines {shown}. Label or remove them.")
    dropped = len(table.lines) - len(kept)
    if dropped:
        said.append(f"{dropped:,} of {len(table.lines):,} rows of {table.name} have no text; they were left out.")
    return Rows(texts, labels), kept


def _by_split_column(table: Table, rows: Rows, kept: Sequence[int]) -> dict[str, Rows]:
    found: dict[str, tuple[list[str], list[tuple[str, ...]]]] = {}
    for text, labels, row in zip(rows.texts, rows.labels, kept, strict=True):
        value = table.columns[SPLIT][row]
        part = SPLIT_NAMES.get(str(value).strip().lower())
        if part is None:
            raise DataError(
                f"{table.name}, line {table.lines[row]}: the {SPLIT} is {value!r}, expected train, dev or test."
            )
        texts, names = found.setdefault(part, ([], []))
        texts.append(text)
        names.append(labels)
    return {part: Rows(*both) for part, both in found.items()}


def _in_order(labels: set[str]) -> list[str]:
    """By name; by value if all are numbers."""
    try:
        return sorted(labels, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(labels)
