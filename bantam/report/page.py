"""A report as one HTML page: no script, no network, light and dark, for a screen, a phone and paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from jinja2 import Environment

from bantam.report import plots
from bantam.report.cost import against
from bantam.report.origin import licences, quantized_once
from bantam.report.outcome import dropped, searched
from bantam.report.provenance import StageStep
from bantam.report.quality import Quality, Slice
from bantam.report.ranking import on_front
from bantam.report.schema import BASELINE, Report, Variant
from bantam.report.templates import html
from bantam.report.text import (
    DASH,
    FIGURES,
    RANDOM_WEIGHTS,
    client_code,
    columns,
    cut,
    headline,
    interval,
    kind,
    lost,
    megabytes,
    metric,
    milliseconds,
    points,
    serve_command,
    share,
    thresholds,
    times,
)


@dataclass(frozen=True)
class Card:
    """One figure in large type."""

    title: str
    figure: str
    detail: str


@dataclass(frozen=True)
class QualityRow:
    """A label or a slice: the baseline next to the chosen variant."""

    name: str
    rows: int
    baseline: float | None
    chosen: float | None
    accuracy: float | None
    drop_points: float | None
    drop_ci95: tuple[float, float] | None = None
    kind: str | None = None
    """Of a slice: what its rows have in common."""


def seconds(value: float) -> str:
    """A duration: 5.1 s, 41 s, 8 min 08 s."""
    if value < 10:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


FILTERS: dict[str, Callable[[Any], str]] = {
    "count": "{:,}".format,
    "interval": interval,
    "megabytes": megabytes,
    "milliseconds": milliseconds,
    "points": points,
    "seconds": seconds,
    "share": share,
    "whole": "{:,.0f}".format,
}
"""How the template formats a figure; each shows a dash for None."""


def render(report: Report) -> str:
    """The page. All texts of the report are escaped; every figure on the page comes from the report."""
    chosen, baseline, found = report.variant(report.chosen), report.variant(BASELINE), steps(report)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            chosen=chosen,
            baseline=baseline,
            headline=headline(report),
            cards=cards(report),
            columns=columns(report),
            groups=[(name, len(list(same))) for name, same in groupby(columns(report), key=lambda each: each.group)],
            cost=against(report),
            lost=lost(report),
            metric=metric(report),
            figure=FIGURES[report.judged_by][1],
            cut=cut(report),
            thresholds=thresholds(report),
            licences=licences(report),
            quantized_once=quantized_once(report),
            dropped=dropped(report),
            dash=DASH,
            random_weights=RANDOM_WEIGHTS if report.random_weights else None,
            tradeoff=plots.tradeoff(report),
            tradeoff_size=plots.tradeoff(report, "size") if report.search else None,
            searched=searched(report),
            distribution=plots.distribution(report),
            labels=labels(baseline.quality, chosen.quality),
            slices=slices(baseline.quality, chosen.quality),
            own_steps=[step for step in found if chosen in step[1]],
            other_steps=[step for step in found if chosen not in step[1]],
            front=set() if report.random_weights else on_front(report.variants),
            many=len(report.variants) > plots.MOST_SERIES,
            created=_date(report.created),
            serve_command=serve_command(report),
            client_code=client_code(report),
        )
    )


def environment() -> Environment:
    """What reads the templates of this page and of the demo, with the filters for their figures."""
    return html(**{name: _or_dash(show) for name, show in FILTERS.items()}, kind=kind, raw=_raw)


def cards(report: Report) -> list[Card]:
    """The figures that matter most, those that were measured."""
    chosen, baseline = report.variant(report.chosen), report.variant(BASELINE)
    found = []
    if report.speedup is not None and chosen.in_process and baseline.in_process:
        now, was = milliseconds(chosen.in_process.p50_ms), milliseconds(baseline.in_process.p50_ms)
        found.append(Card("Speed-up, in process", times(report.speedup), f"p50 {now} ms, was {was} ms"))
    if report.size_ratio is not None and chosen.size_mb and baseline.size_mb:
        detail = f"{megabytes(chosen.size_mb)} MB, was {megabytes(baseline.size_mb)} MB"
        found.append(Card("Size reduction", times(report.size_ratio), detail))
    quality = chosen.quality
    if quality and quality.drop_points is not None and not report.random_weights:
        verb = "decided otherwise" if report.budget.metric == "agreement" else "lost"
        detail = f"points {verb}, budget {report.budget.max_drop_points:g}"
        found.append(Card(f"{metric(report)} drop", points(quality.drop_points), detail))
    if chosen.served:
        served = chosen.served
        detail = f"p99 {milliseconds(served.p99_ms)} ms, {'gRPC' if served.protocol == 'grpc' else 'HTTP'}"
        found.append(Card("Served p50", f"{milliseconds(served.p50_ms)} ms", detail))
    return found


def labels(baseline: Quality | None, chosen: Quality | None) -> list[QualityRow]:
    """F1 of each label, the largest loss first."""
    before = {entry.label: entry.f1 for entry in (baseline and baseline.per_label) or ()}
    found = [
        QualityRow(
            entry.label,
            entry.support,
            before.get(entry.label),
            entry.f1,
            None,
            None if (was := before.get(entry.label)) is None or entry.f1 is None else 100 * (was - entry.f1),
        )
        for entry in (chosen and chosen.per_label) or ()
    ]
    return sorted(found, key=_worst_first)


def slices(baseline: Quality | None, chosen: Quality | None) -> list[QualityRow]:
    """Quality on each slice, the worst one first: the largest drop, then the lowest figure."""
    before = (baseline and baseline.slices) or {}
    found = [
        QualityRow(
            name,
            part.rows,
            before.get(name, Slice(rows=0)).value,
            part.value,
            part.accuracy,
            part.drop_points,
            part.drop_ci95,
            part.kind,
        )
        for name, part in ((chosen and chosen.slices) or {}).items()
    ]
    return sorted(found, key=_worst_first)


def _worst_first(row: QualityRow) -> tuple[float, float]:
    drop = float("-inf") if row.drop_points is None else row.drop_points
    return -drop, 2.0 if row.chosen is None else row.chosen


def steps(report: Report) -> list[tuple[StageStep, list[Variant]]]:
    """Each stage once, in the order of the variants, with the variants that went through it."""
    found: dict[str, tuple[StageStep, list[Variant]]] = {}
    for variant in report.ordered:
        for step in variant.stages:
            found.setdefault(step.name, (step, []))[1].append(variant)
    return list(found.values())


def _or_dash(show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: DASH if value is None else show(value)


def _raw(values: tuple[float, ...] | None) -> str:
    """The figures of a cell exactly as they are in report.json."""
    return " ".join(map(repr, values or ()))


def _date(created: str | None) -> str | None:
    """``20 November 2026, 13:05 UTC``; what is not an ISO 8601 time is shown as it is."""
    try:
        time = datetime.fromisoformat(created) if created else None
    except ValueError:
        return created
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".strip() if time else None
