"""A data set of moods, a tiny BERT, and stages run on them: what the tests of training stages share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bantam.artifact import Artifact
from optimizer.catalog import Checkpoint
from optimizer.config import DistillConfig, FinetuneConfig
from optimizer.data import Dataset, load_dataset
from optimizer.evaluate import quality, tune_thresholds
from optimizer.reference import Reference
from optimizer.stage import RunContext
from tests.plugins import tiny

CONFIG = FinetuneConfig(
    stage="finetune",
    name="baseline",
    epochs=10,
    patience=20,
    batch_size=16,
    learning_rate=2e-3,
    dropout=0.02,
    freeze_embeddings=False,
    precision="fp32",
)
DISTILL = DistillConfig(
    stage="distill",
    name="distilled",
    parent="baseline",
    layers=1,
    epochs=6,
    patience=20,
    batch_size=16,
    learning_rate=3e-3,
    dropout=0.0,
    precision="fp32",
)
LOSSES: tuple[dict[str, float], ...] = (
    {"soft": 1.0, "hidden": 1.0, "cosine": 1.0},
    {"soft": 1.0, "hard": 0.5, "attention": 1.0},
    {"soft": 1.0, "attention_transfer": 1.0, "value_relation": 1.0},
    {"soft": 1.0, "relations": 1.0},
)
"""All losses of a distillation, in few students."""


def load_moods(folder: Path) -> Dataset:
    """1,000 rows of one or two moods."""
    return load_dataset(str(tiny.write_data(folder / "moods.csv")))


def load_tiny(folder: Path) -> Checkpoint:
    """A BERT of two layers with random weights."""
    return Checkpoint("tiny", tiny.write_checkpoint(folder), "test", "local", "Apache-2.0", "digest")


def context_in(
    folder: Path, data: Dataset, checkpoint: Checkpoint, sources: Mapping[str, Artifact] | None = None
) -> RunContext:
    """A context whose stage writes into ``folder/out``; what is shared is ``folder/shared``."""
    for part in ("out", "scratch"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return RunContext(
        folder=folder / "out",
        scratch=folder / "scratch",
        key="k",
        data=data,
        checkpoint=checkpoint,
        shared=folder / "shared",
        sources=sources or {},
        log=lambda line: None,
    )


def macro_f1(artifact: Artifact, data: Dataset) -> float:
    """On test, at thresholds tuned on dev."""
    reference = Reference.load(artifact.folder)
    dev, test = (reference.probabilities(data.splits[part].texts) for part in ("dev", "test"))
    return quality(test, data.splits["test"].targets, tune_thresholds(dev, data.splits["dev"].targets))["macro_f1"]
