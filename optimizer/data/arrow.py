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
    columns = {
        column: named(cells.to_pylist(), features.get(column))
        for column, cells in zip(table.column_names, table.columns, strict=True)
        if not pa.types.is_struct(cells.type) and not pa.types.is_binary(cells.type)  # such as images
    }
    return Table(name, columns, range(1, table.num_rows + 1))


def named(cells: list[Any], feature: Any) -> list[Any]:
    """Numbers of classes as names, by the feature as ``datasets`` writes it: of a ClassLabel, or a list of them."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = {"feature": feature[0]}  # as older versions wrote lists
    if not isinstance(feature, Mapping):
        return cells
    inner = feature.get("feature")
    if isinstance(inner, Mapping) and inner.get("_type") == "ClassLabel":
        names: Sequence[str] = inner["names"]
        return [None if cell is None else [names[i] for i in cell] for cell in cells]
    if feature.get("_type") != "ClassLabel":
        return cells
    names = feature["names"]
    # -1 is the hub's word for a label that is kept secret.
    return [None if cell is None or cell < 0 else names[cell] for cell in cells]


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    try:
        return dict(json.loads(metadata[b"huggingface"])["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}
