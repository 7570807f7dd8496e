"""Quality of a classifier from its scores: thresholds, F1, accuracy, correlation, and the drop against a baseline.

All functions are pure and take probabilities ``scores`` float ``[rows, labels]`` and ``targets``: uint8
``[rows, labels]`` for ``multi_label`` tasks, int64 ``[rows]`` for ``single_label`` ones, float ``[rows]`` for
``regression``, whose scores are the numbers themselves, ``[rows, 1]``. Decisions are bool ``[rows, labels]``. F1 values
are fractions from 0 to 1, drops are points (hundredths).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from optimizer.metric import RESAMPLES, Array, Measure, Metric, f1_from_counts, present


def tune_thresholds(scores: Array, targets: Array) -> tuple[float, ...]:
    """Threshold per label that maximises this label's F1; to be called with the dev split only.

    A label is predicted where its score is at least the threshold. With scores sorted downwards, cutting after the k-th
    row gives ``F1 = 2 tp_k / (k + positives)``; the threshold is the middle between the scores on both sides of the
    best cut. A label without a positive row gets a threshold of 1.
    """
    thresholds = []
    for label in range(scores.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        sorted_scores, hits = scores[order, label].astype(np.float64), targets[order, label] > 0
        f1 = 2 * np.cumsum(hits) / (np.arange(1, len(order) + 1) + hits.sum())
        # Rows of equal score cannot be told apart by a threshold: cut only where the score falls.
        after = np.append(sorted_scores[1:], 0.0)
        f1[sorted_scores == after] = -1.0
        best = int(np.argmax(f1))
        thresholds.append(float((sorted_scores[best] + after[best]) / 2) if hits.any() else 1.0)
    return tuple(thresholds)


UNTUNED = 0.5
"""Threshold of each label where there are no labels to tune one with."""


def said_as_targets(logits: Array, task: str) -> Array:
    """What a model decides as targets, from its logits ``[rows, labels]``: for data that have none of their own."""
    if task == "multi_label":
        return np.asarray(logits >= np.log(UNTUNED / (1 - UNTUNED)), dtype=np.uint8)
    return np.asarray(logits[:, 0] if task == "regression" else logits.argmax(axis=1))


def predict(scores: Array, thresholds: Sequence[float] | None) -> Array:
    """Predicted labels, bool ``[rows, labels]``: at or above the threshold; without thresholds, the best one."""
    if thresholds is None:
        return one_hot(scores.argmax(axis=1), scores.shape[1])
    return np.greater_equal(scores, np.asarray(thresholds, dtype=np.float64))


def one_hot(targets: Array, labels: int) -> Array:
    """Targets as bool ``[rows, labels]``, whether they are class numbers or already one column a label."""
    if targets.ndim == 2:
        return np.greater(targets, 0)
    return np.equal(np.arange(labels), targets[:, None])


def halves(actual: Array, *, seed: int = 0) -> Array:
    """Bool ``[rows]``: a random half of the rows, with about half of each label's in it.

    Rows are ordered by their labels, the rarest label first, and by chance where these are the same; every other one
    is in the half.
    """
    shuffled = np.random.default_rng(seed).permutation(len(actual))
    frequent_first = np.argsort(-actual.sum(axis=0), kind="stable")
    order = shuffled[np.lexsort([actual[shuffled, label] for label in frequent_first])]
    first = np.zeros(len(actual), dtype=bool)
    first[order[::2]] = True
    return first


def cross_fitted(scores: Array, targets: Array, answers: Array | None = None) -> Array:
    """Decisions on dev that were not tuned on the rows they are judged on.

    Thresholds are tuned on one half of the rows and decide the other, and swapped. ``answers``: other scores of the
    same rows, such as a server's, to be decided by the thresholds that ``scores`` give. Single-label: the best label.
    """
    answers = scores if answers is None else answers
    if targets.ndim == 1:
        return predict(answers, None)
    decided, first = np.empty(scores.shape, dtype=bool), halves(targets > 0)
    for judged in (first, ~first):
        decided[judged] = predict(answers[judged], tune_thresholds(scores[~judged], targets[~judged]))
    return decided


def quality(scores: Array, targets: Array, thresholds: Sequence[float] | None) -> dict[str, float]:
    """:func:`quality_of` the decisions that ``thresholds`` give."""
    return quality_of(scores, predict(scores, thresholds), one_hot(targets, scores.shape[1]))


def quality_of(scores: Array, predicted: Array, actual: Array) -> dict[str, float]:
    """Macro and micro F1, accuracy (multi-label: all of a row's labels right), top1 (the best-scored label is true).

    Macro-F1 is the mean over the labels that have a row.
    """
    hits = predicted & actual
    rows = np.arange(len(scores))
    return {
        "macro_f1": float(f1_from_counts(hits.sum(0), predicted.sum(0), actual.sum(0))[present(actual)].mean()),
        "micro_f1": float(f1_from_counts(*(np.array([a.sum()]) for a in (hits, predicted, actual)))[0]),
        "accuracy": float((predicted == actual).all(axis=1).mean()),
        "top1": float(actual[rows, scores.argmax(axis=1)].mean()),
    }


def other_order(decided: Array, actual: Array) -> tuple[Array, float, float] | None:
    """Which label each output of a single-label classifier means, if more rows are right in another order.

    The assignment with most right rows (Kuhn 1955) on a half of them, judged on the other half, where it has to be
    better by :data:`CLEARLY`. Returns the labels' numbers ``[outputs]``, and the shares of right rows of the other half
    as it is and in this order; None if the order as it is stands, or there are fewer rows than :data:`TELLING`.
    """
    if len(actual) < TELLING:
        return None
    from scipy.optimize import linear_sum_assignment

    half = halves(actual)
    seen = decided[half].T.astype(np.int64) @ actual[half]
    # Of equal ones the order as it is.
    _, means = linear_sum_assignment(2 * len(seen) * seen + np.eye(len(seen), dtype=np.int64), maximize=True)
    said, right = decided[~half].argmax(axis=1), actual[~half].argmax(axis=1)
    as_it_is, otherwise = (float((found == right).mean()) for found in (said, means[said]))
    return (means, as_it_is, otherwise) if otherwise > as_it_is + CLEARLY else None


CLEARLY, TELLING = 0.1, 20
"""Share of the rows; and how many there have to be."""


def per_label(predicted: Array, actual: Array, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Support (rows) and F1 of each label; None for one without rows."""
    f1, support = f1_from_counts((predicted & actual).sum(0), predicted.sum(0), actual.sum(0)), actual.sum(0)
    return [
        {"label": label, "support": int(rows), "f1": float(value) if rows else None}
        for label, rows, value in zip(labels, support, f1, strict=True)
    ]


def correlation_of(scores: Array, actual: Array) -> dict[str, float]:
    """Spearman's and Pearson's correlation, and the mean absolute error, of numbers ``[rows, 1]``."""
    whole = np.ones((1, len(scores)), dtype=np.float32)
    return {
        "spearman": float(Metric("spearman").on(scores, scores, actual, ())(whole)[0]),
        "pearson": float(Metric("pearson").on(scores, scores, actual, ())(whole)[0]),
        "mean_absolute_error": float(np.abs(scores.astype(np.float64) - actual).mean()),
    }


def total_variation(scores: Array, others: Array, *, exclusive: bool) -> float:
    """How far two models' probabilities ``[rows, labels]`` are apart, from 0 to 1: the mean over rows.

    With labels that are ``exclusive`` half of the L1 distance; else each label is a distribution of its own over yes
    and no, whose distance is ``|p - q|``, and labels are averaged.
    """
    apart = np.abs(scores.astype(np.float64) - others)
    return float((apart.sum(axis=1) / 2 if exclusive else apart.mean(axis=1)).mean())


def apart(scores: Array, others: Array) -> Array:
    """How far two computations of the same scores ``[rows, labels]`` are apart, ``[rows]``: the largest difference.

    In units of the largest score, or 1: absolute for probabilities, relative for the numbers of a regression, whose
    rounding grows with them. NaN where either is.
    """
    return np.asarray(np.abs(scores - others).max(axis=1) / max(1.0, float(np.abs(scores).max())))


CELLS = 2_000_000
"""Most row weights that a bootstrap holds at a time."""
KEPT = (8_000_000, 64_000_000)
"""Draws of a bootstrap, least and most, that are kept for the next ones, a byte each, of three bootstraps at a time:
fewer take no time, and more too much memory."""
DRAWS = 200_000_000
"""Most rows that it draws in all: some seconds. On more than 20,000 rows there are fewer resamples."""
FEWEST_RESAMPLES = 1000


BEYOND = 10
"""Resamples that lie beyond each end of an interval: there are more where it is wider than usual, up to :data:`DRAWS`.

Of 20,000 rows, which have 10,000 resamples, so many are beyond each end with up to 25 tries.
"""


class Drop(NamedTuple):
    """What was lost against the baseline, in points, and an interval of it, usually of 95%; negative is a gain."""

    points: float
    low: float
    high: float


def bootstrap_drop(
    baseline: Measure, variant: Measure, rows: int, *, resamples: int = RESAMPLES, seed: int = 0, tries: int = 1
) -> Drop:
    """Drop of a metric from baseline to variant, both measured on the same ``rows``.

    A paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13; paired over rows as in Koehn 2004): rows are
    drawn with replacement, the same for both. On many rows there are fewer than ``resamples``, as :data:`DRAWS` says.

    ``tries``: how many drops are looked at, of which this is one. The interval is of ``1 - 0.05 / tries``, so that all
    of them hold at once with 95% (Bonferroni's inequality; Dunn 1961, "Multiple comparisons among means", JASA 56).
    """
    tail = 2.5 / tries
    resamples = min(max(resamples, round(100 * BEYOND / tail)), max(FEWEST_RESAMPLES, DRAWS // rows))

    def drops(weights: Array) -> Array:
        return 100.0 * (baseline(weights) - variant(weights))

    draws = _kept_draws if KEPT[0] <= resamples * rows <= KEPT[1] else _draws
    samples = np.concatenate([drops(counts.astype(np.float32)) for counts in draws(rows, resamples, seed)])
    low, high = np.percentile(samples, [tail, 100 - tail])
    return Drop(float(drops(np.ones((1, rows), dtype=np.float32))[0]), float(low), float(high))


def _draws(rows: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each row is drawn in each resample, ``[resamples, rows]`` in parts: as many as keep memory flat.

    How many those are makes no difference to what is drawn.
    """
    rng, chunk = np.random.default_rng(seed), max(1, min(250, CELLS // rows))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(0, rows, (size, rows)) + np.arange(size)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows)


@functools.lru_cache(maxsize=3)
def _kept_draws(rows: int, resamples: int, seed: int) -> list[Array]:
    """The same for all variants of a run, of which each asks anew: to draw takes ten times as long as to count.

    A byte holds a count: that one of many rows is drawn more often than 255 times does not happen.
    """
    return [counts.astype(np.uint8) for counts in _draws(rows, resamples, seed)]


def disagreement(otherwise: int, rows: int, tries: int = 1) -> Drop:
    """Drop of agreement with the baseline, which agrees with itself on all ``rows``: those decided ``otherwise``.

    The interval is the exact one of a share (Clopper and Pearson 1934), for one of so many ``tries`` as in
    :func:`bootstrap_drop`. A bootstrap of rows that all agree has nothing
    to draw from but agreement, and would say that nothing can be lost, however few they are.
    """
    from scipy.stats import binomtest

    low, high = binomtest(otherwise, rows).proportion_ci(1 - 0.05 / tries, method="exact")
    return Drop(100.0 * otherwise / rows, 100.0 * float(low), 100.0 * float(high))


def rows_to_prove(drop: Drop, rows: int, budget: float) -> int | None:
    """Rows on which the interval of this ``drop``, seen on ``rows``, would end within ``budget`` points.

    An interval's half-width shrinks with the square root of the rows, so that it takes
    ``rows * ((high - points) / (budget - points))^2``. None if more would not help: the drop itself is beyond it.
    """
    if drop.points >= budget:
        return None
    return max(rows, math.ceil(rows * ((drop.high - drop.points) / (budget - drop.points)) ** 2))


def rows_to_prove_agreement(drop: Drop, rows: int, budget: float, tries: int = 1) -> int | None:
    """The same for :func:`disagreement`, whose interval shrinks faster where next to none is decided otherwise.

    Searched in steps of a fiftieth.
    """
    if drop.points >= budget:
        return None
    while disagreement(math.ceil(drop.points / 100 * rows), rows, tries).high > budget:
        rows += max(1, rows // 50)
    return rows
