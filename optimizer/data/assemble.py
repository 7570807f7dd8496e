"""Tables to a data set: which column is what, which rows count, what the labels mean, and how they are split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bantam.errors import DataError
from optimizer.data.columns import find_roles
from optimizer.data.dataset import Columns, Dataset, Rows, build
from optimizer.data.label_column import Labels
from optimizer.data.labels import read_labels
from optimizer.data.rows import RawRows, gather, without_hidden
from optimizer.data.split import fill_splits
from optimizer.data.table import Table


def build_from_tables(
    name: str,
    tables: Mapping[str, Sequence[Table]],
    *,
    columns: Columns,
    seed: int,
    licence: str,
    source: str,
    notes: Iterable[str] = (),
    hub_id: str | None = None,
) -> Dataset:
    """A data set from the tables of each split; one table called train may have a split column, or is split here.

    Raises :class:`DataError` if a column is missing, a cell is not usable, or the data set is not (see ``build``).
    """
    every = [*tables.get("train", ()), *(table for part in tables if part != "train" for table in tables[part])]
    roles, chosen = find_roles(every, columns)
    parts, left_out = gather(tables, roles)
    parts, secret = without_hidden(parts)
    if not parts:
        raise DataError(f"{name}: no row has a text in {roles.text!r}. --text-column names another column.")
    if "train" not in parts:
        raise DataError(f"{name} has the splits {', '.join(parts) or '(none)'}, but no train split with texts in it.")
    labels = read_labels(parts, roles, columns)
    _refuse_strangers(name, labels)
    splits, made = fill_splits({part: _rows(rows, part, labels) for part, rows in parts.items()}, seed=seed)
    return build(
        name,
        labels.task,
        splits,
        labels=labels.names,
        classes=labels.classes,
        licence=licence,
        source=source,
        notes=[*notes, *chosen, *left_out, *secret, *labels.notes, *made],
        hub_id=hub_id,
    )


def _rows(rows: RawRows, part: str, labels: Labels) -> Rows:
    return Rows(rows.texts, labels.rows.get(part, ()), labels.values.get(part, ()), rows.groups)


def _refuse_strangers(name: str, labels: Labels) -> None:
    """Raise :class:`DataError` if dev or test has names for classes of which train has none."""
    if labels.task not in ("single_label", "multi_label"):
        return
    found = {part: {label for row in rows for label in row} for part, rows in labels.rows.items()}
    for part, names in found.items():
        if names and not names & found["train"]:
            here, there = (", ".join(map(repr, sorted(some)[:4])) for some in (names, found["train"]))
            raise DataError(f"{name}: {part} has the labels {here} and train {there}: none in common. Name them alike.")
