"""What the quantizers of ONNX graphs share: the graph to start from, and where its embeddings are."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from bantam.artifact import Artifact

SMALLEST = 16_384
"""Bytes; weights below this stay fp32: nothing to gain."""


def load(parent: Artifact, *, values: bool = True) -> onnx.ModelProto:
    """The graph and weights of a parent in layout onnx, without the shapes that the export noted.

    Quantizers transpose weights, and trip over what was said about them. ``values = False``: weights that are in a file
    beside the graph stay there until somebody reads them, one by one.
    """
    model = onnx.load(parent.folder / "model.onnx", load_external_data=values)
    del model.graph.value_info[:]
    return model


def take_in(graph: onnx.GraphProto, folder: Path, names: Collection[str] | None = None) -> None:
    """Read the values of these weights, or of all, into the graph, if they are in a file beside it in ``folder``."""
    for weight in graph.initializer:
        if uses_external_data(weight) and (names is None or weight.name in names):
            load_external_data_for_tensor(weight, str(folder))


def stored(graph: onnx.GraphProto, names: Collection[str] | None = None) -> int:
    """Bytes of these weights, or of all, in the graph or beside it."""
    return sum(
        int(np.prod(weight.dims)) * onnx.helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize
        for weight in graph.initializer
        if names is None or weight.name in names
    )


def is_large(weight: TensorProto) -> bool:
    """Whether it is a matrix in fp32 that is worth quantizing."""
    large = 4 * int(np.prod(weight.dims)) >= SMALLEST
    return large and len(weight.dims) == 2 and weight.data_type == TensorProto.FLOAT


def embedding_lookups(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that take rows from a large table, if the table is used for nothing else."""
    weights = {weight.name: weight for weight in graph.initializer}
    lookups = [node for node in graph.node if node.op_type == "Gather" and _takes_rows(node, weights)]
    used_elsewhere = {name for node in graph.node if node not in lookups for name in node.input}
    return [node for node in lookups if node.input[0] not in used_elsewhere]


def _takes_rows(node: onnx.NodeProto, weights: dict[str, TensorProto]) -> bool:
    by_rows = all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
    return by_rows and node.input[0] in weights and is_large(weights[node.input[0]])
