"""What the variant that is chosen is best at, of those that hold every budget: latency, throughput or size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bantam.run.request import Aim
from bantam.run.timing import Compared, Timing, equal


class Contender(Protocol):
    """A variant, as far as this looks at it."""

    @property
    def timing(self) -> Timing:
        """What was timed of it."""

    @property
    def size_mb(self) -> float:
        """What production ships, in MB (10^6 bytes)."""


@dataclass(frozen=True)
class Objective:
    """One of the things to be best at."""

    best: str
    """What a variant is that has the lowest cost."""
    no_better: str
    """What one is that costs more than another: the beginning of a reason, followed by the other's name."""
    cost: Callable[[Contender], float]
    """The less the better; infinite if it was not measured."""
    equal: Callable[[Contender, Contender], bool]
    """Whether nobody can say which of two is better."""
    worse: Callable[[Contender, Contender], str | None]
    """Both figures, if the first one is worse than the second one beyond doubt."""


def slower(one: Timing, other: Timing) -> str | None:
    """Both medians if ``one`` is slower beyond doubt, served against served or in process against in process."""
    pair = (one.served, other.served) if one.served and other.served else (one.in_process, other.in_process)
    if pair[0] is None or pair[1] is None or pair[0].versus(pair[1]).low <= 1:
        return None
    where = "served" if pair[0] is one.served else "in process"
    return f"{pair[0].p50_ms.value:.2f} ms against {pair[1].p50_ms.value:.2f} ms {where}"


def _p50(one: Contender) -> float:
    timed: Compared | None = one.timing.served or one.timing.in_process
    return timed.p50_ms.value if timed else float("inf")


PRECISION = 0.05
"""Two rates this near are equal: a search of the highest rate ends there (:mod:`bantam.loadtest.search`)."""


def _rate(one: Contender) -> float:
    return one.timing.max_rate or 0.0


def _fewer(one: Contender, other: Contender) -> str | None:
    if _rate(one) * (1 + PRECISION) >= _rate(other):
        return None
    return f"{_rate(one):.0f} requests a second against {_rate(other):.0f}"


def _larger(one: Contender, other: Contender) -> str | None:
    return f"{one.size_mb:.1f} MB against {other.size_mb:.1f} MB" if one.size_mb >= other.size_mb else None


OBJECTIVES: dict[Aim, Objective] = {
    "latency": Objective(
        "fastest variant",
        "not faster than",
        _p50,
        lambda one, other: equal(one.timing, other.timing),
        lambda one, other: slower(one.timing, other.timing),
    ),
    "throughput": Objective(
        "variant with the highest throughput",
        "bears no more requests than",
        lambda one: 1 / _rate(one) if _rate(one) else float("inf"),
        lambda one, other: not (_fewer(one, other) or _fewer(other, one)),
        _fewer,
    ),
    "size": Objective(
        "smallest variant",
        "not smaller than",
        lambda one: one.size_mb,
        lambda one, other: one.size_mb == other.size_mb,
        _larger,
    ),
}
"""By the word that asks for it: the served median of one text; the requests a second that a server bears within the
recipe's ``slo_ms``; what production ships."""
