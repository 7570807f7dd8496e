"""What a weight may be kept in: its bytes, what it is restored to, and the nodes that compute with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bantam.artifact import Numbers
from optimizer.quantize import higgs
from optimizer.quantize.embeddings import bytes_of_rows, quantize_embeddings, restored_rows, symmetric_rows
from optimizer.quantize.higgs import Scheme
from optimizer.quantize.onnx_4bit import like, packed
from optimizer.quantize.onnx_graph import embedding_lookups
from optimizer.quantize.outliers import rounded
from optimizer.quantize.restore import Restoring

Values = NDArray[np.float32]


class WeightFormat(Protocol):
    """One choice for a matrix: ``[K, N]`` of a product, or a table of K rows."""

    @property
    def numbers(self) -> Numbers:
        """For the manifest."""

    def size(self, shape: Sequence[int]) -> int:
        """Bytes, scales included."""

    def restored(self, values: Values) -> Values:
        """What is computed with, in place of ``values``; not finite where the format has no number for it."""

    def put(self, graph: onnx.GraphProto, weight: str, folder: Path) -> None:
        """Put the weight of this name into this format; ``folder``: where the files beside the graph are, if any."""


@dataclass(frozen=True)
class Blocks:
    """Integers of a product: a scale (fp16) and a zero point for each block of an output channel's weights."""

    bits: int
    block_size: int
    products: str
    """What is computed in: a key of :data:`optimizer.quantize.onnx_4bit.ACCURACY_LEVEL`."""

    @property
    def numbers(self) -> Numbers:
        """Integers."""
        return Numbers("int", self.bits, "asymmetric", "block")

    def size(self, shape: Sequence[int]) -> int:
        """Blocks are filled up, and so are the bytes of an output channel's zero points."""
        blocks = -(-shape[0] // self.block_size)
        return shape[1] * (blocks * self.block_size * self.bits // 8 + 2 * blocks + -(-blocks * self.bits // 8))

    def restored(self, values: Values) -> Values:
        """Rounded to the nearest."""
        return rounded(values, self.block_size, self.bits, scales=np.float16)

    def put(self, graph: onnx.GraphProto, weight: str, folder: Path) -> None:
        """As MatMulNBits.

        It takes scales in fp32 only, half a bit a weight more in blocks of 32: runtimes make them of fp16 as they load.
        """
        nodes = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] == weight]
        product, (steps, scales, zero_points) = packed(
            nodes[0], _taken(graph, weight, folder), bits=self.bits, block_size=self.block_size, products=self.products
        )
        for node in nodes:
            node.CopyFrom(like(product, node, f"int{self.bits}"))
        graph.initializer.extend([steps, zero_points])
        _put_half(graph, numpy_helper.to_array(scales), scales.name)


@dataclass(frozen=True)
class Channels:
    """int8 of a product in the file, a scale (fp32) an output channel; fp32 in memory.

    ONNX Runtime 1.31 has no fast MatMulNBits of 8 bits and fp32: MiniLM took 2.9 times as long with it as in fp32.
    """

    @property
    def numbers(self) -> Numbers:
        """Integers."""
        return Numbers("int", 8, "symmetric", "channel")

    def size(self, shape: Sequence[int]) -> int:
        """A byte each, and four an output channel."""
        return math.prod(shape) + 4 * shape[1]

    def restored(self, values: Values) -> Values:
        """Rounded to the nearest."""
        rows, scales = symmetric_rows(values.T)
        return np.asarray((rows * scales).T)

    def put(self, graph: onnx.GraphProto, weight: str, folder: Path) -> None:
        """Runtimes make it fp32 once, as they load."""
        rows, scales = symmetric_rows(_taken(graph, weight, folder).T)
        steps, factors, integers = f"{weight}.int8", f"{weight}.scale", f"{weight}.float"
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(rows.T), steps))
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(scales.T), factors))
        graph.node.insert(0, helper.make_node("Mul", [integers, factors], [weight], name=f"{weight}.Mul"))
        graph.node.insert(0, helper.make_node("Cast", [steps], [integers], name=f"{weight}.Cast", to=TensorProto.FLOAT))


@dataclass(frozen=True)
class Half:
    """fp16 of a product in the file, fp32 in memory."""

    @property
    def numbers(self) -> Numbers:
        """fp16."""
        return Numbers("float", 16)

    def size(self, shape: Sequence[int]) -> int:
        """Two bytes each."""
        return 2 * math.prod(shape)

    def restored(self, values: Values) -> Values:
        """Beyond 65,504, infinity."""
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)

    def put(self, graph: onnx.GraphProto, weight: str, folder: Path) -> None:
        """Runtimes make it fp32 once, as they load."""
        _put_half(graph, _taken(graph, weight, folder), weight)


