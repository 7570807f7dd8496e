"""Dynamic int8 for ONNX Runtime: weights int8 per output channel, activations uint8 with a scale found at run time."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from optimizer.artifact import Artifact
from optimizer.config import QuantizeConfig
from optimizer.logits import Batch
from optimizer.quantize.onnx_4bit import pack_embeddings
from optimizer.quantize.onnx_graph import embedding_lookups, load
from optimizer.stage import RunContext


def write(
    parent: Artifact, config: QuantizeConfig, context: RunContext, batches: list[Batch]
) -> tuple[str, dict[str, Any]]:
    """Write ``model.onnx`` with int8 matrix products and embeddings; needs no calibration.

    Weights keep all 8 bits: with VNNI nothing saturates; a CPU without it needs ``session.x64quantprecision``.
    Raises :class:`StageError` if the parent is not ONNX in fp32.
    """
    model = load(parent, config)
    bits = config.embedding_bits
    tables = quantize_embeddings(model.graph) if bits == 8 else pack_embeddings(model, config.block_size)
    large = (parent.folder / "model.onnx.data").exists()
    path = context.folder / "model.onnx"
    with _temporary_files_in(context.scratch), _quiet():
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
            # Operators of com.microsoft have no shape inference in onnx; all that they give here is float.
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
    return "onnx", {"quantizer": f"onnxruntime {onnxruntime.__version__}", f"int{bits}_embeddings": tables}


def quantize_embeddings(graph: onnx.GraphProto) -> int:
    """Make each large table that is gathered by rows int8, with one scale a row; returns how many there were.

    ONNX Runtime's own quantizer takes one scale for the whole table, which costs twice the error of a row.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    lookups = embedding_lookups(graph)
    for name in dict.fromkeys(node.input[0] for node in lookups):
        rows, scales = symmetric_rows(numpy_helper.to_array(weights[name]))
        graph.initializer.remove(weights[name])
        graph.initializer.extend(
            [numpy_helper.from_array(rows, f"{name}.int8"), numpy_helper.from_array(scales, f"{name}.scale")]
        )
    for node in lookups:
        position = list(graph.node).index(node)
        graph.node.remove(node)
        for new in reversed(_lookup(node.input[0], node.input[1], node.output[0])):
            graph.node.insert(position, new)
    return len(lookups)


def symmetric_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``table ~ rows * scales``: int8 ``[n, d]`` in -127..127 and float32 ``[n, 1]``, scale = max |row| / 127."""
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.rint(table / scales), -127, 127).astype(np.int8), scales


def _lookup(table: str, indices: str, output: str) -> list[onnx.NodeProto]:
    """``table[indices]`` from int8 rows and their scales."""
    rows, scales = f"{output}.rows", f"{output}.scales"
    return [
        helper.make_node("Gather", [f"{table}.int8", indices], [rows], name=f"{output}.gather_rows"),
        helper.make_node("Gather", [f"{table}.scale", indices], [scales], name=f"{output}.gather_scales"),
        helper.make_node("Cast", [rows], [f"{rows}.float"], name=f"{output}.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{rows}.float", scales], [output], name=f"{output}.scale_rows"),
    ]


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """The quantizer writes the model to a temporary folder; a kill must not leave it in the system's."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without "Please consider to run pre-processing before quantization": the export has done it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
