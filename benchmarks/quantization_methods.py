"""The table of docs/quantization.md: each method of quantization on one model, measured on this machine.

``python -m benchmarks.quantization_methods FOLDER --data goemotions-ekman``: FOLDER is a fine-tuned or adopted model as
a run leaves it in its store (layout ``hf``). Each variant is timed in turns with FOLDER in PyTorch. What is made stays
in ``--work``, and is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bantam.artifact import Artifact, Text
from bantam.errors import StageError, UserError
from bantam.machine import describe_machine
from bantam.run.worker import timed
from optimizer import export, logits, quantize
from optimizer.catalog import Checkpoint
from optimizer.config import AnyStage, ExportConfig
from optimizer.data import Dataset, load_dataset
from optimizer.kinds import read_stage
from optimizer.reference import Reference
from optimizer.stage import RunContext
from serving.backend.engine import Engine

EXPORTS = {"onnx-fp32": "onnx", "openvino-fp32": "openvino"}
VARIANTS: dict[str, dict[str, Any]] = {
    "onnx-int8": {"method": "onnx-dynamic-int8"},
    "onnx-int8-smooth": {"method": "onnx-dynamic-int8", "smooth": 0.9},
    "onnx-static-int8": {"method": "onnx-static-int8"},
    "onnx-static-int8-smooth": {"method": "onnx-static-int8", "smooth": 0.9},
    "onnx-int4": {"method": "onnx-int4"},
    "onnx-int4-int8": {"method": "onnx-int4", "products": "int8"},
    "onnx-int4-64": {"method": "onnx-int4", "block_size": 64},
    "onnx-int4-64-outliers": {"method": "onnx-int4", "block_size": 64, "outliers": 0.02},
    "onnx-int4-outliers": {"method": "onnx-int4", "outliers": 0.01},
    "onnx-int4-16": {"method": "onnx-int4", "block_size": 16},
    "onnx-int4-128": {"method": "onnx-int4", "block_size": 128},
    "onnx-mixed-6": {"method": "onnx-mixed", "average_bits": 6.0},
    "onnx-mixed-as-int4": {"method": "onnx-mixed", "average_bits": 5.08},
    "onnx-mixed-as-int4-128": {"method": "onnx-mixed", "average_bits": 4.28},
    "onnx-mixed-as-higgs-3": {
        "method": "onnx-mixed",
        "average_bits": 3.125,
        "choices": ["higgs2", "higgs3", "higgs4", "int8"],
    },
    "openvino-static-int8": {"method": "openvino-static-int8"},
    "openvino-int8": {"method": "openvino-weights"},
    "openvino-int8-symmetric": {"method": "openvino-weights", "scheme": "symmetric"},
    "openvino-int8-exact": {"method": "openvino-weights", "products": "fp32"},
    "openvino-int4": {"method": "openvino-weights", "weights": "int4"},
    "openvino-int4-exact": {"method": "openvino-weights", "weights": "int4", "products": "fp32"},
    "openvino-int4-symmetric": {"method": "openvino-weights", "weights": "int4", "scheme": "symmetric"},
    "openvino-int4-embeddings": {"method": "openvino-weights", "weights": "int4", "embedding_bits": 4},
    "openvino-int4-awq": {"method": "openvino-weights", "weights": "int4", "awq": True},
    "openvino-int4-scales": {"method": "openvino-weights", "weights": "int4", "scale_estimation": True},
    "openvino-int4-gptq": {"method": "openvino-weights", "weights": "int4", "gptq": True},
    "openvino-nf4": {"method": "openvino-weights", "weights": "nf4"},
    "onnx-higgs-4": {"method": "onnx-higgs"},
    "onnx-higgs-3": {"method": "onnx-higgs", "bits": 3},
    "onnx-higgs-2": {"method": "onnx-higgs", "bits": 2},
    "onnx-higgs-3-int8": {"method": "onnx-higgs", "bits": 3, "products": "int8"},
    "bitsandbytes-int8": {"method": "bitsandbytes-int8"},
    "bitsandbytes-nf4": {"method": "bitsandbytes-nf4"},
    "torch-bf16": {"method": "torch-bf16"},
    "torchao-int8": {"method": "torchao-int8"},
    "torchao-int4": {"method": "torchao-int4"},
}
"""Row -> the keys of its stage. Methods that start from ONNX get the export."""
AMONG = 16
"""Texts in a batch, where a text among others is compared with itself alone."""
ROUNDS = 3


@dataclass
class Row:
    """What was measured of one variant."""

    name: str
    why: str = ""
    """Why it could not be had; then nothing else is known."""
    seconds: float = 0.0
    """To make it, and to compare it with its parent."""
    size_mb: float = 0.0
    difference: float = 0.0
    """Mean difference of a logit to the parent's, in units of the logits' standard deviation."""
    changed: float = 0.0
    """Share of the decisions (a score above 0.5) on dev that are not the baseline's."""
    among: float = 0.0
    """Largest difference of a logit to that of the same text alone, in a padded batch."""
    p50_ms: float = 0.0
    faster: float = 0.0
    """The baseline's p50 by this one's, in the same turns."""


def stage(name: str) -> AnyStage:
    """The config of a variant, or of an export."""
    if name in EXPORTS:
        return ExportConfig(name=name, format="onnx" if EXPORTS[name] == "onnx" else "openvino")
    config: AnyStage = read_stage({"stage": "quantize", "name": name, **VARIANTS[name]})
    return config


