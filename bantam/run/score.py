"""The scores of a variant on dev, and on test when it is asked for; computed in process and kept on disk."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import LAYOUTS, Artifact, cache_key, seal
from bantam.machine import describe_machine
from bantam.run import closure
from bantam.run.builder import kept_or_made
from bantam.run.worker import Worker, placed
from optimizer.data import Dataset
from optimizer.evaluate import tune_thresholds
from optimizer.recipe import ServingConfig
from optimizer.stage import RunContext


@dataclass(frozen=True)
class Scored:
    """A variant with what it answers in process: probabilities ``[rows, labels]`` of a split; or numbers."""

    artifact: Artifact
    dev: NDArray[np.float32]
    thresholds: tuple[float, ...] | None
    """Per label, as given or tuned on all of dev; None for other tasks than multi-label, which have none."""
    test: NDArray[np.float32] | None = None
    """None as long as nobody has looked: test is for the baseline and for what is to be published."""

    def on(self, split: str) -> NDArray[np.float32]:
        """The scores of ``dev`` or ``test``; KeyError for a split that was not scored."""
        found = {"dev": self.dev, "test": self.test}[split]
        if found is None:
            raise KeyError(f"{self.artifact.name} was not scored on {split}")
        return found


def computed_by(layout: str, device: Literal["cpu", "cuda"] = "cpu") -> dict[str, Any]:
    """What scores follow from besides model and texts: our code, the libraries, and the processor.

    Processors have other kernels for int8, which round and saturate otherwise, and GPUs for fp16.
    """
    module = "serving.backend.engine" if LAYOUTS[layout].servable else "optimizer.reference"
    return {
        "code": closure.code(module),
        "libraries": closure.libraries(module),
        "machine": _processor() if device == "cpu" else describe_machine().gpu,
    }


@functools.cache
def _processor() -> tuple[str | None, tuple[str, ...] | None]:
    machine = describe_machine()
    return machine.cpu, machine.isa


def score_name(variant: str, split: str) -> str:
    """What a run's folder calls the scores of a variant on a split."""
    return f"scores-{variant}-{split}"


def score(
    variant: Artifact,
    data: Dataset,
    context: RunContext,
    serving: ServingConfig,
    thresholds: tuple[float, ...] | None = None,
) -> Scored:
    """Score ``variant`` on dev, or keep the scores that are there for the same variant and data.

    ``thresholds``: those that were given; else they are tuned, where the task has any.
    """
    dev = scores_on("dev", variant, data, context, serving)
    if thresholds is None and data.task == "multi_label":
        thresholds = tune_thresholds(dev, data.splits["dev"].targets)
    return Scored(variant, dev, thresholds)


def with_test(scored: Scored, data: Dataset, context: RunContext, serving: ServingConfig) -> Scored:
    """The same variant with its scores on test."""
    return replace(scored, test=scores_on("test", scored.artifact, data, context, serving))


def answers(
    target: RunContext, variant: Artifact, key: str, *, stage: str, metrics: Any = MappingProxyType({})
) -> Artifact:
    """What is in the target's folder as an artifact: what ``variant`` says of some texts, or is found in it."""
    manifest = replace(
        variant.manifest,
        stage=stage,
        key=key,
        layout="scores",
        deployable=(),
        files={},
        metrics=dict(metrics),
        details={},
    )
    return Artifact(target.folder, seal(target.folder, manifest))


def scores_on(
    split: str, variant: Artifact, data: Dataset, context: RunContext, serving: ServingConfig
) -> NDArray[np.float32]:
    """What a variant answers in process on a split of ``data``, ``[rows, labels]``: computed, or kept from before."""
    device = placed(variant, context.device)
    key = cache_key(
        variant=variant.digest,
        data=data.digest,
        split=split,
        serving=serving.model_dump(mode="json", exclude={"max_batch_size"}),  # of requests, and here are none
        **computed_by(variant.manifest.layout, device),
    )

    def make(target: RunContext) -> Artifact:
        options: dict[str, Any] = {"threads": serving.threads, "micro_batch": serving.micro_batch, "device": device}
        with Worker(variant, **options) as worker:
            np.save(target.folder / "scores.npy", worker.probabilities(data.splits[split].texts))
        return answers(target, variant, key, stage="score")

    kept = kept_or_made(score_name(variant.name, split), replace(context, key=key), make)
    return np.asarray(np.load(kept.folder / "scores.npy"))
