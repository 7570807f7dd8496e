"""PyTorch checkpoints in fewer bits, by the quantizers that transformers has: layout ``hf-quantized``.

They are read, evaluated and timed beside the other variants, and not served: Triton's process has no PyTorch.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bantam.artifact import Artifact, Compute
from bantam.errors import StageError
from optimizer.quantize.method import Quantized
from optimizer.stage import RunContext

if TYPE_CHECKING:
    from transformers.utils.quantization_config import QuantizationConfigMixin


def write(
    parent: Artifact,
    context: RunContext,
    library: str,
    compute: Compute,
    quantization: Callable[[list[str]], QuantizationConfigMixin],
    *,
    group_size: int = 1,
) -> Quantized:
    """Write ``config.json`` and ``model.safetensors`` of ``parent`` with its linear layers quantized by ``library``.

    ``quantization``: from the names of the layers that stay as they are, to transformers' configuration. These are the
    head, with the pooler before it, and what has inputs that ``group_size`` does not divide. Weights are quantized one
    by one as they are read, so that the model is never in fp32 as a whole. Raises :class:`StageError` if no layer can
    be quantized.
    """
    from optimizer.load.model import load_model

    kept, left = _left_as_they_are(parent, group_size)
    model = load_model(parent.folder, quantization=quantization([*kept, *left]))
    linear = [part for part in model.modules() if hasattr(part, "in_features")]
    layers = sum(not _is_plain(part.weight) for part in linear)
    if not layers:
        raise StageError(
            f"{library} finds no linear layer of {parent.name!r} that it can quantize, of {len(linear)}. "
            "Use another quantization method for this model."
        )
    model.save_pretrained(context.folder)
    for path in context.folder.glob("*.safetensors"):
        _put_metadata_in_order(path)
    alone = compute.batch_invariant and parent.manifest.compute.batch_invariant
    return Quantized(
        replace(compute, batch_invariant=alone),
        {
            "quantizer": f"{library} {importlib.metadata.version(library)}",
            "quantized_layers": layers,
            **({"layers_left_fp32": len(left)} if left else {}),
        },
    )


def _left_as_they_are(parent: Artifact, group_size: int) -> tuple[list[str], list[str]]:
    """Names of the head's linear layers, and of the others whose inputs ``group_size`` does not divide."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from optimizer.load.guard import of_head
    from optimizer.load.model import load_config

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(load_config(parent.folder), trust_remote_code=False)
    linear = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    head = [name for name in linear if of_head(model, name)]
    return head, [name for name, part in linear.items() if name not in head and part.in_features % group_size]


def _is_plain(weight: Any) -> bool:
    """Whether it is a tensor of torch itself: the libraries have classes of their own."""
    import torch

    return type(weight) is torch.nn.Parameter


def _put_metadata_in_order(path: Path) -> None:
    """Sort a file's metadata, of which torchao has some for each tensor: safetensors writes them in any order."""
    from optimizer.load.weights import METADATA, read_header

    length, header = read_header(path)
    header[METADATA] = dict(sorted(header.get(METADATA, {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > length:
        raise StageError(f"{path.name}: its header has no room for its own metadata. Please report this.")
    with path.open("r+b") as file:
        file.seek(8)
        file.write(text.ljust(length))
