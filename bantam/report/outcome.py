"""Which variants were dropped, and how the chosen one was found among many, in words."""

from __future__ import annotations

from bantam.report.schema import Report


def dropped(report: Report) -> dict[str, str]:
    """Name of each dropped variant and the reason, behind the step of a search; the chosen one's own entry left out."""
    return {
        entry.name: f"{entry.step}: {entry.reason}" if entry.step else entry.reason
        for entry in report.dropped
        if entry.name != report.chosen
    }


def searched(report: Report) -> list[str]:
    """How the chosen variant was found, and how to make it again; empty without a search."""
    if report.search is None:
        return []
    rungs = [f"{len(r.variants)} with {r.texts} texts in {r.rounds} rounds" for r in report.search.rungs]
    full = sum(variant.served is not None for variant in report.variants)
    timed = f"timed in process: {', then '.join(rungs)}; " if rungs else ""
    return [
        f"Searched {report.search.variants} variants; {timed}measured in full: {full}. Each drop was judged by an "
        f"interval of {report.search.confidence:.2%}, so that all hold at once with 95%.",
        f"The {'nearest' if report.budget.unmet else 'chosen'} variant again, alone: {report.search.again}",
    ]
