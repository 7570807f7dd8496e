"""How floats become integers of 8 bits, and how the range that these stand for is found from a sample.

With a scale s > 0, a zero point z and integers from a to b (Jacob et al. 2018, equation 1; Wu et al. 2020, section 3)::

    quantize      q = clip(round(x / s) + z, a, b)
    dequantize    x' = s (q - z)
    affine        s = (h - l) / (b - a),  z = round(a - l / s),   for a range l <= 0 <= h
    scale         s = max(-l, h) / b,     z = 0 (or 128, where the integers have no sign)

0 is represented exactly in both. What lies outside the range is clipped: a narrower range has smaller steps for the
rest. The estimators of a range are here, and not those of ONNX Runtime, because its histograms grow with the range of
what comes later and it has no estimator by the squared error; both are compared in tests/optimizer/test_numerics.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
"""The lowest and the highest value that is represented."""

BINS = 8192
"""Of a histogram; 64 KB. The values fill at least half of them: 2048 on a side, as in TensorRT."""
SMALLEST_LIMIT = 2.0**-64
"""Of a histogram; values far below this are as good as 0."""
AVERAGING = 0.01
"""What a new sample counts at least in a moving average, as in ONNX Runtime."""
SHARE = 0.9999
"""Of the values that a percentile keeps."""
LEVELS = 256
"""Integers that the entropy's distribution is merged into."""
SMOOTHING = 1e-4
"""What is added to each bin's count before distributions are compared, as in ONNX Runtime: a bin that only one of them
has costs much and not infinitely much."""
CANDIDATES = 128
"""Limits that are tried on a side, in equal ratios."""
FINEST = 32
"""The least squared error is looked for down to this fraction of a side: below it, steps are finer than bins."""


def affine(low: Any, high: Any, lowest: int = 0, highest: int = 255) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scale and zero point of the affine scheme, of the shape of ``low`` and ``high``: one a channel, or one."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    scale = _positive((high - low) / (highest - lowest))
    zero_point = np.clip(np.rint(lowest - low / scale), lowest, highest)
    return np.asarray(scale, np.float32), np.asarray(zero_point, np.int32)


def symmetric(low: Any, high: Any, highest: int = 127) -> NDArray[np.float32]:
    """Scale of the scale scheme, of the shape of ``low`` and ``high``."""
    return np.asarray(_positive(np.maximum(np.abs(low), np.abs(high)) / highest), np.float32)


def _positive(scale: Any) -> Any:
    """1 for the scale of nothing but zeros, as in ONNX Runtime."""
    return np.where(scale > np.finfo(np.float32).tiny, scale, 1)


def quantize(values: NDArray[np.float32], scale: Any, zero_point: Any, lowest: int, highest: int) -> NDArray[Any]:
    """Integers from ``lowest`` to ``highest``, in int8 or, if none is negative, uint8; halves go to the even one."""
    kind = np.uint8 if lowest >= 0 else np.int8
    return np.asarray(np.clip(np.rint(values / scale) + zero_point, lowest, highest), kind)


def dequantize(integers: NDArray[Any], scale: Any, zero_point: Any) -> NDArray[np.float32]:
    """What the integers stand for."""
    return np.asarray((integers.astype(np.int32) - zero_point) * scale, np.float32)


class HistogramObserver:
    """What the estimators need of all values that were added, in memory that does not grow with them.

    :data:`BINS` bins of one width from ``-limit`` to ``limit``, a power of 2. Where a value lies beyond, the limit is
    doubled and each two bins become one, which moves no value to another side of a bin's edge: the counts are the same
    in whatever order the samples come.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = SMALLEST_LIMIT
        self.low, self.high = np.inf, -np.inf
        self.samples = 0
        self.average: Range = (0.0, 0.0)
        """Of each sample's lowest and highest value: the mean of the first 1 / :data:`AVERAGING` samples, in which
        none counts more than another, and m <- m + 0.01 (x - m) after them."""

    def add(self, values: NDArray[np.float32]) -> None:
        """Count one sample, of any shape. Raises ``ValueError`` if something in it is not finite."""
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise ValueError("an activation is not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.samples += 1
        share, before = max(1 / self.samples, AVERAGING), self.average
        self.average = before[0] + share * (low - before[0]), before[1] + share * (high - before[1])
        while max(-low, high) >= self.limit:
            self.limit, merged = 2 * self.limit, self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(merged, BINS // 4)
        place = np.floor(values.reshape(-1) * (BINS / 2 / self.limit)).astype(np.int64) + BINS // 2
        self.counts += np.bincount(place, minlength=BINS)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Of the bins, ``[BINS + 1]``."""
        return np.linspace(-self.limit, self.limit, BINS + 1)

    def within(self, low: float, high: float) -> Range:
        """The part of this range in which there are values."""
        return max(low, self.low), min(high, self.high)


def min_max(seen: HistogramObserver, scheme: str) -> Range:
    """The lowest and the highest value: nothing is clipped."""
    return seen.low, seen.high