def make(parent: Path, name: str, folder: Path, data: Dataset, threads: int) -> float:
    """Make a variant of ``parent`` in ``folder``; returns the seconds."""
    started = time.monotonic()
    for path in (folder, scratch := folder.with_name(f"{folder.name}-scratch")):
        path.mkdir(parents=True, exist_ok=True)
    context = RunContext(
        folder=folder,
        scratch=scratch,
        key="0" * 64,
        data=data,
        checkpoint=Checkpoint("benchmark", parent, "benchmark", "local", "", ""),
        shared=scratch,
        threads=threads,
    )
    run: Any = export.run if name in EXPORTS else quantize.run
    run(Artifact.load(parent), stage(name), context)
    return time.monotonic() - started


def among_others(folder: Path, texts: list[Any], threads: int) -> float:
    """Largest difference of a logit between texts in a padded batch and each alone."""
    artifact = Artifact.load(folder)
    model, signature = logits.of(artifact, threads=threads), artifact.manifest.signature
    alone = logits.encode(folder, signature, texts[:AMONG])
    width = max(batch["input_ids"].shape[1] for batch in alone)
    fill = {"input_ids": signature.pad_token_id}
    together = {
        name: np.concatenate(
            [np.pad(b[name], ((0, 0), (0, width - b[name].shape[1])), constant_values=fill.get(name, 0)) for b in alone]
        )
        for name in signature.inputs
    }
    return float(np.abs(model(together) - np.concatenate([model(batch) for batch in alone])).max())


def opened(folder: Path, threads: int) -> Reference | Engine:
    """The model as a run measures it."""
    if Artifact.load(folder).servable:
        return Engine(folder, threads=threads)
    return Reference.load(folder, threads=threads)


def measure(before: Reference | Engine, name: str, asked: argparse.Namespace, data: Dataset) -> Row:
    """Make one variant and measure it beside the baseline; one that cannot be made is a row that says why."""
    folder, row = asked.work / name, Row(name)
    method = quantize.METHODS.get(VARIANTS.get(name, {}).get("method", ""))
    from_onnx = name == "openvino-fp32" or (method and "onnx" in method.accepts)
    try:
        row.seconds = make(asked.work / "onnx-fp32" if from_onnx else asked.baseline, name, folder, data, asked.threads)
    except (StageError, UserError) as exc:
        row.why = str(exc)
        return row
    made, texts = Artifact.load(folder), list(data.splits["dev"].texts)
    row.size_mb = made.size_bytes / 1e6
    if figures := made.manifest.metrics.get("logits"):
        row.difference = figures["mean_difference"] / figures["reference_std"]
    row.among = among_others(folder, texts, asked.threads)
    after = opened(folder, asked.threads)
    row.changed = float(np.mean(decisions(after, texts[: asked.rows]) != np.load(asked.work / "decisions.npy")))
    times: list[list[float]] = [[], []]
    for turn in range(ROUNDS + 1):
        for model, found in zip((before, after), times, strict=True):
            latencies = timed(lambda text, run=model: run.probabilities([text]), texts[: asked.texts]).latencies_ms  # type: ignore[misc]
            found.extend(latencies if turn else ())
    row.p50_ms = float(np.median(times[1]))
    row.faster = float(np.median(times[0])) / row.p50_ms
    return row


def decisions(model: Reference | Engine, texts: list[Text]) -> np.ndarray:
    """Whether each score is above 0.5, ``[texts, labels]``; one text at a time."""
    return np.concatenate([model.probabilities([text]) for text in texts]) > 0.5


def table(rows: list[Row]) -> Iterator[str]:
    """Lines of Markdown."""
    heads = (
        "variant",
        "MB",
        "logits differ",
        "decisions changed",
        "among others",
        "p50 ms",
        "times faster",
        "made in s",
    )
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        if row.why:
            yield f"| {row.name} | {' '.join(row.why.split())[:200]} | | | | | | |"
            continue
        difference = f"{100 * row.difference:.2f}%" if row.name in VARIANTS else "0"
        yield (
            f"| {row.name} | {row.size_mb:.1f} | {difference} | {100 * row.changed:.2f}% | {row.among:.0e} | "
            f"{row.p50_ms:.2f} | {row.faster:.1f} | {row.seconds:.0f} |"
        )


def main() -> None:
    """Read the options, measure what has no row yet, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization_methods", description=__doc__)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--only", default="", help="rows, separated by commas; all if absent")
    parser.add_argument("--rows", type=int, default=500, help="of dev, for the decisions")
    parser.add_argument("--texts", type=int, default=100, help="that are timed, in each of the rounds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=Path("build/quantization"))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    results = asked.work / "rows.jsonl"
    found = [Row(**json.loads(line)) for line in results.read_text().splitlines()] if results.exists() else []
    data, baseline = load_dataset(asked.data), opened(asked.baseline, asked.threads)
    np.save(asked.work / "decisions.npy", decisions(baseline, list(data.splits["dev"].texts[: asked.rows])))
    for name in [each for each in asked.only.split(",") if each] or [*EXPORTS, *VARIANTS]:
        if name not in {row.name for row in found}:
            found.append(measure(baseline, name, asked, data))
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(found[-1])) + "\n")
            print(*table(found[-1:]), sep="\n", flush=True)
    print(f"\n{describe_machine().cpu}, {asked.threads} threads, {datetime.now(UTC):%Y-%m-%d}\n")
    print(*table(found), sep="\n")


if __name__ == "__main__":
    main()
