"""Which column is the text, which its pair, which the label: found by their usual names, or given by the user."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bantam.errors import DataError
from optimizer.data.dataset import Columns
from optimizer.data.flags import are_flags
from optimizer.data.names import LABEL, PAIRS, SPLIT, SPLIT_NAMES, TEXT, TEXTS, fold, is_id
from optimizer.data.table import Table

SHOWN = 12


@dataclass(frozen=True)
class Roles:
    """What each column is, by its name in the tables."""

    text: str
    pair: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    """Columns of 0 and 1, one a label, instead of ``label``; neither: nobody has labelled the texts."""
    split: str | None = None
    group: str | None = None

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that labels are read from."""
        return (self.label,) if self.label is not None else self.labels


def find_texts(table: Table, columns: Columns) -> tuple[str, str | None, list[str]]:
    """The text column, that of the second texts if these are pairs, and a note on other columns of texts.

    Raises :class:`DataError` if there is none, or not the one that the user names.
    """
    by_fold = _by_fold(table)
    text = None if columns.text is None else _given(table, columns.text, "--text-column")
    pair = None if columns.pair is None else _given(table, columns.pair, "--text-pair-column")
    taken = _named(columns)
    free = {name: column for name, column in by_fold.items() if name not in taken}
    if text is None and pair is None:
        for first, second in PAIRS:
            if first in free and second in free:
                return free[first], free[second], _others(free, (free[first], free[second]), pair=True)
    if text is None:
        text = next((free[name] for name in TEXT if name in free), None) or _no_text(table)
    return text, pair, [] if pair is not None else _others(free, (text,), pair=False)


def find_roles(tables: Sequence[Table], columns: Columns) -> tuple[Roles, list[str]]:
    """What each column is, and notes on what was chosen, for the tables of one data set; the first one decides.

    Raises :class:`DataError` if a column is missing, or columns are left that may be labels and are not known to be.
    """
    table = tables[0]
    text, pair, notes = find_texts(table, columns)
    split = _split_column(tables, _named(columns))
    group = None if columns.group is None else _given(table, columns.group, "--slice-column")
    rest = [
        name
        for name in table.columns
        if name not in (text, pair, split, group) and not is_id(name) and fold(name) not in TEXTS - set(LABEL)
    ]
    label, labels, more = _find_labels(tables, columns, rest)
    if label is None and not labels and columns.label is None and group is not None and fold(group) in LABEL:
        raise DataError(
            f"{table.name}: --slice-column {group!r} is by its name the column of the labels, and there is no other. "
            f"Say --label-column {group!r} if it is both; '' if nobody has labelled the texts."
        )
    given = [name for name in (text, pair, label, *labels) if name is not None]
    if twice := [name for name in given if given.count(name) > 1]:
        raise DataError(f"{table.name}: the column {twice[0]!r} is given twice, as text, second text or label.")
    roles = Roles(text, pair, label, labels, split, group)
    if label is not None:
        what = f"label column {label!r}"
    else:
        what = f"a label a column: {', '.join(labels)}" if labels else "no label column"
    second = f", text pair column {pair!r}" if pair is not None else ""
    return roles, [f"Text column {text!r}{second}, {what}.", *notes, *more]


def _find_labels(
    tables: Sequence[Table], columns: Columns, rest: Sequence[str]
) -> tuple[str | None, tuple[str, ...], list[str]]:
    """The label column, or the columns of a label each, among the columns that are nothing else; notes on others."""
    table = tables[0]
    if columns.label:
        return _given(table, columns.label, "--label-column"), (), []
    by_fold = _by_fold(table)
    usual = [by_fold[name] for name in LABEL if by_fold.get(name) in rest]
    # Otherwise they name the positions of lists in the label column.
    if columns.labels and (set(columns.labels) & set(table.columns) or not usual):
        return None, tuple(_given(table, name, "--label-columns") for name in columns.labels), []
    if columns.label == "" or not rest:
        return None, (), []
    flags = [name for name in rest if are_flags(name, (t.columns.get(name, ()) for t in tables))]
    if len(flags) >= 2 and flags == list(rest) and (not usual or len(flags) > 2) and columns.task != "regression":
        return None, tuple(flags), []
    if not usual:
        raise DataError(_no_label(table, rest, flags))
    others = [name for name in rest if name != usual[0] and (name in usual or (len(flags) > 2 and name in flags))]
    if not others:
        return usual[0], (), []
    names = _list([repr(name) for name in others])
    return usual[0], (), [f"{names} may be labels too: --label-column takes another one, --label-columns several."]


