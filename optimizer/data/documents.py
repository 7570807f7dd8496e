"""JSON Lines and JSON documents: what pandas, ``datasets`` and annotation tools write."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bantam.errors import DataError
from optimizer.data.exports import from_export
from optimizer.data.names import SPLIT_NAMES, TEXTS, fold
from optimizer.data.table import Table
from optimizer.data.text_file import ReadableFile, text_of


def read_json(path: Path) -> Table:
    """Read one JSON object a line, or one document, whatever the suffix says.

    A document is a list of objects; an object with one such list, such as ``{"data": [...]}``, or one a split; or what
    pandas' ``to_json`` writes (columns, index, split, table, lists). Raises :class:`DataError` for anything else.
    """
    with text_of(path) as file:
        numbered = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        first = list(itertools.islice(numbered, 2))
        if len(first) == 2 and _is_json(first[0][1]):
            pairs = [(_parsed(line, f"{path}, line {n}"), n) for n, line in itertools.chain(first, numbered)]
            return _from_objects(path, [row for row, _ in pairs], [n for _, n in pairs])
    with text_of(path) as file:
        text = file.read()
    if not text.strip():
        raise DataError(f"{path} has no rows.")
    return _from_document(path, _parsed(text, str(path)))


def json_lines(path: ReadableFile) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The objects of a file that has one a line, each with its number and the line itself; read as they are asked for.

    Raises :class:`DataError` for a line that is something else.
    """
    with text_of(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _parsed(line, f"{path}, line {number}")
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number}: {type(row).__name__}, expected an object, one a line.")
                yield number, line, row


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        at = where if ", line " in where else f"{where}, line {exc.lineno}"
        raise DataError(f"{at}: not JSON: {exc.msg} (column {exc.colno}).") from exc
    except RecursionError as exc:
        raise DataError(f"{where}: not JSON that can be read: nested too deeply.") from exc


def _from_document(path: Path, document: Any) -> Table:
    if isinstance(document, list):
        return _from_objects(path, document, range(1, len(document) + 1))
    if not isinstance(document, dict):
        raise DataError(f"{path}: {type(document).__name__}, expected a list of objects with a text and a label.")
    if _is_row(document):
        return _from_objects(path, [document], [1])
    return _split_orient(path, document) or _of_columns(path, document) or _of_lists(path, document)


def _is_row(document: Mapping[str, Any]) -> bool:
    return any(fold(name) in TEXTS and not isinstance(cell, (dict, list)) for name, cell in document.items())


def _split_orient(path: Path, document: Mapping[str, Any]) -> Table | None:
    names, rows = document.get("columns"), document.get("data")
    if not (isinstance(names, list) and isinstance(rows, list) and rows and isinstance(rows[0], list)):
        return None
    objects = [dict(zip(map(str, names), row, strict=False)) for row in rows]
    return _from_objects(path, objects, range(1, len(objects) + 1))


def _of_columns(path: Path, document: Mapping[str, Any]) -> Table | None:
    """``{"text": {"0": ...}}``, ``{"text": [...]}``, or ``{"0": {"text": ...}}``."""
    inner = list(document.values())
    if all(isinstance(cells, list) for cells in inner) and any(fold(name) in TEXTS for name in document):
        lengths = {len(cells) for cells in inner}
        if len(lengths) == 1:
            return Table(str(path), document, range(1, lengths.pop() + 1))
    if not inner or not all(isinstance(cells, dict) for cells in inner):
        return None
    if any(fold(name) in TEXTS for name in inner[0]):
        return _from_objects(path, inner, range(1, len(inner) + 1))
    keys = dict.fromkeys(key for cells in inner for key in cells)
    columns = {name: [cells.get(key) for key in keys] for name, cells in document.items()}
    return Table(str(path), columns, range(1, len(keys) + 1))


def _of_lists(path: Path, document: Mapping[str, Any]) -> Table:
    """``{"data": [...]}`` and its kin, also with one list a split."""
    lists = {
        key: rows
        for key, rows in document.items()
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    }
    if len(lists) > 1 and all(fold(key) in SPLIT_NAMES for key in lists):
        objects = [{**row, "split": key} for key, rows in lists.items() for row in rows]
    elif "data" in lists or len(lists) == 1:
        # pandas' table orient has a schema beside its data.
        objects = lists.get("data") or next(iter(lists.values()))
    else:
        keys = ", ".join(map(repr, list(document)[:6])) + (" ..." if len(document) > 6 else "")
        raise DataError(
            f"{path}: one object with the keys {keys}; expected a list of objects with a text and a label, or one "
            'such list below a key such as "data".'
        )
    return _from_objects(path, objects, range(1, len(objects) + 1))


def _from_objects(path: Path, objects: Sequence[Any], lines: Sequence[int]) -> Table:
    for row, line in zip(objects, lines, strict=True):
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {line}: {type(row).__name__}, expected an object with a text and a label.")
    objects, lines, notes = from_export(path, objects, lines)
    names = dict.fromkeys(name for row in objects for name in row)
    return Table(str(path), {name: [row.get(name) for row in objects] for name in names}, lines, notes)
