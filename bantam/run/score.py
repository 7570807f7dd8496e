"""The scores of a variant on dev and test, computed in process and kept on disk; its thresholds come from dev alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact, cache_key, seal
from bantam.machine import describe_machine
from bantam.run import closure
from bantam.run.builder import kept_or_made
from bantam.run.worker import Worker
from optimizer.data import Dataset
from optimizer.evaluate import tune_thresholds
from optimizer.recipe import ServingConfig
from optimizer.stage import RunContext


@dataclass(frozen=True)
class Scored:
    """A variant with what it answers on the test split."""

    artifact: Artifact
    test: NDArray[np.float32]
    """Probabilities ``[rows, labels]``."""
    thresholds: tuple[float, ...] | None
    """Per label, tuned on dev; None for single-label tasks, where the best label wins."""


def computed_by(layout: str) -> dict[str, Any]:
    """What scores follow from besides model and texts: our code, the libraries, and the processor.

    Processors have other kernels for int8, which round and saturate otherwise.
    """
    modules = ("optimizer.reference" if layout == "hf" else "serving.backend.engine", "optimizer.evaluate")
    return {
        "code": closure.code(*modules),
        "libraries": closure.libraries(*modules),
        "machine": _processor(),
    }


@functools.cache
def _processor() -> tuple[str | None, tuple[str, ...] | None]:
    machine = describe_machine()
    return machine.cpu, machine.isa


def score(variant: Artifact, data: Dataset, context: RunContext, serving: ServingConfig) -> Scored:
    """Score ``variant`` on dev and test, or keep the scores that are there for the same variant and data."""
    name = variant.name
    key = cache_key(
        variant=variant.digest,
        data=data.digest,
        serving=serving.model_dump(mode="json"),
        **computed_by(variant.manifest.layout),
    )

    def make(target: RunContext) -> Artifact:
        with Worker(variant, threads=serving.threads, micro_batch=serving.micro_batch) as worker:
            for split in ("dev", "test"):
                np.save(target.folder / f"{split}.npy", worker.probabilities(data.splits[split].texts))
        thresholds = None
        if data.task == "multi_label":
            thresholds = tune_thresholds(np.load(target.folder / "dev.npy"), data.splits["dev"].targets)
        manifest = replace(
            variant.manifest,
            stage="score",
            key=key,
            layout="scores",
            deployable=(),
            files={},
            metrics={},
            details={"thresholds": thresholds},
        )
        return Artifact(target.folder, seal(target.folder, manifest))

    scores = kept_or_made(f"scores-{name}", replace(context, key=key), make)
    thresholds = scores.manifest.details["thresholds"]
    return Scored(variant, np.load(scores.folder / "test.npy"), tuple(thresholds) if thresholds else None)
