"""What a caller gives, as rows that can be sent: a text each, or a pair. What is neither is refused, with a hint.

Columns of numpy, pandas, polars and pyarrow are taken as they are; none of these libraries is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeGuard

from bantam.errors import InvalidInputError

Text = str | tuple[str, str]
"""A text, or a pair of texts for a model that reads pairs."""
Row = tuple[bytes, ...]
"""UTF-8 of a text, or of the two of a pair."""
HINTS: dict[type, str] = {
    bytes: "Decode it first: text.decode().",
    bytearray: "Decode it first: text.decode().",
    memoryview: "Decode it first: bytes(text).decode().",
    dict: "Pass its texts: list(texts.values()).",
    set: "A set has no order by which predictions could be told apart: pass a list of it.",
    frozenset: "A set has no order by which predictions could be told apart: pass a list of it.",
}
"""Iterables whose items would make a confusing message, or worse, none."""
EXPECTED = "expected a str or a list of str, or pairs of them as tuples."


def is_one(texts: object) -> TypeGuard[Text]:
    """Whether this is one text or one pair, not several."""
    return isinstance(texts, str) or _is_pair(texts)


def encoded(texts: Text | Iterable[Text]) -> list[Row]:
    """The rows, all of one width; :class:`InvalidInputError` names the first item that is no text."""
    rows = [_row(item, position) for position, item in enumerate(texts if type(texts) is list else _items(texts))]
    if len(set(map(len, rows))) > 1:
        position = next(number for number, row in enumerate(rows) if len(row) != len(rows[0]))
        kinds = {1: "a single text", 2: "a pair"}
        raise InvalidInputError(
            f"texts[{position}] is {kinds[len(rows[position])]}, and texts[0] {kinds[len(rows[0])]}. Expected one kind "
            "in a call, the one that the model reads."
        )
    return rows


def _items(texts: Any) -> Iterator[object]:
    if is_one(texts):
        return iter([texts])
    got = f"Got {type(texts).__name__}, {EXPECTED}"
    for kind, hint in HINTS.items():
        if isinstance(texts, kind):
            raise InvalidInputError(f"{got} {hint}")
    # A table of pandas, polars, pyarrow or datasets: going through it would give its columns' names, or dicts.
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise InvalidInputError(
            f'{got} Pass a column: classify(table["text"]); for a model of pairs two: '
            'classify(zip(table["first"], table["second"])).'
        )
    dimensions = getattr(texts, "ndim", 1)
    if dimensions != 1:
        raise InvalidInputError(
            f"Got an array of {dimensions} dimensions, {EXPECTED} Pass a column: classify(array[:, 0]); for a model of "
            "pairs rows of two: classify(map(tuple, array))."
        )
    if hasattr(texts, "to_pylist"):  # pyarrow: its items are no str before that
        texts = texts.to_pylist()
    if not isinstance(texts, Iterable):
        raise InvalidInputError(got)
    return iter(texts)


def _row(item: object, position: int) -> Row:
    try:
        if isinstance(item, str):
            return (item.encode(),)
        if _is_pair(item):
            return item[0].encode(), item[1].encode()
    except UnicodeEncodeError as exc:
        part = f"[{item.index(exc.object)}]" if _is_pair(item) else ""
        raise InvalidInputError(
            f"texts[{position}]{part} has a lone surrogate at character {exc.start}, which no UTF-8 can carry. "
            "Read its source with the right encoding, or with errors='replace'."
        ) from exc
    if isinstance(item, (list, tuple)):
        kinds = ", ".join(type(part).__name__ for part in item[:3]) + (", ..." if len(item) > 3 else "")
        raise InvalidInputError(
            f"texts[{position}] is a {type(item).__name__} of {kinds or 'nothing'}; a pair is a tuple of two str: "
            '("first", "second").'
        )
    raise InvalidInputError(
        f"texts[{position}] is {type(item).__name__} ({item!r:.40}), expected str, or a tuple of two for a pair. "
        "Convert it, or leave it out."
    )


def _is_pair(item: object) -> TypeGuard[tuple[str, str]]:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], str)


def width(rows: Sequence[Row]) -> int:
    """How many texts a row has."""
    return len(rows[0])
