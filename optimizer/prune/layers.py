"""Whole layers go: those that are named, or those that change the hidden states least."""

from __future__ import annotations

import time
from typing import Any

from bantam.artifact import Artifact
from bantam.errors import StageError
from optimizer.architecture import blocks
from optimizer.config import LayersConfig
from optimizer.data.sample import draw
from optimizer.stage import RunContext
from optimizer.surgery import keep_layers
from optimizer.surgery.importance import of_blocks
from optimizer.training.classifier import load_artifact, write


def run(parent: Artifact, config: LayersConfig, context: RunContext) -> Artifact:
    """Keep the layers ``config.layers``, or that many with the largest block influence (ShortGPT) on training texts.

    The manifest's details have the ``layers`` of the parent that stay and, if they were chosen here, the ``influence``
    of each. Raises :class:`StageError` for layers that the parent does not have and if none would go,
    :class:`ModelError` for an architecture without one list of blocks.
    """
    started = time.monotonic()
    tokenizer, model = load_artifact(parent.folder)
    model.to(context.device)  # type: ignore[arg-type]  # a string is a device to PyTorch
    have, wanted = len(blocks(model)), config.layers
    count = len(wanted) if isinstance(wanted, tuple) else wanted
    if not 1 <= count < have:
        raise StageError(
            f"Stage {config.name!r} keeps {count} layers of {config.parent!r}, which has {have}. "
            f"Expected 1 to {have - 1}, so that something goes and something stays."
        )
    details: dict[str, Any] = {}
    if isinstance(wanted, tuple):
        kept = wanted
    else:
        texts = draw(context.data.splits["train"], config.calibration_rows, config.seed).texts
        influence = of_blocks(model, tokenizer, texts)
        kept = tuple(sorted(sorted(range(have), key=lambda layer: -influence[layer])[:count]))
        details["influence"] = [round(value, 6) for value in influence]
    return write(
        keep_layers(model, kept),
        tokenizer,
        config,
        context,
        longest=parent.manifest.signature.max_length,
        parent=parent,
        details={"layers": list(kept), **details},
        metrics={"prune_s": round(time.monotonic() - started, 1)},
        random_weights=parent.manifest.random_weights,
    )
