"""Logits of an artifact, whatever its layout: what parity and quantization compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import LAYOUTS, Artifact, Signature, Text
from bantam.errors import StageError

Batch = Mapping[str, NDArray[np.int64]]
"""Input name -> token array ``[batch, tokens]``."""

Logits = Callable[[Batch], NDArray[np.float32]]
"""A model as a function: a batch to logits float32 ``[batch, labels]``."""


def of(artifact: Artifact, *, threads: int | None = None) -> Logits:
    """Load a model, which may still be in the making.

    ``threads``: CPU threads, by default as many as the runtime likes. Raises :class:`StageError` if the runtime cannot
    load it.
    """
    return LOADERS[artifact.manifest.layout](artifact, threads)


def _pytorch(artifact: Artifact, threads: int | None) -> Logits:
    import torch

    from optimizer.load.model import load_made

    model = load_made(artifact, threads=threads)

    def logits(batch: Batch) -> NDArray[np.float32]:
        with torch.inference_mode():
            made = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
            return np.asarray(made.logits.float().numpy())

    return logits


def _onnx(artifact: Artifact, threads: int | None) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    graph = artifact.folder / LAYOUTS[artifact.manifest.layout].weights[0]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # its classes are straight below Exception
        raise StageError(f"ONNX Runtime cannot load {artifact.name}: {str(exc)[:300]}. Choose another model.") from exc
    return lambda batch: np.asarray(session.run(["logits"], dict(batch))[0])


def _openvino(artifact: Artifact, threads: int | None) -> Logits:
    import openvino

    precision = "bf16" if artifact.manifest.compute.activations.kind == "bfloat" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
    graph = artifact.folder / LAYOUTS[artifact.manifest.layout].weights[0]
    try:
        request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    except RuntimeError as exc:
        raise StageError(f"OpenVINO cannot load {artifact.name}: {str(exc)[-300:]}. Choose another model.") from exc
    return lambda batch: np.array(request.infer(dict(batch))["logits"])


@dataclass(frozen=True)
class Vocabulary:
    """What a text's tokens may be; ids int64."""

    ordinary: NDArray[np.int64]
    """All that are not special."""
    after: NDArray[np.int64]
    """The special ones that end each text; may be empty."""


def vocabulary(folder: Path) -> Vocabulary:
    """The tokens that the tokenizer in ``folder`` gives."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    special = [index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    ids = np.arange(tokenizer.get_vocab_size(), dtype=np.int64)
    word = tokenizer.encode("a")
    after = len(word.ids) - max((i + 1 for i, mark in enumerate(word.special_tokens_mask) if not mark), default=0)
    ends = np.array(word.ids[len(word.ids) - after :], dtype=np.int64)
    return Vocabulary(np.setdiff1d(ids, [*special, *ends]), ends)


def encode(folder: Path, signature: Signature, texts: Sequence[Text]) -> list[Batch]:
    """One batch a text, at its real length: no padding, cut at ``signature.max_length`` tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(signature.max_length, direction=signature.truncation_side)
    attributes = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return [
        {name: np.array([getattr(encoding, attributes[name])], dtype=np.int64) for name in signature.inputs}
        for encoding in tokenizer.encode_batch(list(texts))
        if encoding.ids
    ]


LOADERS: dict[str, Callable[[Artifact, int | None], Logits]] = {
    "hf": _pytorch,
    "hf-quantized": _pytorch,
    "onnx": _onnx,
    "openvino": _openvino,
}
"""Layout -> what opens it; every layout of a model is here."""
