"""How much a model computes for each token, counted from ``model.onnx`` without the package ``onnx``.

Reads the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) of the few fields of ``onnx.proto``
that it needs, and skips what the weights are.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path

GRAPH, NODE, INITIALIZER = 7, 1, 5
INPUT, OPERATOR = 1, 4
DIMS, NAME = 1, 8
TABLES = (b"Gather", b"GatherBlockQuantized", b"EmbedLayerNormalization", b"QEmbedLayerNormalization")
"""Operators that look a row up: no product, whatever the size of the table."""
TWO_IN_A_BYTE = b"MatMulNBits"

Span = tuple[int, int]


def multiply_adds_a_token(path: Path) -> int:
    """Weights that each token of a text is multiplied by: those of two or more axes that are no embeddings.

    Attention's own products are left out: they grow with the text, and weigh little below a few hundred tokens. Raises
    ``ValueError`` if the file is no ONNX model.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            graphs = [span for field, span in _fields(data, (0, len(data))) if field == GRAPH]
            return sum(_of_graph(data, graph) for graph in graphs)
        except (LookupError, TypeError) as exc:
            raise ValueError(f"{path}: {exc}; expected an ONNX model. Export it again.") from exc


def _of_graph(data: mmap.mmap, graph: Span) -> int:
    sizes: dict[bytes, int] = {}
    left_out: set[bytes] = set()
    twice: set[bytes] = set()
    for field, span in _fields(data, graph):
        if field == INITIALIZER:
            parts = list(_fields(data, span))
            shape = [size for key, value in parts if key == DIMS for size in _dims(data, value)]
            name = b"".join(data[slice(*value)] for key, value in parts if key == NAME and isinstance(value, tuple))
            sizes[name] = prod(shape) if len(shape) > 1 else 0
        elif field == NODE:
            parts = list(_fields(data, span))
            inputs = [data[slice(*value)] for key, value in parts if key == INPUT and isinstance(value, tuple)]
            operator = next((data[slice(*v)] for k, v in parts if k == OPERATOR and isinstance(v, tuple)), b"")
            if operator in TABLES:
                left_out.update(inputs)
            elif operator == TWO_IN_A_BYTE:
                twice.update(inputs[1:2])
                left_out.update(inputs[2:])
    return sum(size * (1 + (name in twice)) for name, size in sizes.items() if name not in left_out)


def _dims(data: mmap.mmap, value: Span | int) -> Iterator[int]:
    """Packed into bytes, or one number."""
    if isinstance(value, int):
        yield value
        return
    at, end = value
    while at < end:
        number, at = _varint(data, at)
        yield number


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span | int]]:
    """Number and place of each field of a message; in place of the latter a number, where it is one."""
    at, end = span
    while at < end:
        key, at = _varint(data, at)
        if key & 7 == 2:
            length, at = _varint(data, at)
            yield key >> 3, (at, at + length)
            at += length
        elif key & 7 == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
        else:
            at += {1: 8, 5: 4}[key & 7]


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of base 128, lowest digits first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
