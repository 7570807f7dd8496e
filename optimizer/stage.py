"""What every stage gets besides its parent and its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bantam.artifact import Artifact
from bantam.licence import Licence
from optimizer.catalog import Checkpoint
from optimizer.config import AnyStage
from optimizer.data import Dataset


@dataclass(frozen=True)
class RunContext:
    """Where a stage writes and what it may read.

    A stage is a function ``run(parent, config, context) -> Artifact``: it writes into ``context.folder`` only (an empty
    temporary folder that the pipeline renames when the stage is done) and describes it with a manifest.
    """

    folder: Path
    """Empty folder for this stage's files."""
    scratch: Path
    """Folder that survives a kill, for checkpoints to resume from; removed when the stage is done."""
    key: str
    """The stage's cache key, for its manifest."""
    data: Dataset
    checkpoint: Checkpoint
    """What a model is trained from: the run's, or the one that the stage's config names."""
    shared: Path
    """Folder for what several stages use, such as a teacher's outputs; removed when the run's stages are all there."""
    sources: Mapping[str, Artifact] = field(default_factory=dict)
    """The artifacts that ``config.sources`` names, the parent's among them."""
    device: Literal["cpu", "cuda"] = "cpu"
    log: Callable[[str], None] = print
    """One line to the user."""
    threads: int = 1
    """CPU threads for what computes here."""
    licences: tuple[Licence, ...] = ()
    """Of all models that the stage's result descends from, for its manifest."""
    quantization: str | None = None
    """In what weights of these models were stored once, where that was fewer bits, for its manifest."""
    deadline: float | None = None
    """When trainings must have ended, as :func:`time.monotonic` tells it; None: whenever."""

    def lineage(self, config: AnyStage, parent: Artifact | None = None) -> tuple[dict[str, Any], ...]:
        """The parent's lineage and this stage's own entry, for the manifest."""
        digests = {name: artifact.digest for name, artifact in self.sources.items()}
        if parent and config.parent:
            digests[config.parent] = parent.digest
        own = {"stage": config.stage, "key": self.key, "config": config.identified(digests)}
        return (*(parent.manifest.lineage if parent else ()), own)
