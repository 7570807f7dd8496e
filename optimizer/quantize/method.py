"""What one method of quantization is: known before anything runs, so that a recipe is checked when it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bantam.artifact import Artifact, Compute
from optimizer.config import QuantizeConfig
from optimizer.logits import Batch
from optimizer.stage import RunContext

Batches = Callable[[int], list[Batch]]
"""So many training texts (or all, if there are fewer), drawn by the config's seed: one a batch, at its real length."""


@dataclass(frozen=True)
class Quantized:
    """What a method says of the model that it has written."""

    compute: Compute
    details: dict[str, Any] = field(default_factory=dict)
    """For the manifest: how many parts were quantized, by which version of what."""


@dataclass(frozen=True)
class Method:
    """How one method quantizes; a module of its own has the config, the function and this."""

    config: type[QuantizeConfig]
    """Its keys in a recipe; those of :class:`CalibratedQuantizeConfig` have a seed for the calibration texts."""
    accepts: frozenset[str]
    """Layouts of the parents that it can start from, all of them in fp32."""
    makes: str
    """The layout that it writes."""
    write: Callable[[Artifact, Any, RunContext, Batches], Quantized]
    """``write(parent, config, context, batches)`` writes weights and graph into ``context.folder``; the tokenizer's
    files are there already."""
    final: bool = True
    """Whether the result computes in fewer bits than fp32, so that nothing can be exported or quantized from it."""
