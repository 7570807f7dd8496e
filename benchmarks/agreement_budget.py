"""How many decisions change when a quantized model has lost a point of macro-F1: what a budget of agreement can be.

    python -m benchmarks.agreement_budget build/RUN=DATA ...

For each variant of a finished run whose scores on dev are there: what its logits differ from the baseline's by is
dealt out to the rows anew and multiplied, until macro-F1 falls. Printed are the points of macro-F1 that are lost on the
labels (thresholds cross-fitted on dev) and the points of the rows that are decided otherwise than by the baseline (at
0.5, which is what data without labels have), as means over ten deals. ``max_disagreement_points`` was chosen from it.

Measured with MiniLM, fine-tuned for an epoch on 3,344 rows of sms-spam (553 rows of dev, baseline 0.956), on 2,000 of
goemotions-ekman (1,500 rows, 0.285) and on 22,000 of it (all 5,426 rows, 0.507): the quantized variants themselves
lose 0.00, 0.04 and 0.11 points and decide 0.00, 0.20 and 2.25 otherwise. At a loss of 1 point (between two factors)
sms-spam, with two classes of which one is rare, decides 0.5 otherwise; goemotions-ekman, with its sets of seven labels,
4.5, and 6.1 (OpenVINO) or 6.7 (ONNX Runtime) with the better model. So 1 point where a text has one label, and 4
where it may have several: a gate that asks for the upper end of an interval lets
through about half of 1 on some hundred rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bantam.report.schema import BASELINE
from bantam.run.score import score_name
from optimizer.data import Dataset, load_dataset
from optimizer.data.sample import bounded
from optimizer.evaluate import UNTUNED, cross_fitted, one_hot, predict, quality_of
from optimizer.metric import Array

FACTORS = (1, 2, 4, 8, 16, 32, 64)
DEALS = 10


def scores(run: Path) -> dict[str, Array]:
    """Probabilities ``[rows, labels]`` on dev of all variants that were scored, by name."""
    names = [path.name.removeprefix("scores-").removesuffix("-dev") for path in run.glob(score_name("*", "dev"))]
    return {name: np.load(run / score_name(name, "dev") / "scores.npy").astype(np.float64) for name in sorted(names)}


def logits(probabilities: Array, task: str) -> Array:
    """Of probabilities, whatever softmax takes away."""
    kept = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(kept) - np.log(1 - kept) if task == "multi_label" else np.log(kept))


def probabilities(logits: Array, task: str) -> Array:
    """Of logits."""
    if task == "multi_label":
        return np.asarray(1 / (1 + np.exp(-logits)))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def lines(base: Array, own: Array, data: Dataset) -> Iterator[tuple[int, float, float]]:
    """Factor, macro-F1 points lost, points of the rows decided otherwise."""
    targets, rng = data.splits["dev"].targets, np.random.default_rng(0)
    right = one_hot(targets, len(data.labels))
    at = (UNTUNED,) * len(data.labels) if data.task == "multi_label" else None
    before, said = quality_of(base, cross_fitted(base, targets), right)["macro_f1"], predict(base, at)
    off = logits(own, data.task) - logits(base, data.task)
    for factor in FACTORS:
        lost, otherwise = [], []
        for _ in range(DEALS):
            after = probabilities(logits(base, data.task) + factor * off[rng.permutation(len(off))], data.task)
            lost.append(before - quality_of(after, cross_fitted(after, targets), right)["macro_f1"])
            otherwise.append((predict(after, at) != said).any(axis=1).mean())
        yield factor, 100 * float(np.mean(lost)), 100 * float(np.mean(otherwise))


def main() -> None:
    """Print the lines of each variant."""
    for argument in sys.argv[1:]:
        path, _, source = argument.partition("=")
        found = scores(Path(path))
        base = found.pop(BASELINE)
        data = bounded(load_dataset(source), len(base), len(base))  # the rows that were scored, where dev has more
        for name, own in found.items():
            for factor, lost, otherwise in lines(base, own, data):
                print(f"{source}, {name} x{factor}: macro-F1 {lost:.2f} points lost, {otherwise:.2f} decided otherwise")


if __name__ == "__main__":
    main()
