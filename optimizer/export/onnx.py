"""PyTorch to ONNX with torch.onnx (dynamo): dynamic batch and tokens, standard operators only."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from transformers import AutoModelForSequenceClassification
from transformers import logging as transformers_logging
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function, eager_mask, sdpa_mask

from optimizer.artifact import Artifact
from optimizer.errors import StageError
from optimizer.recipe import ExportConfig

LARGEST_FILE = 2_000_000_000
"""Bytes; protobuf messages end at 2 GiB, so a larger model keeps its weights in model.onnx.data."""


def write(parent: Artifact, folder: Path, config: ExportConfig) -> dict[str, Any]:
    """Write ``model.onnx`` (and ``model.onnx.data`` if it is larger than 2 GB); returns the manifest's details.

    Raises :class:`StageError` if torch cannot export the architecture.
    """
    transformers_logging.disable_progress_bar()
    # Eager attention is a plain matmul, softmax, matmul: the form that runtimes recognise and fuse.
    model = AutoModelForSequenceClassification.from_pretrained(
        parent.folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.config.use_cache = False
    proto = _export(model, parent)
    _clean(proto)
    _unfuse_skip_layer_norm(proto)
    large = proto.ByteSize() > LARGEST_FILE
    onnx.save_model(
        proto, folder / "model.onnx", save_as_external_data=large, location="model.onnx.data" if large else None
    )
    return {"opset": max(entry.version for entry in proto.opset_import if entry.domain == "")}


def _export(model: torch.nn.Module, parent: Artifact) -> onnx.ModelProto:
    inputs = parent.manifest.signature.inputs
    # Two texts of 8 tokens, no padding: with a batch or length of one, torch would take it for a constant.
    example = {name: torch.full((2, 8), 0 if name == "token_type_ids" else 1) for name in inputs}
    if parent.manifest.signature.pad_token_id == 1:
        example["input_ids"] += 1
    dynamic = torch.export.Dim.DYNAMIC
    with torch.inference_mode(), _light_masks(), _quiet():
        try:
            program = torch.onnx.export(
                model,
                (),
                kwargs=example,
                dynamo=True,
                dynamic_shapes={name: {0: dynamic, 1: dynamic} for name in inputs},
                input_names=list(inputs),
                output_names=["logits"],
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, torch.onnx.OnnxExporterError, RuntimeError, ValueError) as exc:
            raise StageError(
                f"torch cannot export the architecture {type(model).__name__} to ONNX: {_first_line(exc)}. "
                "Expected an encoder or decoder made of operators that ONNX has. Choose another model."
            ) from exc
    assert program is not None
    return program.model_proto


def _first_line(exc: BaseException) -> str:
    cause = exc
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).strip().splitlines()[0][:200] if str(cause).strip() else type(cause).__name__


@contextlib.contextmanager
def _light_masks() -> Iterator[None]:
    """While exporting, build attention masks by broadcasting the padding mask.

    The library's way, an index into the padding mask for each (batch, query, key), becomes some 25 small operators with a
    GatherND, which cost 4% of MiniLM's time on a short text.
    """
    ALL_MASK_ATTENTION_FUNCTIONS["eager"] = _broadcast_mask
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["eager"]


def _broadcast_mask(
    batch_size: int, q_length: int, kv_length: int, attention_mask: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """Additive mask ``[batch, 1, queries, keys]``: 0 where a token may look, the lowest float where not."""
    if attention_mask is None or options.get("use_vmap"):
        mask: torch.Tensor = eager_mask(batch_size, q_length, kv_length, attention_mask=attention_mask, **options)
        return mask
    allowed = attention_mask[:, None, None, :].bool()
    if options["mask_function"] is not bidirectional_mask_function:
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        allowed = allowed & sdpa_mask(1, q_length, kv_length, attention_mask=None, **options)
    dtype = options["dtype"]
    additive = torch.where(allowed, torch.zeros((), dtype=dtype), torch.finfo(dtype).min)
    return additive.expand(batch_size, 1, q_length, kv_length)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch says about itself while exporting; nothing of it is about the model."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # "torchvision is not installed"
    try:
        with warnings.catch_warnings():
            # torch's own use of a name that it has deprecated (copyreg, while it copies a tree specification).
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        registration.setLevel(level)


def _clean(proto: onnx.ModelProto) -> None:
    """Remove what is not the model: stack traces with paths of this machine, and stale inferred shapes."""
    del proto.metadata_props[:]
    proto.doc_string = ""
    for graph in [proto.graph, *proto.functions]:
        del graph.metadata_props[:], graph.value_info[:]
        graph.doc_string = ""
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del value.metadata_props[:]
        value.doc_string = ""
    for value in [*proto.graph.input, *proto.graph.output]:
        for dimension, name in zip(value.type.tensor_type.shape.dim, ("batch", "tokens"), strict=False):
            if dimension.dim_param:
                dimension.dim_param = name


def _unfuse_skip_layer_norm(proto: onnx.ModelProto) -> None:
    """Write ``Add`` before ``LayerNormalization`` as ``Sum`` of two, which is the same.

    ONNX Runtime fuses Add and LayerNormalization into SkipLayerNormalization, whose CPU kernel (1.31) takes 41 us on 19
    tokens of MiniLM where the two take 13. It does not look for Sum.
    """
    producers = {output: node for node in proto.graph.node for output in node.output}
    for node in proto.graph.node:
        if node.op_type == "LayerNormalization":
            before = producers.get(node.input[0])
            if before is not None and before.op_type == "Add":
                before.op_type = "Sum"
