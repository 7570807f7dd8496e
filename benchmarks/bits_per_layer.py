"""The tables of bits per layer in docs/quantization.md: uniform and mixed bits at equal bytes, by what they lose.

``python -m benchmarks.bits_per_layer FOLDER --data goemotions-ekman``: FOLDER is a fine-tuned or adopted model as a run
leaves it in its store (layout ``hf``). Quality is macro-F1 against the fp32 export: on dev with thresholds of the other
half, on test with those of dev. What is made stays in ``--work``, and is not made again. ``squared`` is the
loss that ``predicted`` foretells.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact
from bantam.errors import StageError, UserError
from benchmarks import quantization_methods
from optimizer import logits
from optimizer.data import Dataset, load_dataset
from optimizer.evaluate import Drop, bootstrap_drop, cross_fitted, one_hot, predict, tune_thresholds
from optimizer.metric import Measure, Metric
from serving.backend.engine import Engine

ROWS = ("onnx-int4", "onnx-mixed-as-int4", "onnx-int4-128", "onnx-mixed-as-int4-128", "onnx-mixed-as-higgs-3")
"""Names of benchmarks.quantization_methods; ``as``: within the bytes of the one before."""
HEADS = (
    *("variant", "MB", "bits a weight", "linear layers", "embeddings"),
    *("logits differ", "squared", "predicted", "drop on dev", "drop on test"),
)


def main() -> None:
    """Make what there is not, score it, print a line for each row."""
    asked = parse()
    asked.work.mkdir(parents=True, exist_ok=True)
    data, base = load_dataset(asked.data), asked.work / "onnx-fp32"
    make(asked.baseline, "onnx-fp32", base, data, asked.threads)
    before = measures(base, data, asked)
    print(f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}", sep="\n", flush=True)
    for name in asked.rows.split(","):
        folder = asked.work / name
        try:
            make(base, name, folder, data, asked.threads)
        except (StageError, UserError) as exc:
            print(f"| {name} | {exc}{' |' * (len(HEADS) - 1)}", flush=True)
            continue
        after = measures(folder, data, asked)
        drops = [bootstrap_drop(before[split][0], after[split][0], before[split][1]) for split in before]
        print(line(name, Artifact.load(folder), base, data, drops, asked.threads), flush=True)


def make(parent: Path, name: str, folder: Path, data: Dataset, threads: int) -> None:
    """A variant of ``benchmarks.quantization_methods``, if it is not there."""
    if not (folder / "manifest.json").exists():
        quantization_methods.make(parent, name, folder, data, threads)


def measures(folder: Path, data: Dataset, asked: argparse.Namespace) -> dict[str, tuple[Measure, int]]:
    """Macro-F1 by row weights, and the rows, on dev and test."""
    engine = Engine(folder, threads=asked.threads)
    scores, targets = {}, {}
    for split in ("dev", "test"):
        scores[split] = np.asarray(engine.probabilities(list(data.splits[split].texts[: asked.texts])))
        targets[split] = data.splits[split].targets[: asked.texts]
    thresholds = tune_thresholds(scores["dev"], targets["dev"]) if targets["dev"].ndim > 1 else None
    decided = {"dev": cross_fitted(scores["dev"], targets["dev"]), "test": predict(scores["test"], thresholds)}
    return {
        split: (
            Metric().on(scores[split], decided[split], one_hot(targets[split], len(data.labels)), data.labels),
            len(targets[split]),
        )
        for split in scores
    }


def line(name: str, made: Artifact, base: Path, data: Dataset, drops: list[Drop], threads: int) -> str:
    """A row of the table."""
    details, figures = made.manifest.details, made.manifest.metrics["logits"]
    sizes, bits = ["", ""], ""
    if "product_bytes" in details:
        kinds = [(details[f"{kind}_bytes"], details[f"{kind}_bytes_fp32"]) for kind in ("product", "embedding")]
        sizes = [f"{now / 1e6:.2f} MB, {before / now:.1f}x" for now, before in kinds]
        bits = f"{32 * sum(now for now, _ in kinds) / sum(before for _, before in kinds):.2f}"
    lost = relative_loss(Artifact.load(base), made, data, threads)
    predicted = f"{details['predicted_loss']:.2e}" if "predicted_loss" in details else ""
    shown = [f"{drop.points:.2f} ({drop.low:.2f} to {drop.high:.2f})" for drop in drops]
    differ = f"{100 * figures['mean_difference'] / figures['reference_std']:.2f}% | {lost:.2e}"
    return (
        f"| {name} | {made.size_bytes / 1e6:.2f} | {bits} | {' | '.join(sizes)} | {differ} | {predicted} | "
        f"{' | '.join(shown)} |"
    )


def relative_loss(parent: Artifact, made: Artifact, data: Dataset, threads: int) -> float:
    """What ``predicted_loss`` foretells, on 500 texts of dev.

    The mean squared difference of the logits to the parent's, in units of their variance.
    """
    drawn = random.Random(0).sample(list(data.splits["dev"].texts), 500)
    before, after = (answers(each, drawn, threads) for each in (parent, made))
    return float(np.square(after - before).mean() / before.var(axis=0).mean())


def answers(artifact: Artifact, texts: list[Any], threads: int) -> NDArray[np.float32]:
    """Logits ``[texts, labels]``, one text at a time."""
    model, signature = logits.of(artifact, threads=threads), artifact.manifest.signature
    return np.concatenate([model(batch) for batch in logits.encode(artifact.folder, signature, texts)])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bits_per_layer", description=__doc__)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--rows", default=",".join(ROWS), help="of benchmarks.quantization_methods, by commas")
    parser.add_argument("--texts", type=int, help="of dev, and of test, that are scored; all if absent")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=Path("build/quantization"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
