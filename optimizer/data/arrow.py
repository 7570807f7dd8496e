"""Parquet and Arrow, with the names of classes where ``datasets`` has written them into the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bantam.errors import DataError
from optimizer.data.table import Table


def read_parquet(path: Path) -> Table:
    """Read a Parquet file. Raises :class:`DataError` if it is none."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return from_arrow(str(path), parquet.read_table(path))
    except pa.ArrowException as exc:
        raise DataError(f"{path} cannot be read as Parquet: {exc}.") from exc


def from_arrow(name: str, table: Any) -> Table:
    """A pyarrow Table's columns; numbers that stand for classes become the classes' names, -1 becomes None."""
    import pyarrow as pa

    features = _features(table.schema.metadata or {})
    classes = {column: names for column in table.column_names if (names := class_names(features.get(column)))}
    columns = {
        column: named(cells.to_pylist(), classes.get(column))
        for column, cells in zip(table.column_names, table.columns, strict=True)
        if not pa.types.is_struct(cells.type) and not pa.types.is_binary(cells.type)  # such as images
    }
    return Table(name, columns, range(1, table.num_rows + 1), classes=classes)


def class_names(feature: Any) -> Sequence[str] | None:
    """The classes of a feature as ``datasets`` writes it, a ClassLabel or a list of them; None of anything else."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = {"feature": feature[0]}  # as older versions wrote lists
    if not isinstance(feature, Mapping):
        return None
    inner = feature.get("feature")
    found = inner if isinstance(inner, Mapping) else feature
    return found["names"] if found.get("_type") == "ClassLabel" else None


def named(cells: list[Any], classes: Sequence[str] | None) -> list[Any]:
    """Numbers of classes, or lists of them, as their names."""
    if classes is None:
        return cells

    def name(cell: Any) -> Any:
        if isinstance(cell, list):
            return [classes[i] for i in cell]
        # -1 is the hub's word for a label that is kept secret.
        return None if cell is None or cell < 0 else classes[cell]

    return [name(cell) for cell in cells]


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    try:
        return dict(json.loads(metadata[b"huggingface"])["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}
