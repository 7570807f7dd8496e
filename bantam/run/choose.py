"""Which variant to publish: of those that hold every budget the best by the objective, or else the unquantized export.

Nothing is chosen that was not proved on dev: the whole interval of a drop has to be within the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bantam.run.objective import OBJECTIVES, Objective, slower
from bantam.run.request import Aim
from bantam.run.timing import Timing
from optimizer.evaluate import Drop, rows_to_prove, rows_to_prove_agreement


@dataclass(frozen=True)
class Budget:
    """What may be lost against the baseline, and what the chosen variant may take."""

    points: float
    metric: str
    rows: int
    """Of dev, on which the drops were measured."""
    slice_points: float | None = None
    """What may be lost on any one slice: a label, a text length, a value of a column. None: no such limit."""
    p99_ms: float | None = None
    """Most that the served 99th percentile may be, the upper end of its interval."""
    size_mb: float | None = None
    """Most that production may have to ship, in MB (10^6 bytes)."""
    aim: Aim = "latency"
    """What the chosen variant is the best at."""
    tries: int = 1
    """How many variants are judged by intervals that hold for all of them at once."""

    @property
    def objective(self) -> Objective:
        """What the aim means."""
        return OBJECTIVES[self.aim]

    def holds(self, drop: Drop) -> bool:
        """Whether the upper end of the drop's interval is within the budget."""
        return drop.high <= self.points

    def broken(self, drop: Drop) -> bool:
        """Whether a drop on one slice is beyond its limit.

        It is if the drop itself is, and is none that chance explains: the lower end of its interval is above 0. The
        rule of the whole, that the upper end be within, could be kept by no slice with few rows, whatever is lost; and
        without the second condition, one of many slices would be beyond the limit by chance.
        """
        return self.slice_points is not None and drop.points > self.slice_points and drop.low > 0

    def contradicted_on(self, slices: Mapping[str, Drop]) -> str | None:
        """A slice on which test says that what dev has shown is not so; see :func:`contradicts`."""
        if self.slice_points is None:
            return None
        return next((name for name, drop in slices.items() if drop.low > self.slice_points), None)

    def __str__(self) -> str:
        points = f"{self.points:g} point{'' if self.points == 1 else 's'}"
        limits = [] if self.slice_points is None else [f"{self.slice_points:g} on each slice"]
        limits += [] if self.p99_ms is None else [f"a p99 of {self.p99_ms:g} ms"]
        limits += [] if self.size_mb is None else [f"{self.size_mb:g} MB"]
        return f"{points} ({', '.join(limits)})" if limits else points


@dataclass(frozen=True)
class Candidate:
    """A servable variant, as the choice sees it."""

    name: str
    timing: Timing
    drop: Drop | None
    """On dev; None if it cannot be known, as with random weights."""
    size_mb: float = 0.0
    """What production ships, in MB (10^6 bytes)."""
    slices: Mapping[str, Drop] = field(default_factory=dict)
    """On which slices it loses more than the budget has for them, by their names."""
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
    left: str | None = None
    """Why a search has not measured it to the end; then it cannot be chosen, but may be named as the nearest."""


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
    unmet: str | None = None
    """What the chosen variant, the nearest one, would need: nothing holds every budget, so nothing is published."""


class Broken(NamedTuple):
    """A budget that a variant does not hold."""

    reason: str
    """What was got, and what the budget is."""
    times: float
    """The one divided by the other."""
    takes: bool
    """Whether it is of what a variant takes, time or size, and not of what it loses."""


