"""Matrices that HIGGS has packed, in an ONNX graph: kept in few bits, and restored by ONNX's own operators.

What restores a whole matrix has no input of the model's, so that ONNX Runtime computes it once, when the session is
made (constant folding), and then multiplies as if it had been shipped in fp32 or int8. Rows of a large table are
restored after they are looked up: the table stays packed in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from optimizer.quantize.higgs import Packed, Scheme, rotation, shifts
from optimizer.quantize.onnx_graph import stored

PREFIX = "higgs"


class Restoring:
    """Puts packed matrices into a graph in the place of weights; what these share is stored once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._weights = {weight.name: weight for weight in graph.initializer}

    def matrix(self, name: str, parts: Packed, scheme: Scheme) -> list[onnx.NodeProto]:
        """Nodes that give the weight ``name``, float32 ``[rows, columns]``, also in int8 where the graph has it so.

        Shapes are noted in the graph, for who counts what the model computes.
        """
        nodes = self._restored(self._stored(name, parts), scheme, parts, name, dimensions=1)
        self._note(name, len(parts.scales), parts.columns)
        if (integers := f"{name}_quantized") in self._weights:  # as ONNX Runtime's quantizer names it
            nodes += self._in_8_bits(name, integers)
            self._note(f"{name}_scale", parts.columns)
        return nodes

    def rows(
        self, table: str, parts: Packed, scheme: Scheme, lookup: onnx.NodeProto, rank: int
    ) -> list[onnx.NodeProto]:
        """Nodes in place of ``lookup``, a Gather of rows of ``table`` by indices with so many dimensions."""
        stored, indices, output = self._stored(table, parts), lookup.input[1], lookup.output[0]
        taken = [f"{output}.{number}" for number in range(len(stored))]
        found = [_node("Gather", [part, indices], to) for part, to in zip(stored, taken, strict=True)]
        return [*found, *self._restored(taken, scheme, parts, output, dimensions=rank)]

    def _stored(self, name: str, parts: Packed) -> list[str]:
        """Planes with a last axis for the values of a byte, and scales with one for the values of a group."""
        self._drop(name)
        arrays: list[NDArray[Any]] = [*parts.planes, parts.scales]
        return [self._keep(each[..., None], f"{name}.{number}") for number, each in enumerate(arrays)]

    def _restored(
        self, sources: Sequence[str], scheme: Scheme, parts: Packed, output: str, *, dimensions: int
    ) -> list[onnx.NodeProto]:
        """Nodes from planes and scales to values; ``dimensions`` are before those of a row."""
        groups, size = parts.scales.shape[1], scheme.group_size
        kept = [0] * dimensions  # for Reshape: as they are
        nodes: list[onnx.NodeProto] = []

        def then(kind: str, inputs: list[str], **attributes: Any) -> str:
            name = f"{output}.{kind}.{len(nodes)}"
            nodes.append(_node(kind, inputs, name, **attributes))
            return name

        *planes, scales = sources
        codes_of = [*kept, groups, size // scheme.dimensions]
        shape = self._constant(np.array(codes_of, np.int64), "codes", *codes_of)
        codes, below = "", 0
        for width, plane in zip(scheme.widths, planes, strict=True):
            value = plane
            if width < 8:
                places = self._constant(shifts(width), "places", width)
                mask = self._constant(np.array(2**width - 1, np.uint8), "mask", width)
                value = then("BitShift", [value, places], direction="RIGHT")
                value = then("BitwiseAnd", [value, mask])
            value = then("Reshape", [value, shape])
            if codes:
                higher = self._constant(np.array(below, np.uint8), "below", below)
                value = then("BitShift", [value, higher], direction="LEFT")
                value = then("BitwiseOr", [codes, value])
            codes, below = value, below + width
        codes = then("Cast", [codes], to=TensorProto.INT32)
        value = then("Gather", [self._points(scheme), codes])
        if scheme.grid != "uniform":
            if scheme.dimensions > 1:
                pairs = self._constant(np.array([*kept, groups, size], np.int64), "pairs", *kept, groups, size)
                value = then("Reshape", [value, pairs])
            value = then("MatMul", [value, self._rotation(size, nodes)])
        value = then("Mul", [value, then("Cast", [scales], to=TensorProto.FLOAT)])
        whole = self._constant(np.array([*kept, groups * size], np.int64), "row", *kept, groups * size)
        if parts.columns == groups * size:
            nodes.append(_node("Reshape", [value, whole], output))
            return nodes
        bounds = [self._constant(np.array([each], np.int64), "bound", each) for each in (0, parts.columns, -1)]
        nodes.append(_node("Slice", [then("Reshape", [value, whole]), *bounds], output))
        return nodes

    def _in_8_bits(self, weight: str, integers: str) -> list[onnx.NodeProto]:
        """Nodes that round ``weight`` ``[inputs, outputs]`` as ONNX Runtime's quantizer does: a scale an output."""
        scales = f"{weight}_scale"
        self._drop(integers)
        self._drop(scales)
        axis = self._constant(np.array([0], np.int64), "inputs")
        least = self._constant(np.array(np.finfo(np.float32).tiny), "least")
        largest = self._constant(np.array(127, np.float32), "largest")
        high, low, size, reach = (f"{weight}.{part}" for part in ("high", "low", "size", "reach"))
        return [
            _node("ReduceMax", [weight, axis], high, keepdims=0),
            _node("ReduceMin", [weight, axis], low, keepdims=0),
            _node("Neg", [low], size),
            _node("Max", [high, size, least], reach),
            _node("Div", [reach, largest], scales),
            _node("QuantizeLinear", [weight, scales, f"{weight}_zero_point"], integers, axis=1),
        ]

    def _note(self, name: str, *shape: int) -> None:
        self._graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def _drop(self, name: str) -> None:
        if weight := self._weights.pop(name, None):
            self._graph.initializer.remove(weight)

    def _keep(self, values: NDArray[Any], name: str) -> str:
        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(values, name)
            self._graph.initializer.append(self._weights[name])
        return name

    def _constant(self, values: NDArray[Any], *name: object) -> str:
        return self._keep(values, ".".join(str(part) for part in (PREFIX, *name)))

    def _points(self, scheme: Scheme) -> str:
        """The grid; divided by what the rotation, whose values are 1 and -1, is to be divided by."""
        by = 1.0 if scheme.grid == "uniform" else np.sqrt(scheme.group_size)
        points = (scheme.points / by).astype(np.float32)
        values = points[:, 0] if scheme.dimensions == 1 else points
        return self._constant(values, "grid", scheme.grid, scheme.bits, scheme.group_size)

    def _rotation(self, size: int, nodes: list[onnx.NodeProto]) -> str:
        signs = self._constant(rotation(size), "rotation", size)
        name = f"{nodes[-1].output[0]}.rotation"
        nodes.append(_node("Cast", [signs], name, to=TensorProto.FLOAT))
        return name


def memory_bytes(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """What the weights take once a session is made: those of these shapes may be restored, and others Cast.

    Nodes whose inputs are all weights are computed then, and what only they need is let go.
    """
    numbers = {weight.name: math.prod(weight.dims) for weight in graph.initializer}
    made = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    made |= {f"{name}_quantized": math.prod(shape) for name, shape in shapes.items()}
    constant, used = {"", *numbers}, set[str]()
    for node in graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
            if node.op_type == "Cast":
                made.setdefault(node.output[0], 4 * numbers.get(node.input[0], 0))
        else:
            used.update(node.input)
    return stored(graph, used) + sum(made.get(name, 0) for name in used - {*numbers})


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)
