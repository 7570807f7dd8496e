"""PyTorch to ONNX with torch.onnx (dynamo): dynamic batch and tokens, attention fused, unread tokens left out."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function, eager_mask, sdpa_mask

from bantam.artifact import Artifact, Signature
from bantam.errors import StageError, reason
from optimizer.config import ExportConfig
from optimizer.export.first_token import compute_first_token_only
from optimizer.export.fusion import fuse_attention, keep_skip_apart
from optimizer.load.model import load_model

LARGEST_FILE = 2_000_000_000
"""Bytes; protobuf messages end at 2 GiB, so a larger model keeps its weights in model.onnx.data."""


def write(parent: Artifact, folder: Path, config: ExportConfig, *, fuse: bool) -> dict[str, Any]:
    """Write ``model.onnx`` (and ``model.onnx.data`` if it is larger than 2 GB); returns the manifest's details.

    Raises :class:`StageError` if torch cannot export the architecture.
    """
    # Eager attention is a plain matmul, softmax, matmul: the form that the rules of fusion recognise.
    module = load_model(parent.folder, attention="eager")
    module.config.use_cache = False
    model = _export(module, parent.manifest.signature)
    _clean(model)
    model, fused = fuse_attention(model) if fuse else (model, 0)
    narrowed = compute_first_token_only(model) if fuse else 0
    keep_skip_apart(model)
    bytes_ = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data" if bytes_ > LARGEST_FILE else None)
    return {"opset": model.opset_imports[""], "fused_attention": fused, "first_token_only": narrowed}


def _export(module: torch.nn.Module, signature: Signature) -> ir.Model:
    # Two texts of 8 tokens, no padding: a batch or a length of one would be taken for a constant.
    example = {name: torch.full((2, 8), 0 if name == "token_type_ids" else 1) for name in signature.inputs}
    if signature.pad_token_id == 1:
        example["input_ids"] += 1
    dynamic = torch.export.Dim.DYNAMIC
    with torch.inference_mode(), _light_masks(), _quiet():
        try:
            program = torch.onnx.export(
                module,
                (),
                kwargs=example,
                dynamo=True,
                dynamic_shapes={name: {0: dynamic, 1: dynamic} for name in example},
                input_names=list(example),
                output_names=["logits"],
                verbose=False,
            )
        except OSError:
            raise
        except Exception as exc:  # tracing runs the model's own code, which raises anything
            raise StageError(
                f"torch cannot export {type(module).__name__} to ONNX: {reason(exc)}. "
                "Expected a model made of operators that ONNX has. Choose another model."
            ) from exc
    if program is None:
        raise StageError(f"torch gave no ONNX program for {type(module).__name__}. Choose another model.")
    return program.model


@contextlib.contextmanager
def _light_masks() -> Iterator[None]:
    """While exporting, build attention masks by broadcasting the padding mask.

    The library's way, an index into the padding mask for each (batch, query, key), becomes some 25 small operators with
    a GatherND, which cost 4% of MiniLM's time on a short text.
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
        pattern = sdpa_mask(1, q_length, kv_length, attention_mask=None, **options)
        allowed = allowed if pattern is None else allowed & pattern
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


def _clean(model: ir.Model) -> None:
    """Remove what is not the model, stack traces with paths of this machine among it; give the dimensions names."""
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    symbols: dict[str, str] = {}
    for value in model.graph.inputs:
        value.metadata_props.clear()
        if value.shape is not None:
            symbols |= {str(dim.value): name for dim, name in zip(value.shape, ("batch", "tokens"), strict=True)}  # type: ignore[union-attr]
    for value in [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]:
        value.metadata_props.clear()
        if value.shape is not None and not value.shape.frozen:
            for i, dim in enumerate(value.shape):
                if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                    value.shape[i] = re.sub(r"\w+", lambda match: symbols.get(match[0], match[0]), dim.value)
