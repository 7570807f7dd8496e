"""The plots of a load test, in the style of the report's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from bantam.loadtest.histogram import PERCENTS, Times
from bantam.loadtest.schema import LoadTestReport, Measurement

# The report's page and this one look alike, because their plots are drawn and coloured by the same functions.
from bantam.report.svg import DASHES, MARKERS, STAND_INS, latency_axis, legend, new_figure, svg, unique

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 60


def over_time(test: Measurement) -> Markup | None:
    """Median, 99th percentile and longest latency of each moment of a test, against time; SVG, None without answers."""
    moments = [moment for moment in test.moments if moment.max_ms is not None]
    if len(moments) < 2:
        return None
    with new_figure(2.8) as figure:
        axes = figure.subplots()
        lines = (("longest", "max_ms", 0), ("p99", "p99_ms", 2), ("median", "p50_ms", 1))
        for label, name, slot in lines:
            style = {"color": STAND_INS[f"series-{slot}"], "linestyle": DASHES[slot], "linewidth": 1.6}
            axes.plot([m.start_s for m in moments], [getattr(m, name) for m in moments], label=label, **style)
        failed = [moment for moment in test.moments if moment.errors]
        if failed:
            low = min(m.p50_ms or 0 for m in moments)
            axes.plot([m.start_s for m in failed], [low] * len(failed), "x", color=STAND_INS["ink"], label="errors")
        axes.set_yscale("log")
        _plain_numbers(axes)
        axes.set_xlabel("intended sending, seconds from the start")
        axes.set_ylabel("latency, ms")
        legend(figure, *unique([axes]))
        worst = max(moments, key=lambda moment: moment.max_ms or 0)
        words = (
            f"longest latency {worst.max_ms:.3g} ms, of a request meant to be sent in the {worst.start_s:.1f}th second"
        )
        return svg(figure, "over-time", f"Latency over time, {test.name}", words)


def distribution(tests: Sequence[Measurement]) -> Markup | None:
    """Histograms of the latency on a logarithmic axis, one line a test; SVG, None without answers."""
    counted = [(test, *_cells(test)) for test in tests if test.latency]
    if not counted:
        return None
    low = min(values.min() for _, values, _ in counted)
    high = max(values.max() for _, values, _ in counted)
    edges = np.geomspace(low / 1.02, max(high, low * 1.1) * 1.02, BINS)
    with new_figure(2.8) as figure:
        axes = figure.subplots()
        for slot, (test, values, counts) in enumerate(counted):
            shares = 100 * np.histogram(values, edges, weights=counts)[0] / counts.sum()
            look = _look(slot)
            axes.stairs(shares, edges, label=test.name, color=look["color"], linestyle=look["linestyle"], linewidth=1.6)
        latency_axis(axes, "latency, ms")
        axes.set_ylabel("requests, %")
        legend(figure, *unique([axes]))
        words = "; ".join(f"{test.name}: {_in_words(test)}" for test, _, _ in counted)
        return svg(figure, "distribution", "Histogram of latency", words)


def against_rate(report: LoadTestReport) -> Markup | None:
    """Latency against the rate that was asked for: the steps of the search, or the open-loop tests; SVG or None."""
    points: list[tuple[float, float | None, float | None, bool]]
    if report.limit:
        title = report.limit.slo.partition("=")[0]
        points = [(step.rate, step.p50_ms, step.percentile_ms, step.met) for step in report.limit.steps]
    else:
        title = "p99"
        tests = [test for test in report.tests if test.rate is not None]
        points = [(t.rate or 0.0, _ms(t, 50), _ms(t, 99), True) for t in tests]
    drawn = sorted((rate, p50, tail, met) for rate, p50, tail, met in points if p50 is not None and tail is not None)
    if len(drawn) < 2:
        return None
    with new_figure(2.8) as figure:
        axes = figure.subplots()
        for label, place, slot in (("median", 1, 1), (title, 2, 2)):
            look = _look(slot)
            axes.plot([d[0] for d in drawn], [d[place] for d in drawn], label=label, marker=MARKERS[slot], **look)
        broken = [d for d in drawn if not d[3]]
        if broken:
            style: Any = {"color": STAND_INS["ink"], "markersize": 11, "markerfacecolor": "none", "linestyle": "none"}
            axes.plot([d[0] for d in broken], [d[2] for d in broken], "o", label="objective missed", **style)
        if report.limit:
            limit = float(report.limit.slo.partition("=")[2].removesuffix("ms"))
            axes.axhline(limit, color=STAND_INS["ink"], linewidth=1, linestyle=(0, (2, 3)), label="objective")
        axes.set_yscale("log")
        _plain_numbers(axes)
        axes.set_xlabel("requests per second")
        axes.set_ylabel("latency, ms")
        legend(figure, *unique([axes]))
        words = "; ".join(f"{rate:.4g}/s: median {p50:.3g} ms, {title} {tail:.3g} ms" for rate, p50, tail, _ in drawn)
        return svg(figure, "against-rate", "Latency against the request rate", words)


def _cells(test: Measurement) -> tuple[Times, Times]:
    """Milliseconds and counts of the filled cells of a test's histogram."""
    found = [
        (item.value_iterated_to / 1e3, item.count_at_value_iterated_to)
        for item in test.histogram().get_recorded_iterator()
    ]
    values, counts = np.array(found, dtype=np.float64).T
    return values, counts


def _look(slot: int) -> dict[str, Any]:
    """Told apart by dashes as well as by colour; grey is for what matters less, so it comes last."""
    slot = (slot + 1) % len(MARKERS)
    return {"color": STAND_INS[f"series-{slot}"], "linestyle": DASHES[slot], "linewidth": 1.6}


def _in_words(test: Measurement) -> str:
    return ", ".join(f"p{percent:g} {_ms(test, percent):.3g} ms" for percent in PERCENTS if _ms(test, percent))


def _ms(test: Measurement, percent: float) -> float | None:
    found = test.quantile(percent)
    return found.ms if found else None


def _plain_numbers(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
