"""An ONNX graph in fp16, by the converter that ONNX Runtime brings; logits leave in fp32.

fp16 ends at 65,504. The additive mask's lowest fp32 number becomes the lowest fp16 one, which added to a score is minus
infinity at worst, and no row of a softmax is of these alone. Any other node that reads or gives a number near the end
on real texts, as decoders' residual streams do, stays in fp32. Sums of squares and of exponentials (LayerNormalization,
Softmax, attention) are left to ONNX Runtime's kernels for CUDA, which are expected to accumulate in fp32.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.transformers.float16 import convert_float_to_float16

from bantam.errors import StageError, reason
from optimizer.logits import Batch
from optimizer.onnx_session import results

GRAPH, WEIGHTS = "model.onnx", "model.onnx.data"
FLOAT = onnx.TensorProto.FLOAT
LARGEST = float(np.finfo(np.float16).max) / 4
"""Of a value on the texts that are looked at; the factor is for other texts."""
MASK = float(np.finfo(np.float32).max) / 4
"""What is larger is no number of the model: an attention mask's lowest float, or one with a score added."""


def halve(folder: Path, largest_file: int, batches: Iterable[Batch], *, threads: int) -> list[str]:
    """Rewrite ``model.onnx`` in ``folder`` in fp16; weights of more than ``largest_file`` bytes go beside the graph.

    Returns the names of the nodes that stay in fp32, because values beyond :data:`LARGEST` were seen there on
    ``batches``. Raises :class:`StageError` if the converter fails.
    """
    floats, kept = _overflowing(folder, batches, threads)
    model = onnx.load(folder / GRAPH)
    # In place of the shapes of fp32: what has to be cast before and behind the nodes that stay.
    del model.graph.value_info[:]
    model.graph.value_info.extend(onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in floats)
    try:
        # Shapes are not inferred: onnx does not know ONNX Runtime's own operators, and no node needs them here.
        half = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True, node_block_list=kept)
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError) as exc:  # whatever it met in the graph
        raise StageError(
            f"ONNX Runtime cannot convert this model to fp16: {reason(exc)}. Export it in fp32 instead."
        ) from exc
    _join(half.graph)
    large = half.ByteSize() > largest_file
    (folder / WEIGHTS).unlink(missing_ok=True)
    onnx.save(half, folder / GRAPH, save_as_external_data=large, location=WEIGHTS if large else None)
    return kept


def _join(graph: onnx.GraphProto) -> None:
    """Lead what one node in fp32 gives to the next one as it is; the converter casts it to fp16 and back."""
    wide = {node.output[0]: node.input[0] for node in graph.node if node.name.endswith("_cast_to_fp16_node")}
    for node in graph.node:
        if node.name.endswith("_cast_to_fp32_node") and node.input[0] in wide:
            node.input[0] = wide[node.input[0]]


def _overflowing(folder: Path, batches: Iterable[Batch], threads: int) -> tuple[list[str], list[str]]:
    """The values of the graph in fp32, and the nodes that read or give what fp16 may not hold, by name in its order.

    The largest of each value is found in the graph, so that nothing is kept that the model itself does not keep, and
    weights are looked at one by one.
    """
    model = onnx.load(folder / GRAPH, load_external_data=False)
    del model.graph.value_info[:]
    floats = _floats(model)
    beyond = {weight.name for weight in model.graph.initializer if _is_beyond(_values(weight, folder))}
    more = onnx.GraphProto(
        initializer=[
            onnx.numpy_helper.from_array(np.array(value, np.float32), f"half.{name}")
            for name, value in {"mask": MASK, "none": 0.0}.items()
        ]
    )
    make = onnx.helper.make_node
    names = {f"{name}.largest": name for name in floats}
    for largest, name in names.items():
        size, is_number, number = (f"{largest}.{part}" for part in ("size", "is_number", "number"))
        more.node.append(make("Abs", [name], [size]))
        more.node.append(make("Less", [size, "half.mask"], [is_number]))
        more.node.append(make("Where", [is_number, size, "half.none"], [number]))
        more.node.append(make("ReduceMax", [number], [largest], keepdims=0))
        more.output.append(onnx.helper.make_tensor_value_info(largest, FLOAT, []))
    for found in results(model, folder, more, batches, threads=threads):
        beyond |= {names[largest] for largest, value in found.items() if value > LARGEST}
    return floats, [node.name for node in model.graph.node if beyond & {*node.input, *node.output}]


def _floats(model: onnx.ModelProto) -> list[str]:
    """The values in fp32 of all nodes, by ONNX Runtime, which knows its own operators; it reads no large weight."""
    typed = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = typed.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(onnx.ValueInfoProto(name=name) for node in graph.node for name in node.output if name)
    for weight in model.graph.initializer:
        if len(weight.dims) < 2:
            graph.initializer.append(weight)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, [*weight.dims]))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(typed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [output.name for output in session.get_outputs() if output.type == "tensor(float)"]


def _values(weight: onnx.TensorProto, folder: Path) -> np.ndarray:
    return onnx.numpy_helper.to_array(weight, str(folder)) if weight.data_type == FLOAT else np.zeros(0)


def _is_beyond(values: np.ndarray) -> bool:
    size = np.abs(values)
    return bool(((size > LARGEST) & (size < MASK)).any())
