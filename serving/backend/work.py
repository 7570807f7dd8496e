"""How much a model computes for each token, counted from ``model.onnx`` without the package ``onnx``.

Reads the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) of the few fields of ``onnx.proto``
that it needs, and skips what the weights are.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path

GRAPH, NODE, INITIALIZER, VALUE_INFO = 7, 1, 5, 13
INPUT, OUTPUT, OPERATOR, ATTRIBUTE = 1, 2, 4, 5
DIMS, NAME = 1, 8
ATTRIBUTE_NAME, ATTRIBUTE_INT = 1, 3
VALUE_NAME, TYPE, TENSOR, SHAPE, DIMENSION, SIZE = 1, 2, 1, 2, 1, 1
TABLES = (b"Gather", b"GatherBlockQuantized", b"EmbedLayerNormalization", b"QEmbedLayerNormalization")
"""Operators that look a row up: no product, whatever the size of the table."""
IN_BLOCKS = b"MatMulNBits"
"""Its weights are packed: their size is in its attributes K and N."""

Span = tuple[int, int]


def multiply_adds_a_token(path: Path) -> int:
    """Weights that each token of a text is multiplied by: those of two or more axes that are no embeddings.

    What nodes make of weights alone is computed once, when the model is loaded: it counts where it is used, by the
    shape that the graph notes of it (HIGGS), or by what it is made of. Attention's own products are left out: they grow
    with the text, and weigh little below a few hundred tokens. Raises ``ValueError`` if the file is no ONNX model.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            graphs = [span for field, span in _fields(data, (0, len(data))) if field == GRAPH]
            return sum(_of_graph(data, graph) for graph in graphs)
        except LookupError as exc:
            raise ValueError(f"{path}: {exc}; expected an ONNX model. Export it again.") from exc


def _of_graph(data: mmap.mmap, graph: Span) -> int:
    parts = list(_fields(data, graph))
    noted = dict(_noted(data, span) for field, span in parts if field == VALUE_INFO)
    sizes = dict(_weight(data, span) for field, span in parts if field == INITIALIZER)
    sizes[b""] = 0  # an input that is left out
    used: list[bytes] = []  # as often as they are multiplied with
    in_blocks = 0
    for node in (span for field, span in parts if field == NODE):
        operator = b"".join(_strings(data, node, OPERATOR))
        inputs, outputs = list(_strings(data, node, INPUT)), list(_strings(data, node, OUTPUT))
        if all(name in sizes for name in inputs):
            made = 0 if operator in TABLES else max((sizes[name] for name in inputs), default=0)
            sizes |= {name: noted.get(name, made) if made else 0 for name in outputs}
        elif operator == IN_BLOCKS:
            attributes = dict(_attribute(data, span) for field, span in _fields(data, node) if field == ATTRIBUTE)
            in_blocks += attributes[b"K"] * attributes[b"N"]
        elif operator not in TABLES:
            used += inputs
    return in_blocks + sum(sizes.get(name, 0) for name in used)


def _weight(data: mmap.mmap, span: Span) -> tuple[bytes, int]:
    """Name of an initializer, and how many numbers it has; 0 for a vector."""
    shape = [size for field, (at, end) in _fields(data, span) if field == DIMS for size in _numbers(data, at, end)]
    return b"".join(_strings(data, span, NAME)), prod(shape) if len(shape) > 1 else 0


def _noted(data: mmap.mmap, span: Span) -> tuple[bytes, int]:
    """Name of a value, and how many numbers its type says it has; 0 for a vector, and where that depends on texts."""
    inner = [span]
    for wanted in (TYPE, TENSOR, SHAPE, DIMENSION):
        inner = [found for each in inner for field, found in _fields(data, each) if field == wanted]
    shape = [
        [number for field, (at, end) in _fields(data, each) if field == SIZE for number in _numbers(data, at, end)]
        for each in inner
    ]
    known = len(shape) > 1 and all(len(size) == 1 for size in shape)
    return b"".join(_strings(data, span, VALUE_NAME)), prod(size for (size,) in shape) if known else 0


def _attribute(data: mmap.mmap, span: Span) -> tuple[bytes, int]:
    """Name of an attribute, and its value if that is an integer."""
    numbers = [n for field, (at, end) in _fields(data, span) if field == ATTRIBUTE_INT for n in _numbers(data, at, end)]
    return b"".join(_strings(data, span, ATTRIBUTE_NAME)), sum(numbers)


def _strings(data: mmap.mmap, span: Span, wanted: int) -> Iterator[bytes]:
    for field, (at, end) in _fields(data, span):
        if field == wanted:
            yield data[at:end]


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
