"""What was timed of a variant, beside the anchor in the same rounds; how sure that is, and which variants are equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bantam.run.noise import Noise

Latencies = NDArray[np.float64]
Phase = Literal["in_process", "served", "rate"]
"""Where a request was sent: to the runtime in process, alone to a server, or to a server under a rising rate."""

RESAMPLES = 1000
TAILS = (2.5, 97.5)
ENOUGH = 0.5
"""Share of the requests that must be answered for a median to be the variant's."""


class Estimate(NamedTuple):
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Compared:
    """Milliseconds of one variant and of the anchor, in the same rounds over the same texts.

    The intervals are those of the pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2)): rounds and texts
    are drawn with replacement, independently of each other, and the variant and the anchor get the same draws, so that
    slow rounds and long texts cancel. It errs on the wide side. All draws are seeded; those of texts are the same for
    all variants, those of rounds for all of a group.
    """

    own_ms: Latencies
    """``[rounds, texts]``; NaN where the request failed."""
    anchor_ms: Latencies
    """``[rounds, texts]``, likewise. The anchor's own is compared with itself, over the rounds of all groups."""
    group: int
    """Which variants it was measured together with."""
    anchor_p50_ms: float
    """The anchor's median over all groups: what figures of different groups are brought to."""

    @property
    def texts(self) -> int:
        """How many were timed in a round."""
        return int(self.own_ms.shape[1])

    @cached_property
    def ratio(self) -> Estimate:
        """The variant's p50 divided by the anchor's; less than 1 is faster. Figures of different groups compare."""
        return _estimate(_p50(self.own_ms) / _p50(self.anchor_ms), self._ratios)

    @cached_property
    def p50_ms(self) -> Estimate:
        """The median of :attr:`latencies_ms`: the ratio times the anchor's median over all groups."""
        return _estimate(_p50(self.own_ms) * self._scale, self._draws[0] * self._scale)

    @cached_property
    def p99_ms(self) -> Estimate:
        """The 99th percentile of :attr:`latencies_ms`, from the same draws."""
        own = np.array([_quantile(self.own_ms[cell], 99) for cell in self._cells])
        return _estimate(_quantile(self.own_ms, 99) * self._scale, own * self._scale)

    @cached_property
    def latencies_ms(self) -> Latencies:
        """Of all answered requests, ``[n]``, as they would be if the anchor had had its overall median in this group.

        With one group they are exactly what was measured.
        """
        return self.own_ms[~np.isnan(self.own_ms)] * self._scale

    def versus(self, other: Compared) -> Estimate:
        """This variant's p50 divided by another's, each seen from its anchor; in one group the anchor cancels out."""
        return _estimate(self.ratio.value / other.ratio.value, self._ratios / other._ratios)

    @property
    def _scale(self) -> float:
        return self.anchor_p50_ms / _p50(self.anchor_ms)

    @property
    def _ratios(self) -> Latencies:
        own, anchor = self._draws
        return own / anchor

    @cached_property
    def _draws(self) -> tuple[Latencies, Latencies]:
        """The medians of both in each resample, ``[resamples]``."""
        cells = self._cells
        own = np.array([_p50(self.own_ms[cell]) for cell in cells])
        return own, own if self.own_ms is self.anchor_ms else np.array([_p50(self.anchor_ms[cell]) for cell in cells])

    @property
    def _cells(self) -> list[tuple[NDArray[np.int64], ...]]:
        """What each resample draws: indices of rounds and texts, for both alike."""
        rounds, texts = self.own_ms.shape
        columns = np.random.default_rng(0).integers(texts, size=(RESAMPLES, texts))
        rows = np.random.default_rng([1, self.group]).integers(rounds, size=(RESAMPLES, rounds))
        return [np.ix_(*drawn) for drawn in zip(rows, columns, strict=True)]


@dataclass(frozen=True, eq=False)
class Timing:
    """All that was timed of a variant."""

    in_process: Compared | None
    """Compared with the baseline in process. None if fewer than half of the requests were answered."""
    served: Compared | None
    """Compared with a served model. None if it is not served, or fewer than half of the requests were answered."""
    errors: Mapping[Phase, Mapping[str, int]] = field(default_factory=dict)
    """Names of the exceptions that requests failed with, and how often; warm-ups included. Empty if none failed."""
    max_rate: float | None = None
    """Requests per second that the server bears within the objective; None if it bore none, or is not served."""
    batch_texts_per_s: float | None = None
    """In process, of all texts in one list; None if nobody asked."""
    peak_rss_mb: float = 0.0
    """Of a process that runs this variant alone, in MB (10^6 bytes)."""
    server_peak_rss_mb: float | None = None
    """Of the process that holds the model in its server."""
    noise: Noise | None = None
    """What else the machine did in the rounds in which it was timed; None if nobody listened."""

    @property
    def failed(self) -> int:
        """Requests without an answer in all phases. A variant that has any is reported, and must not be chosen."""
        return sum(sum(kinds.values()) for kinds in self.errors.values())


def joined(before: Mapping[str, Timing], later: Mapping[str, Timing]) -> dict[str, Timing]:
    """Times of two sessions around the same anchors, as if each were some groups of one; of both, those from before."""
    known = {
        phase: [one for timing in before.values() if (one := getattr(timing, phase))]
        for phase in ("in_process", "served")
    }
    groups = 1 + max((one.group for ones in known.values() for one in ones), default=-1)

    def moved(phase: str, one: Compared | None) -> Compared | None:
        if one is None or not known[phase]:
            return one
        return replace(one, group=groups + one.group, anchor_p50_ms=known[phase][0].anchor_p50_ms)

    return dict(before) | {
        name: replace(timing, in_process=moved("in_process", timing.in_process), served=moved("served", timing.served))
        for name, timing in later.items()
        if name not in before
    }


def equal(one: Timing, other: Timing) -> bool:
    """Whether nobody can say which is faster: 1 is within the 95% interval of the ratio of their medians.

    Served where both are, else in process; they may be of different groups. False if either was not timed there.
    """
    pair = (one.served, other.served) if one.served and other.served else (one.in_process, other.in_process)
    if pair[0] is None or pair[1] is None:
        return False
    found = pair[0].versus(pair[1])
    return found.low <= 1 <= found.high


def enough(latencies_ms: Latencies) -> bool:
    """Whether so many requests were answered that their median is the variant's."""
    return latencies_ms.size > 0 and bool(np.mean(~np.isnan(latencies_ms)) > ENOUGH)


def _p50(latencies_ms: Latencies) -> float:
    """NaN if there is none: a resample may be of nothing but a round in which all failed."""
    answered = latencies_ms[~np.isnan(latencies_ms)]
    return float(np.median(answered)) if answered.size else np.nan


def _quantile(latencies_ms: Latencies, percent: float) -> float:
    """Likewise."""
    answered = latencies_ms[~np.isnan(latencies_ms)]
    return float(np.percentile(answered, percent)) if answered.size else np.nan


def _estimate(value: float, draws: Latencies) -> Estimate:
    low, high = np.nanpercentile(draws, TAILS)
    return Estimate(value, float(low), float(high))
