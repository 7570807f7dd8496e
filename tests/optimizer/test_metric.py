"""Metrics against scikit-learn's, on whole splits and on resamples; what is no metric is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_curve,
)

from optimizer.evaluate import one_hot, predict
from optimizer.metric import Array, Metric, parse

RNG = np.random.default_rng(0)
LABELS = ("a", "b", "c", "d", "rare: yes")
TARGETS = RNG.random((400, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]
# Two digits: many rows have the same score, which no threshold can tell apart.
SCORES = np.round(np.clip(0.4 * TARGETS + RNG.random((400, 5)) * 0.6, 0, 1), 2).astype(np.float32)
DECIDED = np.array([0.5, 0.4, 0.6, 0.3, 0.7]) <= SCORES
CLASSES = RNG.integers(0, 5, 400)
SOFTMAX = (SCORES / SCORES.sum(axis=1, keepdims=True)).astype(np.float32)


def recall_at(scores: Array, actual: Array, precision: float) -> float:
    """The mean over labels, from scikit-learn's curve."""
    curves = [precision_recall_curve(actual[:, i], scores[:, i])[:2] for i in range(actual.shape[1])]
    return float(np.mean([max(r for p, r in zip(*curve, strict=True) if p >= precision) for curve in curves]))


def expected(name: str, scores: Array, decided: Array, actual: Array) -> float:
    """What scikit-learn says."""
    known: dict[str, Callable[[], float]] = {
        "macro-f1": lambda: f1_score(actual, decided, average="macro", zero_division=0),
        "micro-f1": lambda: f1_score(actual, decided, average="micro"),
        "accuracy": lambda: accuracy_score(actual, decided),
        "average-precision": lambda: average_precision_score(actual, scores, average="macro"),
        "recall@precision=0.75": lambda: recall_at(scores, actual, 0.75),
        "recall@precision=0.95": lambda: recall_at(scores, actual, 0.95),
        "f1:b": lambda: f1_score(actual[:, 1], decided[:, 1]),
        "f1:rare: yes": lambda: f1_score(actual[:, 4], decided[:, 4]),
    }
    return float(known[name]())


NAMES = (
    *("macro-f1", "micro-f1", "accuracy", "average-precision"),
    *("recall@precision=0.75", "recall@precision=0.95", "f1:b", "f1:rare: yes"),
)


@pytest.mark.parametrize("name", NAMES)
def test_each_metric_is_scikit_learns_on_the_split_and_on_a_resample(name: str) -> None:
    measure = parse(name).on(SCORES, DECIDED, TARGETS, LABELS)
    drawn = RNG.integers(0, 400, 400)
    weights = np.stack([np.ones(400), np.bincount(drawn, minlength=400)]).astype(np.float32)
    whole, resampled = measure(weights)
    assert whole == pytest.approx(expected(name, SCORES, DECIDED, TARGETS), abs=1e-6)
    assert resampled == pytest.approx(expected(name, SCORES[drawn], DECIDED[drawn], TARGETS[drawn]), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_each_metric_takes_single_label_tasks(name: str) -> None:
    actual, decided = one_hot(CLASSES, 5), predict(SOFTMAX, None)
    (found,) = parse(name).on(SOFTMAX, decided, actual, LABELS)(np.ones((1, 400), dtype=np.float32))
    assert found == pytest.approx(expected(name, SOFTMAX, decided, actual), abs=1e-6)


def test_a_precision_is_kept_that_is_met_exactly() -> None:
    scores = np.arange(20, 0, -1, dtype=np.float32)[:, None] / 20
    actual = np.ones((20, 1), dtype=bool)
    actual[7] = False  # 19 of 20 are right: 0.95, which float32 would round down
    (found,) = parse("recall@precision=0.95").on(scores, actual, actual, ("a",))(np.ones((1, 20), dtype=np.float32))
    assert found == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_is_written_as_it_is_read(name: str) -> None:
    assert str(parse(name)) == name
    assert parse(parse(name)) == parse(name)


@pytest.mark.parametrize(
    "text", ["f1", "f1:", "F1:a", "auc", "", "recall@precision", "recall@precision=1.5", "recall@precision=x", 1.0]
)
def test_what_is_no_metric_is_refused_with_those_that_are(text: object) -> None:
    with pytest.raises(ValueError, match=r"expected one of: macro-f1, micro-f1, accuracy, average-precision, recall@"):
        parse(text)


def test_a_label_without_a_row_in_a_resample_counts_as_zero() -> None:
    weights = (~TARGETS[:, 4]).astype(np.float32)[None]
    for name in ("average-precision", "recall@precision=0.95"):
        (found,) = parse(name).on(SCORES, DECIDED, TARGETS, LABELS)(weights)
        (others,) = parse(name).on(SCORES[:, :4], DECIDED[:, :4], TARGETS[:, :4], LABELS)(weights)
        assert found == pytest.approx(0.8 * others)


def test_the_default_is_macro_f1() -> None:
    assert parse("macro-f1") == Metric()
