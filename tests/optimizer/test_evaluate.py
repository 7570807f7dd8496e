"""Metrics against scikit-learn's, thresholds against a search of them all, the bootstrap against its definition."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from optimizer import evaluate

RNG = np.random.default_rng(0)
TARGETS = (RNG.random((400, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]).astype(np.uint8)
SCORES = np.clip(0.4 * TARGETS + RNG.random((400, 5)) * 0.6, 0, 1).astype(np.float32)
CLASSES = RNG.integers(0, 5, 400)


def test_multi_label_quality_is_scikit_learns() -> None:
    thresholds = (0.5, 0.4, 0.6, 0.3, 0.7)
    predicted = np.array(thresholds) <= SCORES
    found = evaluate.quality(SCORES, TARGETS, thresholds)
    assert found["macro_f1"] == pytest.approx(f1_score(TARGETS, predicted, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(TARGETS, predicted, average="micro"))
    assert found["accuracy"] == pytest.approx(accuracy_score(TARGETS, predicted))
    assert found["top1"] == pytest.approx(np.mean([TARGETS[i, SCORES[i].argmax()] for i in range(400)]))


def test_single_label_quality_is_scikit_learns() -> None:
    found = evaluate.quality(SCORES, CLASSES, None)
    predicted = SCORES.argmax(1)
    assert found["macro_f1"] == pytest.approx(f1_score(CLASSES, predicted, average="macro"))
    assert found["accuracy"] == found["top1"] == found["micro_f1"] == pytest.approx(accuracy_score(CLASSES, predicted))


def test_tuned_thresholds_are_the_best_there_are() -> None:
    tuned = evaluate.tune_thresholds(SCORES, TARGETS)
    for label, threshold in enumerate(tuned):
        every = [f1_score(TARGETS[:, label], SCORES[:, label] >= cut) for cut in np.unique(SCORES[:, label])]
        assert f1_score(TARGETS[:, label], SCORES[:, label] >= threshold) == pytest.approx(max(every))


def test_equal_scores_are_never_cut_apart() -> None:
    scores = np.full((10, 1), 0.7, dtype=np.float32)
    targets = np.array([[1]] * 4 + [[0]] * 6, dtype=np.uint8)
    (threshold,) = evaluate.tune_thresholds(scores, targets)
    assert threshold < 0.7
    assert (scores >= threshold).all()


def test_a_label_that_never_occurs_is_never_predicted() -> None:
    assert evaluate.tune_thresholds(SCORES[:, :1], np.zeros((400, 1), dtype=np.uint8)) == (1.0,)


def test_drop_is_the_difference_of_macro_f1_and_its_interval_holds_it() -> None:
    actual = TARGETS > 0
    before, after = actual ^ (RNG.random(actual.shape) < 0.1), actual ^ (RNG.random(actual.shape) < 0.15)
    drop, low, high = evaluate.bootstrap_drop(before, after, actual, resamples=2000)
    expected = 100 * (f1_score(actual, before, average="macro") - f1_score(actual, after, average="macro"))
    assert drop == pytest.approx(expected, abs=1e-3)
    assert low < drop < high
    # The definition, resample by resample, with another generator: the same interval but for chance.
    rng, slow = np.random.default_rng(1), []
    for _ in range(500):
        rows = rng.integers(0, 400, 400)
        slow.append(
            f1_score(actual[rows], before[rows], average="macro") - f1_score(actual[rows], after[rows], average="macro")
        )
    assert np.allclose([low, high], 100 * np.percentile(slow, [2.5, 97.5]), atol=0.12 * (high - low))


def test_the_bootstrap_is_paired_and_repeatable() -> None:
    actual = TARGETS > 0
    noisy = actual ^ (RNG.random(actual.shape) < 0.2)
    assert evaluate.bootstrap_drop(noisy, noisy, actual, resamples=300) == (0.0, 0.0, 0.0)
    other = actual ^ (RNG.random(actual.shape) < 0.2)
    again = [evaluate.bootstrap_drop(noisy, other, actual, resamples=300) for _ in range(2)]
    assert again[0] == again[1]


def test_slices_split_the_rows_by_length_and_average_the_labels_that_occur() -> None:
    texts = ["word " * (1 + i % 50) for i in range(400)]
    actual = TARGETS > 0
    predicted = actual.copy()
    predicted[::7] ^= True
    slices = evaluate.slice_quality(texts, actual, predicted, actual)
    assert sum(s["rows"] for s in slices.values()) == 400
    rows = np.array([1 <= 1 + i % 50 <= 5 for i in range(400)])
    expected = f1_score(actual[rows], predicted[rows], average="macro")
    assert slices["1 to 5 words"]["macro_f1"] == pytest.approx(expected)
    assert slices["1 to 5 words"]["drop_points"] == pytest.approx(100 * (1 - expected))