def _named(columns: Columns) -> set[str]:
    """The columns that the user names, folded."""
    given = (columns.text, columns.pair, columns.label, columns.group, *columns.labels)
    return {fold(name) for name in given if name}


def _by_fold(table: Table) -> dict[str, str]:
    found: dict[str, str] = {}
    for column in table.columns:
        found.setdefault(fold(column), column)
    return found


def _given(table: Table, name: str, option: str) -> str:
    if name in table.columns:
        return name
    if fold(name) in _by_fold(table):
        return _by_fold(table)[fold(name)]
    raise DataError(f"{table.name} has no column {name!r}. Columns: {_shown(table.columns)}; {option} names one.")


def _others(free: Mapping[str, str], taken: tuple[str, ...], *, pair: bool) -> list[str]:
    """A note on columns of texts that are not read."""
    others = [column for name, column in free.items() if name in TEXTS - set(LABEL) and column not in taken]
    if not others:
        return []
    names = _list([repr(name) for name in others])
    how = (
        "name two with --text-column and --text-pair-column" if pair else f"--text-pair-column {others[0]!r} reads both"
    )
    return [f"By its name, {names} holds texts too and is not read: {how}."]


def _split_column(tables: Sequence[Table], taken: set[str]) -> str | None:
    """The column that says a row's split, in a single table."""
    if len(tables) > 1:
        return None
    by_fold = _by_fold(tables[0])
    for name in SPLIT:
        column = by_fold.get(name)
        if column is None or name in taken:
            continue
        if name == SPLIT[0] or {fold(cell) for cell in tables[0].columns[column]} & set(SPLIT_NAMES):
            return column
    return None


def _no_text(table: Table) -> str:
    guess = _longest(table)
    say = f"--text-column {guess!r}" if guess else "--text-column"
    raise DataError(
        f"{table.name} has no text column that Bantam knows. Columns: {_shown(table.columns)}.\n"
        f"Expected one of {', '.join(TEXT[:6])} ...: name the text column with {say} and the label column with "
        "--label-column, or add a header line if there is none."
    )


def _longest(table: Table) -> str | None:
    """The column whose cells have most words."""
    words = {
        name: sum(len(re.findall(r"\w+", cell)) for cell in cells[:100] if isinstance(cell, str))
        for name, cells in table.columns.items()
    }
    return max(words, key=words.__getitem__, default=None)


def _no_label(table: Table, rest: Sequence[str], flags: Sequence[str]) -> str:
    if len(flags) >= 2:
        say = f"--label-columns {','.join(flags[:SHOWN])} reads the columns of 0 and 1 as a label each"
    else:
        guess = min(rest, key=lambda name: _values(table, name))
        say = f"name the label column with --label-column, such as --label-column {guess!r}"
    return (
        f"{table.name} has no label column that Bantam knows. Columns: {_shown(table.columns)}.\n"
        f"Expected one of {', '.join(LABEL[:4])} ...: {say}; --label-column '' says that the texts have no labels."
    )


def _values(table: Table, name: str) -> tuple[bool, int]:
    """Columns of two values or more first, those of fewest values before others."""
    found = len({str(cell) for cell in table.columns[name]})
    return found < 2, found


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _shown(names: Iterable[str]) -> str:
    return _list([str(name)[:60] for name in names])
