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
        except LookupError as exc:
            raise ValueError(f"{path}: {exc}; expected an ONNX model. Export it again.") from exc


def _of_graph(data: mmap.mmap, graph: Span) -> int:
    sizes: dict[bytes, int] = {}
    left_out: set[bytes] = set()
    twice: set[bytes] = set()
    for field, span in _fields(data, graph):
        if field == INITIALIZER:
            parts = list(_fields(data, span))
            shape = [size for key, (start, end) in parts if key == DIMS for size in _numbers(data, start, end)]
            name = b"".join(data[start:end] for key, (start, end) in parts if key == NAME)
            sizes[name] = prod(shape) if len(shape) > 1 else 0
        elif field == NODE:
            parts = list(_fields(data, span))
            inputs = [data[start:end] for key, (start, end) in parts if key == INPUT]
            operator = b"".join(data[start:end] for key, (start, end) in parts if key == OPERATOR)
            if operator in TABLES:
                left_out.update(inputs)
            elif operator == TWO_IN_A_BYTE:
                twice.update(inputs[1:2])
                left_out.update(inputs[2:])
    return sum(size * (1 + (name in twice)) for name, size in sizes.items() if name not in left_out)


def _numbers(data: mmap.mmap, at: int, end: int) -> Iterator[int]:
    """One, or several packed."""
    while at < end:
        number, at = _varint(data, at)
        yield number


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    """Number and place of each field of a message that is a number of base 128, or bytes."""
    at, end = span
    while at < end:
        key, start = _varint(data, at)
        if key & 7 == 2:
            length, start = _varint(data, start)
            at = start + length
            yield key >> 3, (start, at)
        elif key & 7 == 0:
            _, at = _varint(data, start)
            yield key >> 3, (start, at)
        else:
            at = start + {1: 8, 5: 4}[key & 7]


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of base 128, lowest digits first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
