"""What the tables of several kinds of stages have in common: the bases of the classes in optimizer/config.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Frozen; refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StageConfig(Config):
    """What all stages share."""

    stage: str
    """Which stage runs."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    parent: str | None = None
    measure: bool = True
    """False: a step on the way, not a row in the report."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the stages whose artifacts this one reads, the parent first."""
        return (self.parent,) if self.parent else ()

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of files of the user that this stage reads."""
        return ()

    def identified(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """What the result follows from: digests in place of the names of sources, no name, nothing about measuring."""
        fields = self.model_dump(mode="json", exclude={"name", "measure"})
        return fields | {"parent": digests[self.parent] if self.parent else None}


class CheckpointConfig(StageConfig):
    """What stages share that may start from a checkpoint."""

    model: str | None = None
    """Start from this checkpoint (a short name, hub id or folder) instead of the run's."""
    max_length: int = Field(512, ge=8)


class TrainingConfig(CheckpointConfig):
    """How a model is trained: AdamW, warm-up and linear decay, batches of like lengths, early stopping on dev."""

    rows: int | None = Field(None, ge=1)
    """A random part of the train split, this many rows; all if absent."""
    epochs: float = Field(2.0, gt=0)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    dropout: float | None = Field(None, ge=0, lt=1)
    """Of the encoder; the checkpoint's own if absent. 0 suits one pass over the data, and is faster on a CPU."""
    freeze_embeddings: bool = True
    """Leave the word embeddings as they are: half of MiniLM's parameters, and half of a step's time on a CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the CPU or GPU computes it natively."""
    evaluations_per_epoch: int = Field(2, ge=1)
    patience: int = Field(2, ge=1)
    """Stop after this many evaluations on dev without a better macro-F1 (regression: Spearman's correlation; a student
    of data without labels: agreement with its teacher)."""
    dev_rows: int | None = Field(None, ge=1)
    """Rows of dev used while training; all if absent."""
    seed: int = 0
