"""What a budget is in points of: ``macro-f1``, ``agreement``, ``spearman``, ``f1:LABEL`` ... Parsed once, then typed.

A metric is computed from row weights, so that one function gives the figure of a split (all weights 1) and those of
thousands of bootstrap resamples (a row drawn twice has the weight 2) in a few matrix operations. The tests hold each
against scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer

Array = NDArray[Any]
Measure = Callable[[Array], Array]
"""Row weights float32 ``[resamples, rows]`` to the metric of each resample, at most 1, float64 ``[resamples]``."""

RESAMPLES = 10_000
RESAMPLES_OF_ORDER = 2_000
"""Fewer, because each takes a pass over all rows: the ends of an interval move by about 1.5% of its width."""

Kind = Literal[
    "macro-f1",
    "micro-f1",
    "accuracy",
    "agreement",
    "average-precision",
    "recall@precision",
    "f1",
    "spearman",
    "pearson",
]
OF_NUMBERS = "spearman, pearson"
OF_LABELS = (
    "macro-f1, micro-f1, accuracy, agreement, average-precision, recall@precision=0.95 (or another precision), f1:LABEL"
)
KNOWN = f"{OF_LABELS}, {OF_NUMBERS}"


@dataclass(frozen=True)
class Metric:
    """A figure of quality, at most 1; ``str()`` gives what :func:`parse` takes.

    ``macro-f1``, ``micro-f1``, ``accuracy`` and ``f1`` judge decisions, and so does ``agreement``: the share of rows
    that are decided as the baseline does. ``average-precision`` and ``recall@precision`` (the highest recall at which a
    label still has that precision) judge the order of the scores, without thresholds, and are means over the labels.
    Means over labels are of those that have a row; a label without one in a resample has 0 there, for both models
    alike. ``spearman`` and ``pearson`` judge the numbers of a regression: correlation of ranks, and of values.
    """

    kind: Kind = "macro-f1"
    precision: float | None = None
    """``recall@precision``: the precision to be kept."""
    label: str | None = None
    """``f1``: of this label alone."""

    def __str__(self) -> str:
        tail = f"={self.precision:g}" if self.precision is not None else f":{self.label}" if self.label else ""
        return self.kind + tail

    @property
    def of_numbers(self) -> bool:
        """Whether it judges the numbers of a regression, and no labels."""
        return self.kind in ("spearman", "pearson")

    @property
    def of_order(self) -> bool:
        """Whether it takes a pass over all rows in order."""
        return self.kind in ("average-precision", "recall@precision", "spearman")

    @property
    def resamples(self) -> int:
        """How many a bootstrap of this metric draws."""
        return RESAMPLES_OF_ORDER if self.of_order else RESAMPLES

    def on(self, scores: Array, decided: Array, actual: Array, labels: Sequence[str]) -> Measure:
        """This metric on given rows: ``scores`` float, ``decided`` and ``actual`` bool, all ``[rows, labels]``.

        Of a regression all three are numbers ``[rows, 1]``, and ``decided`` is not looked at.
        """
        if self.of_numbers:
            pair = scores[:, 0].astype(np.float64), actual[:, 0].astype(np.float64)
            return _spearman(*pair) if self.kind == "spearman" else _pearson(*pair)
        if self.of_order:
            return _by_order(scores, actual, self.precision)
        if self.kind in ("accuracy", "agreement"):
            return _mean((decided == actual).all(axis=1))
        if self.kind == "f1":
            only = [labels.index(str(self.label))]
            decided, actual = decided[:, only], actual[:, only]
        return _f1(decided, actual, micro=self.kind == "micro-f1")


def default(task: str, *, labelled: bool) -> Metric:
    """What a model is judged by if nobody says otherwise: its numbers, the baseline's decisions, or the labels."""
    if task == "regression":
        return Metric("spearman")
    return Metric("macro-f1" if labelled else "agreement")


def parse(text: object) -> Metric:
    """The metric that ``text`` names. Raises ValueError that lists the known ones."""
    if isinstance(text, Metric):
        return text
    if isinstance(text, str):
        kind, _, tail = text.partition("=" if text.startswith("recall@precision") else ":")
        if kind == "f1" and tail:
            return Metric("f1", label=tail)
        if kind == "recall@precision" and (precision := _share(tail)):
            return Metric("recall@precision", precision=precision)
        for known in get_args(Kind):
            if text == known and known not in ("f1", "recall@precision"):
                return Metric(known)
    raise ValueError(f"got metric {text!r}, expected one of: {KNOWN}")


MetricField = Annotated[Metric, BeforeValidator(parse), PlainSerializer(str, return_type=str)]
"""A metric as a field of a pydantic model: a string outside, a :class:`Metric` inside."""


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None


def f1_from_counts(true_positive: Array, predicted: Array, actual: Array) -> Array:
    """F1 = 2 tp / (predicted + actual), elementwise; 0 where nothing is predicted and nothing is there."""
    return _ratio(2.0 * true_positive, predicted + actual)


