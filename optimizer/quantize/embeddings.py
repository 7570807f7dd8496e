"""Embedding tables in 8 or 4 bits, in plain ONNX: rows are looked up in integers and made floats afterwards.

By hand, because ONNX Runtime's quantizers do worse here: quantize_dynamic takes one scale for a whole table, which
doubles the error, and the operator for 4 bits (GatherBlockQuantized, 1.31) takes 64 us for 19 tokens of MiniLM where
these standard operators take 28 and one in 8 bits 11; all of MiniLM in int8 takes 1,600. OpenVINO knows them as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from optimizer.quantize.numerics import quantize, symmetric
from optimizer.quantize.onnx_graph import embedding_lookups

FEW_ROWS = 4096
"""A table with fewer rows, such as that of positions, has more time to lose in 4 bits than bytes to gain: it gets 8."""
ROWS_AT_ONCE = 8192
"""Of a table, so that what is computed on the way to its bits is small beside it."""


def quantize_embeddings(
    graph: onnx.GraphProto, bits: int | Mapping[str, int], block_size: int = 32, *, folder: Path = Path()
) -> int:
    """Put each table that is looked up by rows into ``bits`` 16, 8 or 4; returns how many there were.

    16 bits are fp16; 8 bits have one scale a row; 4 bits a scale and a minimum for each block of ``block_size`` values
    of a row, or for the row if that does not divide its length. Tables that :func:`packable` leaves out get 8 bits in
    place of 4. ``bits`` by table: those without an entry stay as they are. ``folder``: where the files beside the graph
    are, if its weights are in any.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    dimensions = packable(graph)
    lookups = [node for node in embedding_lookups(graph) if isinstance(bits, int) or node.input[0] in bits]
    parts: dict[str, list[onnx.TensorProto]] = {}
    for table in dict.fromkeys(node.input[0] for node in lookups):
        values = numpy_helper.to_array(weights[table], str(folder))
        wanted = bits if isinstance(bits, int) else bits[table]
        if wanted == 16:
            parts[table] = [numpy_helper.from_array(values.astype(np.float16), f"{table}.half")]
        elif wanted == 4 and table in dimensions:
            parts[table] = _four_bits(table, values, block_size, dimensions[table])
        else:
            parts[table] = _eight_bits(table, values)
        graph.initializer.remove(weights[table])
        graph.initializer.extend(parts[table])
    for node in lookups:
        position = list(graph.node).index(node)
        graph.node.remove(node)
        new = _lookup(node.input[0], [part.name for part in parts[node.input[0]]], node.input[1], node.output[0])
        for each in reversed(new):
            graph.node.insert(position, each)
    return len(parts)


def packable(graph: onnx.GraphProto) -> dict[str, int]:
    """Tables that can be had in 4 bits -> dimensions of the inputs of the model by which they are looked up.

    They have many rows, of an even number of values: a byte has two.
    """
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.input}
    shapes = {weight.name: weight.dims for weight in graph.initializer}
    found: dict[str, set[int]] = {}
    for node in embedding_lookups(graph):
        found.setdefault(node.input[0], set()).add(ranks.get(node.input[1], 0))
    return {
        table: max(each)
        for table, each in found.items()
        if shapes[table][0] >= FEW_ROWS and shapes[table][1] % 2 == 0 and len(each) == 1 and max(each)
    }


