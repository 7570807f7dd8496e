"""What the quantizers of ONNX graphs share: the graph to start from, and where its embeddings are."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from bantam.artifact import Artifact
from bantam.errors import StageError
from optimizer.config import QuantizeConfig

SMALLEST = 16_384
"""Bytes; weights below this stay fp32: nothing to gain."""


def load(parent: Artifact, config: QuantizeConfig) -> onnx.ModelProto:
    """The parent's graph and weights, without the shapes that the export noted.

    Quantizers transpose weights, and trip over what was said about them. Raises :class:`StageError` if the parent is
    not ONNX in fp32.
    """
    if parent.manifest.layout != "onnx" or not parent.manifest.is_fp32:
        raise StageError(
            f"Stage {config.name!r} quantizes {parent.name!r}, which is {parent.manifest.kind}. "
            "Expected a parent of format onnx in fp32."
        )
    model = onnx.load(parent.folder / "model.onnx")
    del model.graph.value_info[:]
    return model


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
