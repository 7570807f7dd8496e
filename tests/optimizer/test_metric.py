"""Metrics against scikit-learn's, on whole splits and on resamples; what is no metric is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_curve,
)

from optimizer.evaluate import one_hot, predict
from optimizer.metric import Array, Metric, default, parse

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
    with pytest.raises(
        ValueError, match=r"expected one of: macro-f1, micro-f1, accuracy, agreement, average-precision, r"
    ):
        parse(text)


def test_a_label_without_a_row_in_a_resample_counts_as_zero() -> None:
    weights = (~TARGETS[:, 4]).astype(np.float32)[None]
    for name in ("average-precision", "recall@precision=0.95"):
        (found,) = parse(name).on(SCORES, DECIDED, TARGETS, LABELS)(weights)
        (others,) = parse(name).on(SCORES[:, :4], DECIDED[:, :4], TARGETS[:, :4], LABELS)(weights)
        assert found == pytest.approx(0.8 * others)


def test_the_default_is_macro_f1() -> None:
    assert parse("macro-f1") == Metric()


NUMBERS = RNG.normal(3, 1, 400)
# One digit: most values occur many times, and ties are what ranks can get wrong.
RATED = np.round(NUMBERS + RNG.normal(0, 0.5, 400), 1).astype(np.float32)[:, None]


@pytest.mark.parametrize(("name", "expected"), [("spearman", spearmanr), ("pearson", pearsonr)])
def test_a_correlation_by_weights_is_that_of_the_repeated_rows(name: str, expected: Callable[..., Any]) -> None:
    actual = np.round(NUMBERS, 1)[:, None]
    measure = parse(name).on(RATED, RATED, actual, ())
    drawn = [np.arange(400), *(RNG.integers(0, 400, 400) for _ in range(5))]
    weights = np.stack([np.bincount(rows, minlength=400) for rows in drawn]).astype(np.float32)
    wanted = [expected(RATED[rows, 0].astype(np.float64), actual[rows, 0]).statistic for rows in drawn]
    assert measure(weights) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", ["spearman", "pearson"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_correlation_does_not_depend_on_the_scale_and_what_is_constant_has_none(name: str, scale: float) -> None:
    whole = np.ones((1, 400), dtype=np.float32)
    (found,) = parse(name).on(RATED, RATED, RATED.astype(np.float64) * scale + 1000 * scale, ())(whole)
    assert found == pytest.approx(1.0, abs=1e-9)
    (constant,) = parse(name).on(np.full((400, 1), 0.3, np.float32), RATED, RATED, ())(whole)
    assert constant == 0.0
    (backwards,) = parse(name).on(-RATED, RATED, RATED, ())(whole)
    assert backwards == pytest.approx(-1.0, abs=1e-9)


def test_agreement_is_the_share_of_rows_that_are_decided_alike() -> None:
    other = DECIDED.copy()
    other[:40, 0] ^= True
    (found,) = parse("agreement").on(SCORES, other, DECIDED, LABELS)(np.ones((1, 400), dtype=np.float32))
    assert found == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["macro-f1", "average-precision", "recall@precision=0.75"])
def test_means_are_of_the_labels_that_have_a_row(name: str) -> None:
    actual = TARGETS.copy()
    actual[:, 2] = False
    some, whole = [0, 1, 3, 4], np.ones((1, 400), dtype=np.float32)
    (found,) = parse(name).on(SCORES, DECIDED, actual, LABELS)(whole)
    (without,) = parse(name).on(SCORES[:, some], DECIDED[:, some], actual[:, some], LABELS)(whole)
    assert found == pytest.approx(without)


@pytest.mark.parametrize(
    ("task", "labelled", "name"),
    [
        ("single_label", True, "macro-f1"),
        ("multi_label", False, "agreement"),
        ("regression", True, "spearman"),
        ("regression", False, "spearman"),
    ],
)
def test_the_metric_of_a_task_follows_from_it_and_from_whether_there_are_labels(
    task: str, labelled: bool, name: str
) -> None:
    assert str(default(task, labelled=labelled)) == name
