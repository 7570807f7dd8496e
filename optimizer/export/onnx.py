"""PyTorch to ONNX with torch.onnx (dynamo): dynamic batch and tokens, attention fused, unread tokens left out."""

from __future__ import annotations

import ast
import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function, eager_mask, sdpa_mask

from bantam.artifact import Artifact, Signature
from bantam.errors import StageError, reason
from optimizer.config import ExportConfig
from optimizer.export.experts import every_expert
from optimizer.export.first_token import compute_first_token_only
from optimizer.export.fusion import forget_weights, fuse_attention, keep_skip_apart
from optimizer.load.model import load_model
from optimizer.logits import Vocabulary, vocabulary
from optimizer.parity import tokens

LARGEST_FILE = 500_000_000
"""Bytes of weights; those of a larger model are in model.onnx.data, written one by one and mapped into memory by who
reads them. Beside the graph, they are in memory six times while they are written (llama of 192M parameters: 4.7 GB for
0.8), and protobuf ends at 2 GiB."""


def write(parent: Artifact, folder: Path, config: ExportConfig, *, fuse: bool) -> dict[str, Any]:
    """Write ``model.onnx``, and ``model.onnx.data`` beside it if its weights are larger than :data:`LARGEST_FILE`.

    Returns the manifest's details.
    Raises :class:`StageError` if torch cannot export the architecture.
    """
    # Eager attention is a plain matmul, softmax, matmul: the form that the rules of fusion recognise.
    module = load_model(parent.folder, attention="eager")
    for part in module.modules():
        if isinstance(part, PreTrainedModel):  # T5's decoder has a config of its own
            part.config.use_cache = False
    exported = model = _export(module, parent.manifest.signature, vocabulary(parent.folder))
    del model.graph.outputs[1:]  # hidden states and memories: nobody reads them
    _name_weights(model)
    RemoveUnusedNodesPass()(model)
    _clean(model)
    model, fused = fuse_attention(model) if fuse else (model, 0)
    narrowed = compute_first_token_only(model) if fuse else 0
    if config.precision == "fp32":
        keep_skip_apart(model)
    bytes_ = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data" if bytes_ > LARGEST_FILE else None)
    for graph in (exported, model):
        forget_weights(graph)
    for parameter in module.parameters():  # to which values that are no longer in the graph hold on
        parameter.data = parameter.data.new_empty(0)
    return {"opset": model.opset_imports[""], "fused_attention": fused, "first_token_only": narrowed}


def _export(module: torch.nn.Module, signature: Signature, known: Vocabulary) -> ir.Model:
    # Two texts of 8 tokens, no padding: a batch or a length of one would be taken for a constant.
    batch = tokens((8, 8), signature, known, np.random.default_rng(0))
    example = {name: torch.from_numpy(array) for name, array in batch.items()}
    dynamic = torch.export.Dim.DYNAMIC
    with torch.inference_mode(), _light_masks(), every_expert(module), _Exportable(), _quiet():
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


class _Exportable(TorchFunctionMode):
    """While exporting, compute in another way what a graph cannot hold, or torch's exporter does not know.

    Encoder-decoders (BART, T5) classify from the last end-of-text token. They find it by a mask ``[batch, tokens]``,
    ``hidden_states[marked, :]``, of which nobody knows how many rows it gives, and refuse a batch whose texts have
    different numbers of them. XLNet takes an integer mask from 1.0, for which the exporter finds no operator.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """As of :class:`TorchFunctionMode`."""
        if func is torch.Tensor.__getitem__ and _picks_tokens(*args):
            states, (marked, _) = args
            last = (marked.long() * torch.arange(1, marked.shape[1] + 1, device=marked.device)).argmax(dim=1)
            return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)
        if func is torch.unique_consecutive:
            return args[0][:1]
        if func is torch.Tensor.__rsub__ and isinstance(args[1], float) and not args[0].is_floating_point():
            return func(args[0].to(torch.get_default_dtype()), args[1])
        return func(*args, **(kwargs or {}))


def _picks_tokens(states: torch.Tensor, index: Any) -> bool:
    """Whether it is ``states[marked, :]``."""
    return (
        isinstance(index, tuple)
        and len(index) == states.dim() - 1 == 2
        and isinstance(index[0], torch.Tensor)
        and index[0].dtype == torch.bool
        and index[0].dim() == 2
        and index[1] == slice(None)
    )


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


def _name_weights(model: ir.Model) -> None:
    """Name the weights that were transposed while exporting (``val_54``) after their modules, as the others are.

    People name them where layers are excluded from quantization. A weight that several layers share (ALBERT) may be
    transposed several times: once will do.
    """
    named: dict[str, ir.Value] = dict(model.graph.initializers)
    for node in model.graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or "." in (weight.name or "") or not (weight.is_initializer() or _source(weight)):
            continue
        # From the whole model to the operator: "['', 'bert', ..., 'bert.pooler.dense', 'linear_12']".
        scopes: list[str] = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        module = scopes[-2] if len(scopes) > 1 else ""
        name, source = f"{module}.weight", _source(weight)
        if source is not None and source is named.get(name):
            source.name = f"{name}.T"
            del named[name]
        if module and name not in named:
            weight.name, named[name] = name, weight
        elif module and _same(named[name], weight):
            node.replace_input_with(1, named[name])


def _source(weight: ir.Value) -> ir.Value | None:
    """The initializer that it is the transpose of: what is used several times is not computed while exporting."""
    node = weight.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Transpose" else None
    return source if source is not None and source.is_initializer() else None


def _same(one: ir.Value, other: ir.Value) -> bool:
    if one.const_value is None or other.const_value is None:
        return _source(one) is not None and _source(one) is _source(other)
    return np.array_equal(one.const_value.numpy(), other.const_value.numpy())


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
