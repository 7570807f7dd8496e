"""What the quantizers of ONNX graphs share: the graph to start from, and where its embeddings are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from bantam.artifact import Artifact
from optimizer.logits import Batch

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


def products(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The products of an activation with a large matrix of weights, by the names of the layers that they are.

    Such as ``bert.pooler.dense``: the export keeps the names of biases, and those of the weights that it does not turn
    over. A layer with neither to itself has its node's name.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    found = [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in weights and is_large(weights[n.input[1]])]
    parameters = [[*(each.input[1] for each in [bias_of(graph, node)] if each), node.input[1]] for node in found]
    named = [
        next((name.rpartition(".")[0] for name in names if name.endswith((".bias", ".weight"))), node.name)
        for node, names in zip(found, parameters, strict=True)
    ]
    times = Counter(named)
    return {name if times[name] == 1 else node.name: node for name, node in zip(named, found, strict=True)}


def bias_of(graph: onnx.GraphProto, product: onnx.NodeProto) -> onnx.NodeProto | None:
    """The node that adds a vector of weights to a product, if that is all that the product is used for."""
    vectors = {weight.name for weight in graph.initializer if len(weight.dims) == 1}
    uses = [node for node in graph.node if product.output[0] in node.input]
    sole = len(uses) == 1 and uses[0].op_type == "Add" and uses[0].input[0] == product.output[0]
    return uses[0] if sole and uses[0].input[1] in vectors else None


def activations(
    model: onnx.ModelProto, values: Sequence[str], batches: Iterable[Batch], *, threads: int
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """What these values of the graph are, batch by batch: no more than those of one are in memory."""
    import onnxruntime

    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in values)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    del graph
    for batch in batches:
        yield dict(zip(values, session.run([*values], dict(batch)), strict=True))
