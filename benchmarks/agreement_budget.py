"""What agreement the variants of finished runs have with their baseline, beside the macro-F1 that they lost.

    python -m benchmarks.agreement_budget build/RUN=DATA ...

For each variant of each run whose scores are on disk: macro-F1 points lost on the labels, and points of the texts that
are decided otherwise than by the baseline, on dev, at the thresholds of each use: tuned ones (cross-fitted) for the
first, one of 0.5 for all labels for the second, which is what data without labels have. ``max_disagreement_points`` of
recipes was chosen from it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bantam.report.schema import BASELINE
from bantam.run.score import score_name
from optimizer.data import Dataset, load_dataset
from optimizer.evaluate import UNTUNED, cross_fitted, one_hot, predict, quality_of

SPLIT = "dev"


def variants(run: Path) -> Iterator[str]:
    """Names of the variants that were scored, the baseline left out."""
    for folder in sorted(run.glob(f"{score_name('*', SPLIT)}")):
        name = folder.name.removeprefix("scores-").removesuffix(f"-{SPLIT}")
        if name != BASELINE:
            yield name


def scores(run: Path, name: str, split: str) -> Any:
    """Probabilities ``[rows, labels]`` that a variant gave."""
    return np.load(run / score_name(name, split) / "scores.npy")


def figures(run: Path, name: str, data: Dataset) -> tuple[float, float, float]:
    """Macro-F1 points lost, points of the texts decided otherwise, and points of macro-F1 against the baseline's."""
    targets = data.splits[SPLIT].targets
    right = one_hot(targets, len(data.labels))
    base, own = (scores(run, each, SPLIT) for each in (BASELINE, name))
    tuned = [quality_of(each, cross_fitted(each, targets), right)["macro_f1"] for each in (base, own)]
    at = (UNTUNED,) * len(data.labels) if data.task == "multi_label" else None
    said, other = (predict(each, at) for each in (base, own))
    against = quality_of(own, other, said)
    return 100 * (tuned[0] - tuned[1]), 100 * (1 - against["accuracy"]), 100 * (1 - against["macro_f1"])


def main() -> None:
    """Print a line for each variant."""
    print("run, variant, rows: macro-F1 points lost, points decided otherwise, macro-F1 points against the baseline's")
    for argument in sys.argv[1:]:
        path, _, source = argument.partition("=")
        data = load_dataset(source)
        for name in variants(Path(path)):
            lost, otherwise, against = figures(Path(path), name, data)
            rows = len(data.splits[SPLIT].texts)
            print(f"{source}, {name}, {rows:,}: {lost:+.2f}, {otherwise:.2f}, {against:.2f}")


if __name__ == "__main__":
    main()
