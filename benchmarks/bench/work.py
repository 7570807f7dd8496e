"""The least that a variant has to do for one text: multiply-adds, and bytes of weights to be read.

Counted on what is run, not derived from an architecture: PyTorch by its own FLOP counter; ONNX by the shapes that ONNX
Runtime's profiler notes for one text, in the graph as the runtime has fused it; OpenVINO by its shape inference.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Shape = list[int]


@dataclass(frozen=True)
class Work:
    """What one text of some tokens costs at least."""

    macs: int
    """Multiply-adds of matrix products; elementwise work, softmax and normalisation are left out."""
    weight_bytes: int
    """Of all weights as they are stored, but for tables with a row for each token of the vocabulary: of those, a text
    reads a few rows."""


def count(folder: Path, deployable: Iterable[str], tokens: int) -> Work:
    """The work of the model among the files that ship, for one text of ``tokens`` tokens.

    Raises ValueError if there is no file of a format known here.
    """
    from tokenizers import Tokenizer

    tokenizer = next(iter(sorted(folder.rglob("tokenizer.json"))))
    vocabulary = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    for name in deployable:
        for ending, found in ((".onnx", onnx), (".xml", openvino), (".safetensors", pytorch)):
            if name.endswith(ending) and "tokenizer" not in name:
                return found(folder / name, tokens, vocabulary)
    raise ValueError(
        f"{folder}: got {', '.join(deployable)}, expected a file that ends with .onnx, .xml or .safetensors"
    )


def pytorch(weights: Path, tokens: int, vocabulary: int) -> Work:
    """A Hugging Face folder, by PyTorch's :class:`FlopCounterMode`, whose FLOPs are two a multiply-add."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForSequenceClassification

    # Eager attention: the counter knows matrix products, and not each fused attention of each device.
    model = AutoModelForSequenceClassification.from_pretrained(weights.parent, attn_implementation="eager").eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones((1, tokens), dtype=torch.int64), attention_mask=torch.ones((1, tokens)))
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    sizes = [(entry["shape"], entry["data_offsets"][1] - entry["data_offsets"][0]) for entry in tensors]
    return Work(counter.get_total_flops() // 2, _without_tables(sizes, vocabulary))


def onnx(path: Path, tokens: int, vocabulary: int) -> Work:
    """An ONNX model, by the profile of one run."""
    import numpy as np
    import onnx as onnx_format
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.run(None, {each.name: np.ones((1, tokens), dtype=np.int64) for each in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event["args"] for event in events if event["name"].endswith("_kernel_time")]
    macs = sum(node_macs(node["op_name"], _shapes(node["input_type_shape"]), _shapes(node["output_type_shape"]))
               for node in nodes)  # fmt: skip
    tensors = onnx_format.load(str(path)).graph.initializer
    sizes = [(list(each.dims), onnx_format.numpy_helper.to_array(each).nbytes) for each in tensors]
    return Work(macs, _without_tables(sizes, vocabulary))


def node_macs(operator: str, inputs: list[Shape], outputs: list[Shape]) -> int:
    """Multiply-adds of one node from the shapes of what it got and gave; 0 for operators without a matrix product."""
    if operator in PRODUCTS:
        return math.prod(outputs[0]) * inputs[0][-1]
    if operator in ATTENTION:  # [batch, tokens, hidden]: scores and context are tokens x tokens x hidden each
        batch, tokens, hidden = outputs[0]
        projections = 3 * hidden * inputs[0][-1] * batch * tokens if operator in PROJECTING else 0
        return 2 * batch * tokens * tokens * hidden + projections
    return 0


PRODUCTS = frozenset({
    "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "MatMulNBits", "QLinearMatMul", "QGemm",
})  # fmt: skip
"""Operators ``[..., k] x [k, n] -> [..., n]``, ONNX's own and ONNX Runtime's."""
PROJECTING = frozenset({"Attention", "QAttention"})
"""Those that also project queries, keys and values."""
ATTENTION = PROJECTING | {"MultiHeadAttention"}


def _shapes(described: Iterable[Mapping[str, Shape]]) -> list[Shape]:
    return [shape for each in described for shape in each.values()]


def openvino(path: Path, tokens: int, vocabulary: int) -> Work:
    """An OpenVINO model, with its inputs set to one text."""
    import openvino as ov

    model: Any = ov.Core().read_model(path)
    model.reshape({each.any_name: [1, tokens] for each in model.inputs})
    macs, sizes = 0, []
    for node in model.get_ops():
        if node.get_type_name() == "MatMul":
            left = list(node.input(0).get_shape())
            inner = left[-2] if node.get_attributes()["transpose_a"] else left[-1]
            macs += math.prod(node.output(0).get_shape()) * inner
        elif node.get_type_name() == "ScaledDotProductAttention":
            query, key = (list(node.input(i).get_shape()) for i in (0, 1))
            macs += 2 * math.prod(query) * key[-2]
        elif node.get_type_name() == "Constant":
            sizes.append((list(node.get_output_shape(0)), node.get_byte_size()))
    return Work(macs, _without_tables(sizes, vocabulary))


def _without_tables(sizes: Iterable[tuple[Shape, int]], vocabulary: int) -> int:
    return sum(size for shape, size in sizes if not (shape and shape[0] == vocabulary))
