"""Which variant to publish: the fastest within the budget, or else the unquantized export.

Nothing is chosen that was not proved on dev: the whole interval of a drop has to be within the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bantam.run.timing import Compared, Timing, equal
from optimizer.evaluate import Drop, rows_to_prove, rows_to_prove_agreement


@dataclass(frozen=True)
class Budget:
    """What may be lost against the baseline."""

    points: float
    metric: str
    rows: int
    """Of dev, on which the drops were measured."""
    group_points: float | None = None
    """What may be lost on any one value of ``column``; None if there is no such limit."""
    column: str | None = None

    def holds(self, drop: Drop) -> bool:
        """Whether the upper end of the drop's interval is within the budget."""
        return drop.high <= self.points

    def broken(self, drop: Drop) -> bool:
        """Whether a drop on one value of the column is beyond its limit.

        It is if the drop itself is, and is none that chance explains: the lower end of its interval is above 0. The
        rule of the whole, that the upper end be within, could be kept by no value with few rows, whatever is lost; and
        without the second condition, one of many values would be beyond the limit by chance.
        """
        return self.group_points is not None and drop.points > self.group_points and drop.low > 0

    def contradicted_on(self, groups: Mapping[str, Drop]) -> str | None:
        """A value of the column on which test says that what dev has shown is not so; see :func:`contradicts`."""
        if self.group_points is None:
            return None
        return next((name for name, drop in groups.items() if drop.low > self.group_points), None)

    def __str__(self) -> str:
        points = f"{self.points:g} point{'' if self.points == 1 else 's'}"
        return points if self.group_points is None else f"{points} ({self.group_points:g} on each {self.column})"


@dataclass(frozen=True)
class Candidate:
    """A servable variant, as the choice sees it."""

    name: str
    timing: Timing
    drop: Drop | None
    """On dev; None if it cannot be known, as with random weights."""
    groups: Mapping[str, Drop] = field(default_factory=dict)
    """The same on each value of the slice column; empty if the budget has no limit for them."""
    numbers: Drop | None = None
    """Of Pearson's correlation, where the budget holds for it too: of a regression by the default metric."""
    source: str | None = None
    """The variant that this one was made from."""
    compressed: bool = True
    """False for what computes the baseline's own model in its own numbers: it is what everything else must beat."""
    published: bool = False
    """Whether it is what is published under the run's name already."""
    problem: str | None = None
    """Why it cannot be published at all, such as answers other than those measured."""


@dataclass(frozen=True)
class Nearest:
    """The compressed variant that came nearest to the budget, when none kept it."""

    name: str
    drop: Drop
    rows_needed: int | None
    """Rows of dev that would prove a drop like this one within the budget; None if no number would."""


@dataclass(frozen=True)
class Choice:
    """The variant to publish, and why each other one was dropped."""

    chosen: str
    """It need not be among the candidates: the safe choice may not have been measured yet."""
    why: str
    gain: bool
    """Whether it is a compressed variant."""
    nearest: Nearest | None = None
    """Set if there are compressed variants and none kept the budget."""
    dropped: dict[str, str] = field(default_factory=dict)


def choose(candidates: Sequence[Candidate], baseline: Timing, budget: Budget, safe: str | None) -> Choice:
    """The fastest candidate within the budget; ``safe``, the unquantized export, if there is none.

    Of those that nobody can tell from the fastest, the one that is published already is chosen. What is slower than
    the baseline, or than what it was made from, does not pay. ``safe`` is None for random weights, whose quality is
    unknown: then the fastest is chosen whatever it gains. At least one candidate has no ``problem``.
    """
    by_name = {c.name: c for c in candidates}
    dropped = {c.name: r for c in candidates if (r := _why_not(c, by_name.get(c.source or ""), baseline, budget))}
    nearest = _nearest(candidates, budget)
    if kept := [c for c in candidates if c.name not in dropped]:
        fastest = min(kept, key=_p50)
        best = next((c for c in kept if c.published and equal(c.timing, fastest.timing)), fastest)
        tie = "" if best is fastest else f", as fast as {fastest.name} within what can be told, and published already"
        return Choice(best.name, _why(best, nearest, budget) + tie, best.compressed, nearest, dropped)
    if safe is not None:
        reasons = {name: reason for name, reason in dropped.items() if name != safe}
        return Choice(safe, _why_safe(nearest, budget), False, nearest, reasons)
    best = min((c for c in candidates if not c.problem), key=_p50)
    reasons = {name: reason for name, reason in dropped.items() if name != best.name}
    return Choice(best.name, "no variant is faster than the baseline; this one is the fastest", False, None, reasons)


