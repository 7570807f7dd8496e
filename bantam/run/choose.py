"""Which variant to keep: the fastest that keeps the budget. What does not pay is dropped, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidate:
    """What the choice looks at; drops in points of macro-F1 against the baseline, latency in milliseconds."""

    name: str
    p50_ms: float
    drop_points: float
    drop_high: float
    """Upper end of the drop's 95% interval."""
    source: str | None = None
    """The variant that this one was made from, if that one was measured too."""
    servable: bool = True


@dataclass(frozen=True)
class Choice:
    """The variant to publish, whether it keeps the budget, and why each other one was dropped."""

    chosen: str
    met: bool
    why: str
    dropped: dict[str, str] = field(default_factory=dict)


def choose(candidates: Sequence[Candidate], baseline: Candidate, max_drop_points: float) -> Choice:
    """The fastest candidate within the budget.

    The budget is kept when the drop is at most ``max_drop_points`` *and* the upper end of its interval at most twice
    that: a gate that a lucky test split cannot pass. If no candidate keeps it, the one with the smallest drop is chosen
    and ``met`` is False. ``candidates`` holds at least one that is servable.
    """
    servable = [c for c in candidates if c.servable]
    by_name = {c.name: c for c in [baseline, *candidates]}
    dropped: dict[str, str] = {}
    for c in servable:
        if reason := _why_not(c, by_name.get(c.source or ""), baseline, max_drop_points):
            dropped[c.name] = reason
    kept = [c for c in servable if c.name not in dropped]
    if kept:
        best = min(kept, key=lambda c: c.p50_ms)
        limit = f"{max_drop_points:g} point{'' if max_drop_points == 1 else 's'}"
        return Choice(best.name, True, f"the fastest variant within {limit}", dropped)
    safest = min(servable, key=lambda c: (c.drop_points, c.p50_ms))
    met = within_budget(safest.drop_points, safest.drop_high, max_drop_points)
    why = "no variant is faster and within the budget; this one loses least"
    return Choice(safest.name, met, why, {name: reason for name, reason in dropped.items() if name != safest.name})


def within_budget(drop_points: float, drop_high: float, max_drop_points: float) -> bool:
    """Whether a drop and the upper end of its interval keep the budget; see :func:`choose`."""
    return drop_points <= max_drop_points and drop_high <= 2 * max_drop_points


def _why_not(c: Candidate, source: Candidate | None, baseline: Candidate, most: float) -> str | None:
    """Why a candidate does not pay; None if it does."""
    if c.drop_points > most:
        return f"loses {c.drop_points:.2f} points, the budget is {most:g}"
    if c.drop_high > 2 * most:
        return f"may lose {c.drop_high:.2f} points (upper end of the interval), twice the budget is {2 * most:g}"
    times = f"{c.p50_ms:.2f} ms against"
    if source is not None and source.servable and c.p50_ms >= source.p50_ms:
        return f"not faster than {source.name}, which it was made from: {times} {source.p50_ms:.2f} ms"
    if c.p50_ms >= baseline.p50_ms:
        return f"not faster than the baseline: {times} {baseline.p50_ms:.2f} ms"
    return None
