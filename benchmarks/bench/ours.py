"""The checkpoint that all contenders start from, and Bantam's own variants of it: made by the product, or kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bantam.artifact import Artifact
from bantam.errors import StageError
from bantam.report.schema import BASELINE
from bantam.run import builder as pipeline
from bantam.run import optimize as product
from bantam.run.evaluator import score_test
from bantam.run.prepare import prepare
from bantam.run.request import OptimizeRequest
from bantam.run.score import Scored
from bantam.run.state import Run
from bantam.run.text_threads import measured
from benchmarks.bench.contenders import OURS, Contender
from optimizer.data import Dataset
from optimizer.recipe import ServingConfig

NAME = "Bantam"
RECIPES = ("int8", "small")
ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}

Log = Callable[[str], None]


@dataclass(frozen=True)
class Ours:
    """What Bantam brings along."""

    data: Dataset
    checkpoint: Artifact
    """The fine-tuned model, a Hugging Face folder."""
    baseline: Scored
    """The same with its scores in PyTorch eager fp32: what every drop is counted from."""
    variants: dict[str, Scored]
    """Everything else that the recipes measure, by name."""
    serving: ServingConfig


def make(model: str, data: str, profile: str, build: Path, log: Log) -> Ours:
    """Run both recipes as ``bantam optimize`` does, up to the scores, test's too; what is there already is kept.

    Raises :class:`StageError` if the recipes do not share one checkpoint, and what the stages raise.
    """
    runs: list[Run] = []
    for recipe in RECIPES:
        run = prepare(OptimizeRequest(model=model, data=data, recipe=recipe, profile=profile, build=build), log)
        with pipeline.locked(run.folder):
            product.make(run, log)
            score_test(run, list(run.scored), log)
        runs.append(run)
    return gather(runs)


def gather(runs: list[Run]) -> Ours:
    """All variants of runs that start from the same checkpoint."""
    first = runs[0]
    for other in runs[1:]:
        mine, theirs = first.artifacts[BASELINE], other.artifacts[BASELINE]
        if mine.digest != theirs.digest:
            raise StageError(
                f"{theirs.folder} is not the checkpoint of {mine.folder}; expected one for all contenders. "
                f"Delete {other.folder}: it is made again from {first.folder.name}."
            )
    variants = {name: scored for run in runs for name, scored in run.scored.items() if name != BASELINE}
    return Ours(first.data, first.artifacts[BASELINE], first.scored[BASELINE], variants, first.recipe.serving)


def contenders(made: Ours, threads: int) -> list[tuple[Contender, Scored]]:
    """Bantam's variants as rows of the same table: in process by the same driver, served by Triton."""
    serving = {
        "micro_batch": made.serving.micro_batch,
        "max_batch_size": made.serving.max_batch_size,
        "threads": threads,
    }
    return [
        (
            Contender(
                f"{NAME} {name}",
                "bantam",
                OURS,
                (ENGINES[scored.artifact.manifest.layout], "tokenizers"),
                "make optimize",
                {**serving, **_measured(scored.artifact, threads)},
                protocol="triton-grpc",
                precision=scored.artifact.manifest.compute.precision,
            ),
            scored,
        )
        for name, scored in made.variants.items()
    ]


def _measured(artifact: Artifact, threads: int) -> dict[str, Any]:
    """What a publish measures of it, as JSON."""
    found = measured(artifact, threads)
    if found is None:
        return {}
    return {**found.options, "text_threads": found.text_threads and found.text_threads._asdict()}