def contradicts(drop: Drop, budget: Budget) -> bool:
    """Whether a drop on test says that what dev has shown is not so: even the lower end is beyond the budget."""
    return drop.low > budget.points


def _why_not(c: Candidate, source: Candidate | None, baseline: Timing, budget: Budget) -> str | None:
    """Why a candidate cannot be chosen; None if it can."""
    if c.problem:
        return c.problem
    if c.drop is not None and not budget.holds(c.drop):
        if c.drop.points > budget.points:
            return f"loses {c.drop.points:.2f} points, the budget is {budget.points:g}"
        return f"may lose {c.drop.high:.2f} points (upper end of the interval), the budget is {budget.points:g}"
    if c.numbers is not None and not budget.holds(c.numbers):
        return (
            f"may lose {c.numbers.high:.2f} points of Pearson's correlation (upper end of the interval), the budget is "
            f"{budget.points:g}: the order of the numbers is kept, they are not; METRIC=spearman judges the order alone"
        )
    for name, drop in c.groups.items():
        if budget.broken(drop):
            return (
                f"loses {drop.points:.2f} points on {name} (95% interval {drop.low:.2f} to {drop.high:.2f}), the "
                f"budget for each {budget.column} is {budget.group_points:g}"
            )
    if source is not None and (figures := _slower(c.timing, source.timing)):
        return f"not faster than {source.name}, which it was made from: {figures}"
    if figures := _slower(c.timing, baseline):
        return f"not faster than the baseline: {figures}"
    return None


def _slower(one: Timing, other: Timing) -> str | None:
    """Both medians if ``one`` is slower beyond doubt, served against served or in process against in process."""
    pair = (one.served, other.served) if one.served and other.served else (one.in_process, other.in_process)
    if pair[0] is None or pair[1] is None or pair[0].versus(pair[1]).low <= 1:
        return None
    where = "served" if pair[0] is one.served else "in process"
    return f"{pair[0].p50_ms.value:.2f} ms against {pair[1].p50_ms.value:.2f} ms {where}"


def _p50(c: Candidate) -> float:
    timed: Compared | None = c.timing.served or c.timing.in_process
    return timed.p50_ms.value if timed else float("inf")


def _nearest(candidates: Sequence[Candidate], budget: Budget) -> Nearest | None:
    known = [(c.drop.high, c.name, c.drop) for c in candidates if c.compressed and c.drop is not None]
    if not known or any(budget.holds(drop) for _, _, drop in known):
        return None
    _, name, drop = min(known)
    needed = rows_to_prove_agreement if budget.metric == "agreement" else rows_to_prove
    return Nearest(name, drop, needed(drop, budget.rows, budget.points))


def _why(best: Candidate, nearest: Nearest | None, budget: Budget) -> str:
    if best.drop is None:
        return "the fastest variant; with random weights, nobody knows what it loses"
    if nearest is not None:
        return _nothing_kept(nearest, budget)
    return f"the fastest variant within {budget}"


def _why_safe(nearest: Nearest | None, budget: Budget) -> str:
    if nearest is not None:
        return _nothing_kept(nearest, budget)
    return f"no variant is faster and within {budget}; this is the unquantized export"


def _nothing_kept(nearest: Nearest, budget: Budget) -> str:
    """What was missing: by how much, and whether more rows would help."""
    missed = (
        f"nothing compressed kept the budget of {budget} of {budget.metric}, so this is unquantized; nearest came "
        f"{nearest.name}, which loses {nearest.drop.points:.2f} points and may lose {nearest.drop.high:.2f}"
    )
    if nearest.rows_needed is None:
        return missed
    return f"{missed}: dev has {budget.rows:,} rows; to prove such a drop within it takes about {nearest.rows_needed:,}"