def symmetric_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``table ~ rows * scales``: int8 ``[n, d]`` in -127..127 and float32 ``[n, 1]``, scale = max |row| / 127."""
    scales = symmetric(table.min(axis=1, keepdims=True), table.max(axis=1, keepdims=True))
    return quantize(table, scales, 0, -127, 127), scales


def packed_rows(table: NDArray[np.float32], block: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """``table ~ nibbles * step + minimum``: uint8 ``[n, d / block, block / 2]`` and float16 ``[n, d / block, 2]``.

    A byte has a value of its block's first half in the low four bits, and one of the second half in the high ones.
    """
    blocks = table.reshape(len(table), -1, block)
    low = blocks.min(axis=2, keepdims=True).astype(np.float16)
    # Rounded up to float16, so that 15 steps reach the maximum.
    step = np.nextafter(((blocks.max(axis=2, keepdims=True) - low) / 15).astype(np.float16), np.float16(np.inf))
    nibbles = np.clip(np.rint((blocks - low.astype(np.float32)) / step.astype(np.float32)), 0, 15).astype(np.uint8)
    first, second = np.split(nibbles, 2, axis=2)
    return first | (second << 4), np.concatenate([step, low], axis=2)


def restored_rows(table: NDArray[np.float32], bits: int, block_size: int) -> NDArray[np.float32]:
    """What ``table`` ``[n, d]`` is looked up as, from 8 or 4 bits."""
    if bits == 8:
        rows, scales = symmetric_rows(table)
        return rows * scales
    packed, steps = packed_rows(table, _block(table.shape[1], block_size))
    step, low = np.split(steps.astype(np.float32), 2, axis=2)
    restored = np.concatenate([packed & 15, packed >> 4], axis=2) * step + low
    return np.asarray(restored, np.float32).reshape(table.shape)


def bytes_of_rows(shape: Sequence[int], bits: int, block_size: int) -> int:
    """What a table ``[n, d]`` takes in 16, 8 or 4 bits, scales included."""
    count, width = shape
    scales = {16: 0, 8: 4, 4: 4 * (width // _block(width, block_size))}
    return count * (width * bits // 8 + scales[bits])


def _block(width: int, block_size: int) -> int:
    return block_size if width % block_size == 0 else width


def _in_parts(
    function: Callable[[NDArray[np.float32]], tuple[NDArray[Any], NDArray[Any]]], table: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a function of rows gives for a table, a few rows at a time."""
    parts = [function(table[start : start + ROWS_AT_ONCE]) for start in range(0, len(table), ROWS_AT_ONCE)]
    rows, scales = (np.concatenate(each) for each in zip(*parts, strict=True))
    return rows, scales


def _eight_bits(table: str, values: NDArray[np.float32]) -> list[onnx.TensorProto]:
    rows, scales = _in_parts(symmetric_rows, values)
    return [numpy_helper.from_array(rows, f"{table}.int8"), numpy_helper.from_array(scales, f"{table}.scale")]


def _four_bits(table: str, values: NDArray[np.float32], block_size: int, dimensions: int) -> list[onnx.TensorProto]:
    width = values.shape[1]
    rows, scales = _in_parts(lambda part: packed_rows(part, _block(width, block_size)), values)
    return [
        numpy_helper.from_array(rows, f"{table}.int4x2"),
        numpy_helper.from_array(scales, f"{table}.scale"),
        numpy_helper.from_array(np.array(15, np.uint8), f"{table}.mask"),
        numpy_helper.from_array(np.array(4, np.uint8), f"{table}.shift"),
        # The shape of looked-up rows; 0 keeps a dimension.
        numpy_helper.from_array(np.array([*[0] * dimensions, width], np.int64), f"{table}.row"),
    ]


def _lookup(table: str, parts: list[str], indices: str, output: str) -> list[onnx.NodeProto]:
    """Nodes that give ``table[indices]``, from the parts that the table was put into."""

    def node(kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, list(outputs), name=f"{outputs[0]}.{kind}", **attributes)

    taken, factor = f"{output}.rows", f"{output}.scales"
    if len(parts) == 1:
        return [node("Gather", [parts[0], indices], taken), node("Cast", [taken], output, to=TensorProto.FLOAT)]
    rows, scales, *more = parts
    found = [node("Gather", [rows, indices], taken), node("Gather", [scales, indices], factor)]
    if not more:
        return [
            *found,
            node("Cast", [taken], f"{taken}.float", to=TensorProto.FLOAT),
            node("Mul", [f"{taken}.float", factor], output),
        ]
    mask, shift, row = more
    return [
        *found,
        node("BitwiseAnd", [taken, mask], f"{taken}.first"),
        node("BitShift", [taken, shift], f"{taken}.second", direction="RIGHT"),
        node("Concat", [f"{taken}.first", f"{taken}.second"], f"{taken}.nibbles", axis=-1),
        node("Cast", [f"{taken}.nibbles"], f"{taken}.float", to=TensorProto.FLOAT),
        node("Cast", [factor], f"{factor}.float", to=TensorProto.FLOAT),
        node("Split", [f"{factor}.float"], f"{factor}.step", f"{factor}.minimum", axis=-1, num_outputs=2),
        node("Mul", [f"{taken}.float", f"{factor}.step"], f"{taken}.scaled"),
        node("Add", [f"{taken}.scaled", f"{factor}.minimum"], f"{taken}.values"),
        node("Reshape", [f"{taken}.values", row], output),
    ]