def choose(candidates: Sequence[Candidate], baseline: Timing, budget: Budget, safe: str | None) -> Choice:
    """The best candidate that holds every budget; ``safe``, the unquantized export, if there is none.

    Of those that nobody can tell from the best, the one that is published already is chosen. What is worse than the
    baseline, or than what it was made from, does not pay. ``safe`` is None for random weights, whose quality is
    unknown: then the best is chosen whatever it gains. What takes more time or size than it may is never chosen: if
    that is all that is left, the choice says what is ``unmet``. At least one candidate has no ``problem``.
    """
    broken = {c.name: _broken(c, budget) for c in candidates}
    takes_less = {c.name: c for c in candidates if not any(one.takes for one in broken[c.name])}
    objective = budget.objective
    dropped: dict[str, str] = {}
    for c in candidates:
        reason = c.problem or c.left or "; ".join(one.reason for one in broken[c.name])
        if found := reason or _does_not_pay(c, takes_less.get(c.source or ""), baseline, budget):
            dropped[c.name] = found
    nearest = _nearest(candidates, budget)
    if kept := [c for c in candidates if c.name not in dropped]:
        first = min(kept, key=objective.cost)
        best = next((c for c in kept if c.published and objective.equal(c, first)), first)
        tie = "" if best is first else f", as good as {first.name} within what can be told, and published already"
        return Choice(best.name, _why(best, candidates, nearest, budget) + tie, best.compressed, nearest, dropped)
    possible = [c for c in candidates if not c.problem]
    if safe is not None and (safe in takes_less or safe not in broken):
        return Choice(safe, _why_safe(candidates, nearest, budget), False, nearest, _but(dropped, safe))
    if able := [c for c in possible if not broken[c.name] and c.left is None]:
        best = min(able, key=objective.cost)
        unpaid = f"no variant is faster than the baseline; this one is the {objective.best}"
        why = unpaid if safe is None else _why(best, candidates, nearest, budget)
        return Choice(best.name, why, safe is not None and best.compressed, None, _but(dropped, best.name))
    # Nobody knows how long what was left takes: it is not compared with what lacks nothing but time.
    late = any(c.left is None and not broken_untimed(c, budget) for c in possible)
    known = [c for c in possible if broken[c.name] and not (late and c.left)]
    closest = min(known, key=lambda c: max(one.times for one in broken[c.name]))
    unmet = "; ".join(one.reason for one in broken[closest.name])
    why = f"no variant holds every budget, {budget}; nearest came {closest.name}: {unmet}"
    return Choice(closest.name, why, closest.compressed, None, _but(dropped, closest.name), unmet)


def contradicts(drop: Drop, budget: Budget) -> bool:
    """Whether a drop on test says that what dev has shown is not so: even the lower end is beyond the budget."""
    return drop.low > budget.points


def _but(reasons: Mapping[str, str], name: str) -> dict[str, str]:
    return {each: reason for each, reason in reasons.items() if each != name}


def broken_untimed(c: Candidate, budget: Budget) -> list[Broken]:
    """The budgets that a candidate does not hold, whatever time it takes."""
    found = _loses(c, budget)
    if budget.size_mb is not None and c.size_mb > budget.size_mb:
        reason = f"it ships {c.size_mb:.2f} MB, the budget is {budget.size_mb:g} MB"
        found.append(Broken(reason, c.size_mb / budget.size_mb, True))
    return found


def _broken(c: Candidate, budget: Budget) -> list[Broken]:
    """All of those."""
    return [*broken_untimed(c, budget), *_takes_long(c, budget), *_bears_nothing(c, budget)]


def _loses(c: Candidate, budget: Budget) -> list[Broken]:
    """Those of what it may lose."""
    found = []
    end = "upper end of the interval" + (f", which holds for {budget.tries} tries" if budget.tries > 1 else "")
    if c.drop is not None and not budget.holds(c.drop):
        certain = c.drop.points > budget.points
        lost = f"loses {c.drop.points:.2f} points" if certain else f"may lose {c.drop.high:.2f} points ({end})"
        found.append(Broken(f"{lost}, the budget is {budget.points:g}", c.drop.high / budget.points, False))
    if c.numbers is not None and not budget.holds(c.numbers):
        reason = (
            f"may lose {c.numbers.high:.2f} points of Pearson's correlation ({end}), the budget is {budget.points:g}: "
            "the order of the numbers is kept, they are not; METRIC=spearman judges the order alone"
        )
        found.append(Broken(reason, c.numbers.high / budget.points, False))
    beyond = [(drop, name) for name, drop in c.slices.items() if budget.broken(drop)]
    if beyond and budget.slice_points is not None:
        drop, name = max(beyond)
        reason = (
            f"loses {drop.points:.2f} points on {name} (interval {drop.low:.2f} to {drop.high:.2f}), the budget for "
            f"each slice is {budget.slice_points:g}"
        )
        found.append(Broken(reason, drop.points / budget.slice_points, False))
    return found


