"""The rows of tables, by split, with texts that are checked and labels still as they are in the file."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bantam.artifact import Text
from bantam.errors import DataError
from optimizer.data.columns import Roles
from optimizer.data.flags import is_secret
from optimizer.data.names import LABEL, SPLIT_NAMES, UNDECIDED, fold
from optimizer.data.table import Table

NO_GROUP = "(none)"
FEW = 5
"""Fewer rows with a label of their own may be a small split, rather than one whose labels are secret."""


@dataclass
class RawRows:
    """Texts, label cells as they are in the file, and groups, of one split."""

    texts: list[Text] = field(default_factory=list)
    cells: list[Any] = field(default_factory=list)
    """One a row; a tuple of one a label where each label has a column."""
    groups: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    _table: array[int] = field(default_factory=lambda: array("H"))
    _row: array[int] = field(default_factory=lambda: array("q"))

    def origin(self, table: Table, row: int) -> None:
        """Say where the next row is from."""
        if not self.tables or self.tables[-1] is not table:
            self.tables.append(table)
        self._table.append(len(self.tables) - 1)
        self._row.append(row)

    def where(self, i: int) -> str:
        """File and line of a row, for messages."""
        return self.tables[self._table[i]].where(self._row[i])


def gather(tables: Mapping[str, Sequence[Table]], roles: Roles) -> tuple[dict[str, RawRows], list[str]]:
    """The rows by split, and notes on what was left out: rows without text, and headers in the middle of a file.

    Raises :class:`DataError` for a text that is none, a split that is not known, or a table that lacks a column.
    """
    found: dict[str, RawRows] = {}
    notes: list[str] = []
    for part, several in tables.items():
        for table in several:
            table = _alike(table, roles)
            notes += [*table.notes, *_gather(table, part, roles, found)]
    return found, notes


def _alike(table: Table, roles: Roles) -> Table:
    """The table with its columns named as in the first one, where case and separators alone differ."""
    by_fold = {fold(name): name for name in table.columns}
    columns = dict(table.columns)
    for name in (roles.text, roles.pair, roles.group, *roles.label_columns):
        if name is not None and name not in columns and fold(name) in by_fold:
            columns[name] = columns.pop(by_fold[fold(name)])
    for name in (roles.text, roles.pair, roles.group):
        if name is not None and name not in columns:
            shown = ", ".join(list(columns)[:12])
            raise DataError(f"{table.name} has no column {name!r}, which the train split has. Columns: {shown}.")
    return replace(table, columns=columns)


def _gather(table: Table, part: str, roles: Roles, found: dict[str, RawRows]) -> list[str]:
    text = [TextColumn(table, name) for name in (roles.text, roles.pair) if name is not None]
    cells = _cells(table, roles)
    groups = table.columns[roles.group] if roles.group is not None else ()
    splits = table.columns[roles.split] if roles.split is not None else None
    is_header, unknown = _header_test(table, roles), _unknown_test(roles)
    left: Counter[str] = Counter()
    for row in range(len(table.lines)):
        parts = [column(row) for column in text]
        cell = cells(row)
        if not all(parts):
            left["have no text"] += 1
        elif is_header(row):
            left["repeat the header, as joined files do"] += 1
        elif why := unknown(cell):
            left[why] += 1
        else:
            if splits is not None:
                part = _part(table, row, splits[row])
            rows = found.get(part) or found.setdefault(part, RawRows())
            rows.texts.append(parts[0] if len(parts) == 1 else (parts[0], parts[1]))
            rows.cells.append(cell)
            if groups:
                rows.groups.append(_group(groups[row]))
            rows.origin(table, row)
    rows_of = f"of {len(table.lines):,} rows of {table.name}"
    notes = [f"{count:,} {rows_of} {why}; they were left out." for why, count in left.items()]
    broken = [row for column in text for row in column.broken]
    if broken:
        notes.append(
            f"{len(broken):,} texts of {table.name} have half a character (a lone surrogate), the first in line "
            f"{table.lines[min(broken)]}; it was replaced by U+FFFD."
        )
    return notes


class TextColumn:
    """Reads the cells of a text column."""

    def __init__(self, table: Table, name: str) -> None:
        """``name`` is a column of the table."""
        self._table, self._name, self._cells = table, name, table.columns[name]
        self.broken: list[int] = []
        """Rows with a text that was mended."""

    def __call__(self, row: int) -> str:
        """The text, or an empty one if there is nothing but spaces."""
        cell = self._cells[row]
        if cell is None or cell != cell:
            return ""
        if not isinstance(cell, str):
            raise DataError(
                f"{self._table.where(row)}: the text is {type(cell).__name__} ({str(cell)[:60]}), "
                f"expected a string. Is {self._name!r} the text column? --text-column names another."
            )
        if not cell or cell.isspace():
            return ""
        try:
            cell.encode()
        except UnicodeEncodeError:
            self.broken.append(row)
            return whole(cell)
        return cell


def texts_of(table: Table, text: str, pair: str | None) -> list[Text]:
    """The texts of a table without spaces around, no empty ones. Raises :class:`DataError` for one that is none."""
    first = TextColumn(table, text)
    second = None if pair is None else TextColumn(table, pair)
    found: list[Text] = []
    for row in range(len(table.lines)):
        one, other = first(row).strip(), "" if second is None else second(row).strip()
        if second is None and one:
            found.append(one)
        elif one and other:
            found.append((one, other))
    return found


def whole(text: str) -> str:
    """The text with pairs of surrogates put together, and lone ones replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cells(table: Table, roles: Roles) -> Callable[[int], Any]:
    """What the label columns have in a row; None where the table lacks them."""
    columns = [table.columns.get(name) for name in roles.label_columns]
    present = [column for column in columns if column is not None]
    if len(present) < len(columns) or not columns:
        return lambda row: None
    if roles.label is not None:
        only = present[0]
        return lambda row: only[row]
    return lambda row: tuple(column[row] for column in present)