@dataclass(frozen=True)
class TableRows:
    """A table in 4, 8 or 16 bits, made fp32 row by row as it is looked up: :mod:`optimizer.quantize.embeddings`."""

    bits: int
    block_size: int = 32
    """Of 4 bits."""

    @property
    def numbers(self) -> Numbers:
        """Integers, or fp16."""
        if self.bits == 16:
            return Numbers("float", 16)
        return Numbers("int", self.bits, *(("symmetric", "row") if self.bits == 8 else ("asymmetric", "block")))

    def size(self, shape: Sequence[int]) -> int:
        """As there."""
        return bytes_of_rows(shape, self.bits, self.block_size)

    def restored(self, values: Values) -> Values:
        """As there."""
        return Half().restored(values) if self.bits == 16 else restored_rows(values, self.bits, self.block_size)

    def put(self, graph: onnx.GraphProto, weight: str, folder: Path) -> None:
        """As there."""
        quantize_embeddings(graph, {weight: self.bits}, self.block_size, folder=folder)


@dataclass(frozen=True)
class Grid:
    """HIGGS: :mod:`optimizer.quantize.higgs`. Restored as the graph is loaded, or row by row as it is looked up."""

    scheme: Scheme
    dimensions: int = 0
    """Of the indices that look its rows up; 0: it is restored as a whole."""

    @property
    def numbers(self) -> Numbers:
        """Points of a grid."""
        return Numbers("grid", self.scheme.bits, "symmetric", "block")

    def size(self, shape: Sequence[int]) -> int:
        """Codes, and a scale (fp16) for each group."""
        return self.scheme.size(shape)

    def restored(self, values: Values) -> Values:
        """As there."""
        return higgs.restored(higgs.packed(values, self.scheme), self.scheme)

    def put(self, graph: onnx.GraphProto, weight: str, folder: Path) -> None:
        """Nodes that restore it, before those that use it or in place of those that look it up."""
        (found,) = (each for each in graph.initializer if each.name == weight)
        parts = higgs.packed(numpy_helper.to_array(found, str(folder)), self.scheme)
        restoring = Restoring(graph)
        if not self.dimensions:
            for node in reversed(restoring.matrix(weight, parts, self.scheme)):
                graph.node.insert(0, node)
            return
        for lookup in [node for node in embedding_lookups(graph) if node.input[0] == weight]:
            position = list(graph.node).index(lookup)
            graph.node.remove(lookup)
            for node in reversed(restoring.rows(weight, parts, self.scheme, lookup, self.dimensions)):
                graph.node.insert(position, node)


def of_products(
    choices: Sequence[str], block_sizes: Sequence[int], columns: int, products: str
) -> dict[str, WeightFormat]:
    """What a product's matrix of so many ``columns`` may be kept in for these choices, by names for people.

    Choices are ``int4``, ``int8``, ``fp16``, and ``higgs2`` to ``higgs4``.
    """
    found: dict[str, WeightFormat] = {}
    for name in choices:
        if name == "fp16":
            found[name] = Half()
        elif name.startswith("higgs"):
            found |= _of_grids(name, columns, 0)
        elif name == "int8" and products == "fp32":
            found[name] = Channels()
        else:
            bits = int(name.removeprefix("int"))
            found |= {f"{name}-{size}": Blocks(bits, size, products) for size in block_sizes}
    return found


def of_tables(
    choices: Sequence[str], block_sizes: Sequence[int], columns: int, dimensions: int
) -> dict[str, WeightFormat]:
    """The same of a table; one of few rows (``dimensions`` 0, see :func:`packable`) has 8 bits in place of 4."""
    found: dict[str, WeightFormat] = {}
    for name in choices:
        if name == "fp16":
            found[name] = TableRows(16)
        elif name.startswith("higgs"):
            found |= _of_grids(name, columns, dimensions)
        elif name == "int4" and dimensions:
            found |= {f"{name}-{size}": TableRows(4, size) for size in block_sizes}
        else:
            found["int8"] = TableRows(8)
    return found


def _of_grids(name: str, columns: int, dimensions: int) -> dict[str, WeightFormat]:
    scheme = Scheme(int(name.removeprefix("higgs"))).fits(columns)  # type: ignore[arg-type]  # 2, 3 or 4
    return {name: Grid(scheme, dimensions)}


def _taken(graph: onnx.GraphProto, weight: str, folder: Path) -> Values:
    """Values of an initializer, which is taken out of the graph."""
    (found,) = (each for each in graph.initializer if each.name == weight)
    values = np.array(numpy_helper.to_array(found, str(folder)))
    graph.initializer.remove(found)
    return values


def _put_half(graph: onnx.GraphProto, values: Values, name: str) -> None:
    """An initializer in fp16, and before all nodes the one that makes it the fp32 value ``name``."""
    graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
    graph.node.insert(0, helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.Cast", to=TensorProto.FLOAT))
