"""Remove parts of a model for real (heads, neurons, layers, tokens), or set single weights to zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bantam.artifact import LAYOUTS, Artifact
from bantam.errors import StageError
from optimizer.config import PruneConfig
from optimizer.prune import layers, sparse, structured, vocabulary
from optimizer.stage import RunContext

METHODS: dict[str, Callable[[Artifact, Any, RunContext], Artifact]] = {
    "width": structured.run,
    "layers": layers.run,
    "vocabulary": vocabulary.run,
    "magnitude": sparse.run,
    "2:4": sparse.run,
}
"""Method -> what writes the pruned Hugging Face folder into ``context.folder``."""

REVISION = 3
"""Raised when the same config gives another model: what is distilled from it takes hours."""


def run(parent: Artifact, config: PruneConfig, context: RunContext) -> Artifact:
    """Prune ``parent`` by ``config.method``; nothing is trained here: a recipe recovers what is lost by a distillation.

    Raises :class:`StageError` if the parent is no PyTorch model in fp32, and what the method raises.
    """
    origin = parent.manifest
    if not LAYOUTS[origin.layout].trainable or not origin.is_fp32:
        raise StageError(
            f"Stage {config.name!r} prunes {parent.name!r}, which is {origin.kind}. "
            "Expected a parent of format pytorch in fp32: prune before exporting and quantizing."
        )
    return METHODS[config.method](parent, config, context)
