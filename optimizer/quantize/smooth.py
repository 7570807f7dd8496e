"""SmoothQuant (Xiao et al. 2023): what a few channels of an activation have too much of goes into the weights.

With X ``[tokens, K]``, W ``[K, N]`` and one factor a channel (equations 3 and 4)::

    Y = (X diag(s)^-1) (diag(s) W)
    s_k = max_tokens |X_k|^alpha / max_n |W_kn|^(1 - alpha)

In fp32 nothing changes; in int8 the steps of X are no longer those of its largest channel. By hand, because the one of
ONNX Runtime needs neural-compressor, which is no longer kept up.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from optimizer.logits import Batch
from optimizer.onnx_session import activations

SMALLEST = 1e-5
"""Of a factor, as in the authors' code: what hardly moves in calibration may move later, and is then not blown up."""


def smooth(
    model: onnx.ModelProto,
    nodes: Iterable[onnx.NodeProto],
    alpha: float,
    batches: Iterable[Batch],
    *,
    folder: Path,
    threads: int,
) -> int:
    """Smooth the inputs of these products of a graph; returns how many inputs.

    The products that share an input share its factors. These are folded into the layer normalization that gives the
    input where nothing else reads it (pre-norm); elsewhere the input is multiplied, as
    the residual connection of a post-norm encoder must not change. Weights that products of several inputs
    share cannot be smoothed. ``folder``: where the file beside the graph is, if there is one.
    """
    inputs: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        inputs.setdefault(node.input[0], []).append(node)
    weights = {weight.name: weight for weight in model.graph.initializer}
    uses = [name for node in model.graph.node for name in node.input]
    inputs = {value: nodes for value, nodes in inputs.items() if all(uses.count(node.input[1]) == 1 for node in nodes)}
    maxima: dict[str, NDArray[np.float32]] = {}
    for seen in activations(model, folder, [*inputs], batches, threads=threads):
        for value, array in seen.items():
            largest = np.abs(array.reshape(-1, array.shape[-1])).max(axis=0)
            maxima[value] = np.maximum(maxima.get(value, 0), largest)
    for value, readers in inputs.items():
        matrices = [numpy_helper.to_array(weights[node.input[1]], str(folder)) for node in readers]
        factors = channel_factors(maxima[value], np.max([np.abs(each).max(axis=1) for each in matrices], axis=0), alpha)
        for node, matrix in zip(readers, matrices, strict=True):
            weight = weights[node.input[1]]
            weight.CopyFrom(numpy_helper.from_array(matrix * factors[:, None], weight.name))
        _divide(model.graph, value, readers, factors, folder, only=uses.count(value) == len(readers))
    return len(inputs)


def channel_factors(activation: NDArray[np.float32], weight: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """Equation 4, from the largest sizes ``[K]`` of the channels; at least :data:`SMALLEST`, 1 where either is 0."""
    factors = activation.astype(np.float64) ** alpha / np.maximum(weight, 1e-30).astype(np.float64) ** (1 - alpha)
    return np.where((activation > 0) & (weight > 0), np.maximum(factors, SMALLEST), 1).astype(np.float32)


def _divide(
    graph: onnx.GraphProto,
    value: str,
    nodes: list[onnx.NodeProto],
    factors: NDArray[np.float32],
    folder: Path,
    *,
    only: bool,
) -> None:
    """Have these nodes read ``value / factors``; ``only``: nobody else reads it."""
    weights = {weight.name: weight for weight in graph.initializer}
    position, producer = next((i, node) for i, node in enumerate(graph.node) if value in node.output)
    if only and producer.op_type == "LayerNormalization":
        for place in range(1, len(producer.input)):
            divided = numpy_helper.to_array(weights[producer.input[place]], str(folder)) / factors
            graph.initializer.append(numpy_helper.from_array(divided, f"{value}.smooth.{place}"))
            producer.input[place] = f"{value}.smooth.{place}"
        return
    graph.initializer.append(numpy_helper.from_array(1 / factors, f"{value}.smooth"))
    graph.node.insert(position + 1, helper.make_node("Mul", [value, f"{value}.smooth"], [f"{value}.smoothed"]))
    for node in nodes:
        node.input[0] = f"{value}.smoothed"