def moving_average(seen: HistogramObserver, scheme: str) -> Range:
    """Moving averages of the samples' lowest and highest values, which one sample alone moves little."""
    return seen.average


def percentile(seen: HistogramObserver, scheme: str) -> Range:
    """The range of all but 1 in 10,000 values: of the largest in size (scale), or half of them a side (affine)."""
    edges = seen.edges
    if scheme == "symmetric":
        sizes = np.cumsum(seen.counts[BINS // 2 :] + seen.counts[: BINS // 2][::-1])
        limit = edges[BINS // 2 :][1 + int(np.searchsorted(sizes, SHARE * sizes[-1]))]
        return seen.within(-limit, limit)
    below = np.cumsum(seen.counts)
    cut = (1 - SHARE) / 2 * below[-1]
    first, last = (int(np.searchsorted(below, at)) for at in (cut, below[-1] - cut))
    return seen.within(edges[first], edges[last + 1])


def entropy(seen: HistogramObserver, scheme: str) -> Range:
    """The range [-t, t] whose integers tell most of the distribution (Migacz 2017, as in TensorRT).

    With P the bins up to t, to whose outermost is added what lies beyond, and Q the bins up to t merged into
    :data:`LEVELS` and spread again over those of them that are not empty, t has the least
    ``KL(P || Q) = sum P log(P / Q)``, both smoothed: a single outlier has no bin in Q until t reaches it. Tried are
    :data:`CANDIDATES` of t, in equal ratios from half of :data:`LEVELS` bins, which is 1/32 of the limit, up to the
    outermost value.
    """
    middle = BINS // 2
    outermost = int(np.flatnonzero(seen.counts + seen.counts[::-1])[-1]) + 1 - middle
    best, limit = np.inf, seen.limit
    for half in np.unique(np.geomspace(min(LEVELS // 2, outermost), outermost, CANDIDATES).round().astype(int)):
        inside = seen.counts[middle - half : middle + half]
        reference = inside.astype(np.float64)
        reference[0] += seen.counts[: middle - half].sum()
        reference[-1] += seen.counts[middle + half :].sum()
        merged = np.arange(2 * half) * LEVELS // (2 * half)
        sums = np.bincount(merged, inside, LEVELS)
        filled = np.bincount(merged, reference > 0, LEVELS)
        spread = np.where(reference > 0, sums[merged] / np.maximum(filled[merged], 1), 0)
        divergence = _divergence(reference, spread)
        if divergence < best:
            best, limit = divergence, seen.edges[middle + half]
    return seen.within(-limit, limit)


def _divergence(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Kullback-Leibler, of counts."""
    p, q = reference + SMOOTHING, other + SMOOTHING
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p * np.log(p / q)))


def mse(seen: HistogramObserver, scheme: str) -> Range:
    """The range with the least squared error, ``sum_i n_i (x_i - x'_i)^2`` over the bins' counts and middles.

    :data:`CANDIDATES` limits on a side, in equal ratios up to the outermost value. Of the asymmetric scheme one side is
    moved at a time, from the outermost values on, until neither gains: a local minimum.
    """
    some = seen.counts > 0
    middles = np.clip((seen.edges[:-1] + seen.edges[1:]) / 2, seen.low, seen.high)[some].astype(np.float32)
    ratios = np.geomspace(1 / FINEST, 1, CANDIDATES)

    def errors(low: Any, high: Any) -> NDArray[np.float64]:
        scale, zero_point = (each[:, None] for each in parameters(low, high, scheme))
        again = dequantize(quantize(middles, scale, zero_point, 0, 255), scale, zero_point)
        return np.asarray(np.square(again - middles) @ seen.counts[some])

    if scheme == "symmetric":
        sizes = ratios * max(-seen.low, seen.high)
        limit = float(sizes[np.argmin(errors(-sizes, sizes))])
        return seen.within(-limit, limit)
    sides = [ratios * min(seen.low, 0.0), ratios * max(seen.high, 0.0)]
    best, least = [sides[0][-1:], sides[1][-1:]], np.inf
    while True:
        for side, tried in enumerate(sides):
            pair = [np.broadcast_to(each, tried.shape) for each in best]
            pair[side] = tried
            found = errors(*pair)
            best[side] = tried[[int(np.argmin(found))]]
        if not found.min() < least:
            return seen.within(float(best[0][0]), float(best[1][0]))
        least = found.min()


def parameters(low: Any, high: Any, scheme: str) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scale and zero point in uint8, the numbers of activations: ``symmetric`` has the zero point 128."""
    if scheme == "symmetric":
        return symmetric(low, high), np.full(np.shape(high), 128, np.int32)
    return affine(low, high)


ESTIMATORS: Mapping[str, Callable[[HistogramObserver, str], Range]] = MappingProxyType(
    {
        "min-max": min_max,
        "moving-average": moving_average,
        "percentile": percentile,
        "entropy": entropy,
        "mse": mse,
    }
)
"""Name in a recipe -> the range of what was seen, for the scheme ``symmetric`` or ``asymmetric``."""