def _ratio(above: Array, below: Array) -> Array:
    """``above / below``, 0 where ``below`` is 0."""
    return np.asarray(np.divide(above, below, out=np.zeros(np.shape(below)), where=below > 0, dtype=np.float64))


def present(actual: Array) -> Array:
    """Which labels have a row, bool ``[labels]``: those that a mean over labels is of. If none has, all of them."""
    there = actual.any(axis=0)
    return np.asarray(there if there.any() else np.ones_like(there))


def _mean(right: Array) -> Measure:
    column = right.astype(np.float32)
    return lambda weights: _ratio(weights @ column, weights.sum(axis=1))


def _f1(decided: Array, actual: Array, *, micro: bool) -> Measure:
    if not micro:
        decided, actual = (each[:, present(actual)] for each in (decided, actual))
    counted = (decided & actual, decided, actual)
    # One column for each count that F1 needs, so that a resample is a matrix product with its row weights.
    columns = np.hstack([each.sum(axis=1, keepdims=True) if micro else each for each in counted]).astype(np.float32)

    def measure(weights: Array) -> Array:
        return np.asarray(f1_from_counts(*np.split(weights @ columns, 3, axis=1)).mean(axis=1))

    return measure


def _by_order(scores: Array, actual: Array, precision: float | None) -> Measure:
    """Average precision, or with ``precision`` the recall there: means over the labels.

    Average precision is the sum of precision times the step of recall, cut after each score that occurs (scikit-learn's
    definition).
    """
    prepared = []
    for label in np.flatnonzero(present(actual)):
        order = np.argsort(-scores[:, label], kind="stable")
        falls = np.flatnonzero(np.diff(scores[order, label]))
        prepared.append((order, actual[order, label], np.append(falls, len(order) - 1)))

    def measure(weights: Array) -> Array:
        values = np.zeros((len(weights), len(prepared)))
        for label, (order, hits, cuts) in enumerate(prepared):
            # Sums of many small whole numbers: exact in float32 up to 2^24.
            drawn = weights[:, order]
            found, taken = (np.cumsum(each, axis=1)[:, cuts] for each in (drawn * hits, drawn))
            there = found[:, -1]
            reached = _ratio(found, taken)
            if precision is None:
                gained = (np.diff(found, axis=1, prepend=0) * reached).sum(axis=1)
            else:
                gained = np.where(reached >= precision, found, 0).max(axis=1)
            values[:, label] = _ratio(gained, there)
        return np.asarray(values.mean(axis=1))

    return measure


def _pearson(one: Array, other: Array) -> Measure:
    """Pearson's correlation of two columns float64 ``[rows]``; 0 where either is constant."""
    # Centred and scaled first: differences of large sums would lose their digits.
    x, y = ((column - column.mean()) / (column.std() or 1) for column in (one, other))
    columns = np.stack([x, y, x * y, x * x, y * y], axis=1)

    def measure(weights: Array) -> Array:
        count = weights.sum(axis=1, dtype=np.float64)[:, None]
        sums = weights.astype(np.float64) @ columns
        mean_x, mean_y, xy, xx, yy = (sums / count).T
        return _correlation(xy - mean_x * mean_y, xx - mean_x**2, yy - mean_y**2)

    return measure


def _spearman(one: Array, other: Array) -> Measure:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing the mean of theirs (Kendall 1945).

    A row of weight w stands for w equal rows: with W rows in its tie and B before it, its rank is ``B + (W + 1) / 2``.
    """
    ties = [_ties(column) for column in (one, other)]

    def measure(weights: Array) -> Array:
        drawn = weights.astype(np.float64)
        middle = (drawn.sum(axis=1, keepdims=True) + 1) / 2
        x, y = (_ranks(drawn, *each) - middle for each in ties)
        return _correlation(*((drawn * product).sum(axis=1) for product in (x * y, x * x, y * y)))

    return measure


def _ties(column: Array) -> tuple[Array, Array, Array]:
    """Order of the rows; where each tie ends in it ``[ties]``; and which tie each row is in ``[rows]``."""
    order = np.argsort(column, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(column[order])), len(order) - 1)
    tie = np.empty(len(order), dtype=np.int64)
    tie[order] = np.searchsorted(ends, np.arange(len(order)))
    return order, ends, tie


def _ranks(weights: Array, order: Array, ends: Array, tie: Array) -> Array:
    """``[resamples, rows]``: the rank of each row among the rows that the weights stand for."""
    through = np.cumsum(weights[:, order], axis=1)[:, ends]
    before = np.concatenate([np.zeros((len(weights), 1)), through[:, :-1]], axis=1)
    return np.asarray(((before + through + 1) / 2)[:, tie])


def _correlation(both: Array, one: Array, other: Array) -> Array:
    """From a covariance and two variances; 0 where either is nothing but what rounding leaves."""
    spread = np.sqrt(np.maximum(one, 0) * np.maximum(other, 0))
    return np.clip(_ratio(both, np.where(spread > 1e-12, spread, 0)), -1, 1)
