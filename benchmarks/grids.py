"""The table of HIGGS in docs/quantization.md: quality and bytes at 2, 3 and 4 bits by grid, with products in fp32.

``python -m benchmarks.grids FOLDER --data goemotions-ekman``: FOLDER is an export to ONNX in fp32, as a run leaves it
in its store. A row a variant is printed as soon as it is known; what is made stays in ``--work``. Thresholds of
multi-label data are tuned as a run tunes them: on dev for test, on one half of dev for the other.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from bantam.artifact import Artifact
from benchmarks import quantization_methods
from benchmarks.quantization_methods import make
from optimizer.data import Dataset, load_dataset
from optimizer.evaluate import cross_fitted, one_hot, predict, quality_of, tune_thresholds
from serving.backend.engine import Engine

GRIDS = ("normal-2d", "normal-1d", "uniform")
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"{grid} {bits}": {"grid": grid, "bits": bits} for bits in (4, 3, 2) for grid in GRIDS},
    **{f"{grid} {bits} in 32": {"grid": grid, "bits": bits, "group_size": 32} for bits in (3, 2) for grid in GRIDS},
    "normal-2d 2, embeddings 4": {"bits": 2, "embedding_bits": 4},
    "normal-2d 4, embeddings 2": {"bits": 4, "embedding_bits": 2},
    "gptq 4": {
        "method": "openvino-weights",
        "weights": "int4",
        "gptq": True,
        "group_size": 128,
        "products": "fp32",
        "embedding_bits": 4,
    },
}
"""Row -> keys of its stage, ``onnx-higgs`` if they do not say otherwise. NNCF has GPTQ in 4 bits alone."""


def macro_f1(folder: Path, data: Dataset, threads: int) -> tuple[float, float]:
    """On dev and on test, in points."""
    engine = Engine(folder, threads=threads)
    dev, test = data.splits["dev"], data.splits["test"]
    on_dev, on_test = (np.asarray(engine.probabilities(list(split.texts))) for split in (dev, test))
    thresholds = tune_thresholds(on_dev, dev.targets) if data.task == "multi_label" else None
    decided = {"dev": cross_fitted(on_dev, dev.targets), "test": predict(on_test, thresholds)}
    scores = {"dev": on_dev, "test": on_test}
    found = [
        quality_of(scores[name], decided[name], one_hot(data.splits[name].targets, len(data.labels)))["macro_f1"]
        for name in ("dev", "test")
    ]
    return 100 * found[0], 100 * found[1]


def main() -> None:
    """Read the options; make and score one variant after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grids", description=__doc__)
    parser.add_argument("parent", type=Path)
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--only", default="", help="rows, separated by semicolons; all if absent")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=Path("build/grids"))
    asked = parser.parse_args()
    data = load_dataset(asked.data)
    dev, test = macro_f1(asked.parent, data, asked.threads)
    size = Artifact.load(asked.parent).size_bytes / 1e6
    print("| grid and bits | MB | macro-F1 on dev | on test |", "| --- | --- | --- | --- |", sep="\n")
    print(f"| fp32 | {size:.1f} | {dev:.2f} | {test:.2f} |", flush=True)
    for name in [each for each in asked.only.split(";") if each] or VARIANTS:
        folder = asked.work / name.replace(" ", "-").replace(",", "")
        quantization_methods.VARIANTS[folder.name] = {"method": "onnx-higgs", **VARIANTS[name]}
        make(asked.parent, folder.name, folder, data, asked.threads)
        dev, test = macro_f1(folder, data, asked.threads)
        print(f"| {name} | {Artifact.load(folder).size_bytes / 1e6:.1f} | {dev:.2f} | {test:.2f} |", flush=True)


if __name__ == "__main__":
    main()
