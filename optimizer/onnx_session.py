"""ONNX graphs that are run while they are worked on: to see what is computed in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from optimizer.logits import Batch

LARGE = 16_384
"""Bytes; weights from here on are handed over beside the graph."""


def session(model: onnx.ModelProto, folder: Path, *, threads: int, more: onnx.GraphProto | None = None) -> Any:
    """An ``InferenceSession`` of a graph with the nodes, weights and inputs of ``more``, whose outputs are its own.

    ``folder``: where the file beside the graph is, if there is one. Weights in it stay there for ONNX Runtime to read,
    and large ones in memory are handed over as they are: protobuf writes at most 2 GiB.
    """
    import onnxruntime

    more = more or onnx.GraphProto()
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = light.graph
    graph.name = model.graph.name
    for part in ("node", "input"):
        getattr(graph, part).extend([*getattr(model.graph, part), *getattr(more, part)])
    graph.output.extend(more.output or model.graph.output)
    beside: dict[str, Any] = {}
    for weight in [*model.graph.initializer, *more.initializer]:
        if uses_external_data(weight) or weight.ByteSize() < LARGE:
            graph.initializer.append(weight)
            continue
        beside[weight.name] = onnxruntime.OrtValue.ortvalue_from_numpy(numpy_helper.to_array(weight))
        stub = TensorProto(name=weight.name, dims=weight.dims, data_type=weight.data_type)
        stub.data_location = TensorProto.EXTERNAL
        stub.external_data.add(key="location", value="memory")
        graph.initializer.append(stub)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    options.add_external_initializers([*beside], [*beside.values()])
    made = onnxruntime.InferenceSession(light.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made.weights = beside  # it reads them where they are, and does not keep them alive
    return made


def results(
    model: onnx.ModelProto, folder: Path, more: onnx.GraphProto, batches: Iterable[Batch], *, threads: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """What the outputs of ``more`` are, batch by batch; else as :func:`session`."""
    names = [output.name for output in more.output]
    opened = session(model, folder, threads=threads, more=more)
    for batch in batches:
        yield dict(zip(names, opened.run(names, dict(batch)), strict=True))


def activations(
    model: onnx.ModelProto, folder: Path, values: Sequence[str], batches: Iterable[Batch], *, threads: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """What these values of the graph, in fp32, are, batch by batch: no more than those of one are in memory."""
    outputs = [helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in values]
    return results(model, folder, onnx.GraphProto(output=outputs), batches, threads=threads)