def _takes_long(c: Candidate, budget: Budget) -> list[Broken]:
    """That of time."""
    if budget.p99_ms is None or c.left is not None:
        return []
    served = c.timing.served
    high = served.p99_ms.high if served else float("inf")
    if high <= budget.p99_ms:
        return []
    got = f"{served.p99_ms.value:.2f} ms and may be {high:.2f} (upper end of the interval)" if served else "unknown"
    return [Broken(f"its served p99 is {got}, the budget is {budget.p99_ms:g} ms", high / budget.p99_ms, True)]


def _bears_nothing(c: Candidate, budget: Budget) -> list[Broken]:
    """That of the rate: where the highest is asked for, there has to be one."""
    if budget.aim != "throughput" or c.left is not None or c.timing.max_rate:
        return []
    reason = "its server bears no requests within slo_ms of the recipe's table measure: raise it, or ask for latency"
    return [Broken(reason, float("inf"), True)]


def _does_not_pay(c: Candidate, source: Candidate | None, baseline: Timing, budget: Budget) -> str | None:
    """Why what holds every budget is not worth its while; ``source`` is what it was made from, if that may be chosen.

    By size, what is slower pays. The baseline is no alternative where time or size have a limit.
    """
    if source is not None and (figures := budget.objective.worse(c, source)):
        return f"{budget.objective.no_better} {source.name}, which it was made from: {figures}"
    limited = budget.p99_ms is not None or budget.size_mb is not None
    if budget.aim != "size" and not limited and (figures := slower(c.timing, baseline)):
        return f"not faster than the baseline: {figures}"
    return None


def _nearest(candidates: Sequence[Candidate], budget: Budget) -> Nearest | None:
    known = [(c.drop.high, c.name, c.drop) for c in candidates if c.compressed and c.drop is not None]
    if not known or any(budget.holds(drop) for _, _, drop in known):
        return None
    _, name, drop = min(known)
    if budget.metric == "agreement":
        return Nearest(name, drop, rows_to_prove_agreement(drop, budget.rows, budget.points, budget.tries))
    return Nearest(name, drop, rows_to_prove(drop, budget.rows, budget.points))


def _why(best: Candidate, candidates: Sequence[Candidate], nearest: Nearest | None, budget: Budget) -> str:
    if best.drop is None:
        return f"the {budget.objective.best}; with random weights, nobody knows what it loses"
    if nothing := _nothing_kept(candidates, nearest, budget):
        return nothing
    return f"the {budget.objective.best} within {budget}"


def _why_safe(candidates: Sequence[Candidate], nearest: Nearest | None, budget: Budget) -> str:
    if nothing := _nothing_kept(candidates, nearest, budget):
        return nothing
    return f"no variant is faster and within {budget}; this is the unquantized export"


def _nothing_kept(candidates: Sequence[Candidate], nearest: Nearest | None, budget: Budget) -> str | None:
    """What was missing, by how much, and whether more rows would help; None if something compressed kept the budget.

    What a search has left at a glance is no candidate: nobody knows its drop on all of dev.
    """
    if nearest is None:
        left = len(candidates) < budget.tries and not any(c.compressed for c in candidates)
        return f"nothing compressed kept the budget of {budget}, so this is unquantized" if left else None
    missed = (
        f"nothing compressed kept the budget of {budget} of {budget.metric}, so this is unquantized; nearest came "
        f"{nearest.name}, which loses {nearest.drop.points:.2f} points and may lose {nearest.drop.high:.2f}"
    )
    if nearest.rows_needed is None:
        return missed
    return f"{missed}: dev has {budget.rows:,} rows; to prove such a drop within it takes about {nearest.rows_needed:,}"