def _header_test(table: Table, roles: Roles) -> Callable[[int], bool]:
    """Whether a row has names of columns where its text and label should be."""
    texts = table.columns[roles.text]
    name = fold(roles.text)
    labels = [table.columns[column] for column in roles.label_columns if column in table.columns]
    known = {fold(column) for column in roles.label_columns} | set(LABEL)

    def is_header(row: int) -> bool:
        text = texts[row]
        if len(text) > len(roles.text) + 8 or fold(text) != name:
            return False
        return all(isinstance(column[row], str) and fold(column[row]) in known for column in labels)

    return is_header if labels else lambda row: False


def _unknown_test(roles: Roles) -> Callable[[Any], str | None]:
    """Why nobody knows a row's label, though it has a cell for it; None if somebody may."""
    undecided = UNDECIDED.get(fold(roles.label)) if roles.label is not None else None

    def unknown(cell: Any) -> str | None:
        if undecided is not None and cell == undecided:
            return f"have the label {undecided!r}: raters did not agree"
        if isinstance(cell, tuple) and all(map(is_secret, cell)):
            return "have labels that are kept secret (-1)"
        return None

    return unknown


def _part(table: Table, row: int, value: Any) -> str:
    part = SPLIT_NAMES.get(fold(value))
    if part is None:
        raise DataError(f"{table.where(row)}: the split is {str(value)[:60]!r}, expected train, dev or test.")
    return part


def _group(cell: Any) -> str:
    missing = cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())
    return NO_GROUP if missing else whole(str(cell).strip())


def without_hidden(parts: dict[str, RawRows]) -> tuple[dict[str, RawRows], list[str]]:
    """Leave out dev or test if its labels are kept secret, while train has some.

    They are if there are none, or if all are one value that train does not have, such as -1 or a question mark.
    """
    train = _values(parts["train"]) if "train" in parts else set()
    if not train:
        return parts, []
    notes, kept = [], {}
    for part, rows in parts.items():
        values = _values(rows)
        known = len(values) > 1 or bool(values & train)
        if part == "train" or known or (values and len(rows.cells) < FEW and not is_secret(min(values))):
            kept[part] = rows
        else:
            what = f" but {min(values)!r}" if values else ""
            notes.append(f"The split {part!r} has no labels{what}; it was left out.")
    return kept, notes


def _values(rows: RawRows) -> set[str]:
    """The different label cells, as text; no empty ones."""
    return {str(cell).strip() for cell in rows.cells if cell is not None and cell == cell} - {""}
