"""The report's plots: what a variant loses against what it gains, and the distributions of latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from bantam.report.ranking import Cost, leading, model_of, on_front, pareto_front, trade_off
from bantam.report.schema import BASELINE, Latency, Report, Variant
from bantam.report.svg import DASHES, MARKERS, STAND_INS, latency_axis, legend, new_figure, svg, unique
from bantam.report.text import FIGURES, kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SERIES = len(MARKERS)
"""Variants that can each have a look of their own."""


@dataclass(frozen=True)
class Series:
    """How one variant looks: told apart by shape and dashes as well as by colour."""

    variant: Variant
    color: str
    marker: str
    dashes: Any
    chosen: bool

    @property
    def width(self) -> float:
        """Line width in points."""
        return 2.2 if self.chosen else 1.4


def series(report: Report) -> list[Series]:
    """At most :data:`MOST_SERIES`, those that lead, each with a look of its own.

    The baseline in grey, the chosen one in the page's accent colour, the others in the palette's order.
    """
    others = iter(range(2, MOST_SERIES))
    result = []
    for variant in leading(report, MOST_SERIES):
        chosen = variant.name == report.chosen
        slot = 1 if chosen else 0 if variant.name == BASELINE else next(others)
        result.append(Series(variant, STAND_INS[f"series-{slot}"], MARKERS[slot], DASHES[slot], chosen))
    return result


def groups(report: Report) -> list[Series]:
    """All variants, when there are too many for looks of their own: the model is the colour, the format the shape."""
    models = list(dict.fromkeys(map(model_of, report.ordered)))
    kinds = list(dict.fromkeys(map(kind, report.ordered)))
    result = []
    for variant in report.ordered:
        color = STAND_INS[f"series-{models.index(model_of(variant)) % len(MARKERS)}"]
        marker = MARKERS[kinds.index(kind(variant)) % len(MARKERS)]
        result.append(Series(variant, color, marker, "-", variant.name == report.chosen))
    return result


COSTS: dict[Cost, tuple[str, str, str]] = {
    "latency": ("tradeoff", "in-process latency", "in-process p50, ms (less is better)"),
    "size": ("tradeoff-size", "size", "size, MB (less is better)"),
}
"""What quality is plotted against: the plot's name, the words for it, the axis."""


def tradeoff(report: Report, cost: Cost = "latency") -> Markup | None:
    """Quality against in-process p50, or against size, with the Pareto front, the drop's intervals and the budget; SVG.

    None if fewer than two variants have both figures. An interval bar is the baseline's quality minus the ends of the
    interval of the drop.
    """
    many = len(report.variants) > MOST_SERIES
    drawn = [(s, *point) for s in (groups(report) if many else series(report)) if (point := trade_off(s.variant, cost))]
    if len(drawn) < 2 or report.random_weights:
        return None
    metric, quality = FIGURES[report.judged_by]
    with new_figure(3.4) as figure:
        axes = figure.subplots()
        _front(axes, [(latency, f1) for _, latency, f1 in drawn])
        baseline = report.variant(BASELINE).on_dev
        # Drops in points of another metric have no place on this axis.
        base_f1 = baseline.figure if baseline and (report.budget.metric or "macro-f1") == metric else None
        if base_f1 is not None:
            _budget(axes, base_f1, report.budget.max_drop_points)
        for item, latency, f1 in drawn:
            _interval(axes, item, latency, base_f1, faint=many and not item.chosen)
            _point(axes, item, latency, f1, many=many)
        name, words, label = COSTS[cost]
        latency_axis(axes, label)
        axes.set_ylabel(f"{quality} (more is better)")
        axes.locator_params(axis="y", nbins=6)
        axes.yaxis.set_major_formatter("{x:.3f}")
        axes.margins(x=0.12, y=0.15)
        handles, labels = unique([axes])
        if many:
            _name_the_best(axes, report, cost)
            handles, labels = _keys(handles, labels, [item for item, _, _ in drawn])
        legend(figure, handles, labels)
        title = f"{quality[0].upper()}{quality[1:]} against {words}"
        return svg(figure, name, title, _in_words(report, drawn, cost))


def _in_words(report: Report, drawn: Sequence[tuple[Series, float, float]], cost: Cost) -> str:
    """The plot's text alternative: every point, and which of them are on the front."""
    front, unit = on_front(report.variants, cost), "MB" if cost == "size" else "ms"
    return "; ".join(
        f"{item.variant.name}: {latency:g} {unit}, {FIGURES[report.judged_by][1]} {f1:.3f}"
        + (", on the Pareto front" if item.variant.name in front else "")
        for item, latency, f1 in drawn
    )


def _front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    front = pareto_front(points)
    if len(front) == 1:  # what beats all others in both is a corner: lines to the right and down
        (latency, f1), slowest = front[0], max(point[0] for point in points)
        front = [(latency, min(point[1] for point in points)), (latency, f1), (slowest, f1)]
    style: Any = {"color": STAND_INS["muted"], "linewidth": 1, "label": "Pareto front", "zorder": 1}
    axes.step(*zip(*front, strict=True), where="post", **style)


def _budget(axes: Axes, base_f1: float, points: float) -> None:
    style: Any = {"color": STAND_INS["ink"], "linewidth": 1, "linestyle": (0, (2, 3)), "zorder": 1}
    axes.axhline(base_f1 - points / 100, label=f"budget: drop of {points:g}", **style)


def _interval(axes: Axes, item: Series, latency: float, base_f1: float | None, *, faint: bool) -> None:
    quality = item.variant.on_dev
    if base_f1 is not None and quality is not None and quality.drop_ci95 is not None:
        low, high = (base_f1 - end / 100 for end in reversed(quality.drop_ci95))
        style: Any = {"linewidth": 0.8, "alpha": 0.35} if faint else {"linewidth": item.width}
        axes.vlines(latency, low, high, color=item.color, zorder=2, **style)


def _point(axes: Axes, item: Series, latency: float, f1: float, *, many: bool) -> None:
    size, edge = (12, "ink" if many else "surface") if item.chosen else (7 if many else 9, "surface")
    axes.plot([latency], [f1], item.marker, color=item.color, markersize=size, zorder=3 + item.chosen,
              markeredgecolor=STAND_INS[edge], linestyle="none", label=item.variant.name)  # fmt: skip


def _name_the_best(axes: Axes, report: Report, cost: Cost) -> None:
    """Names at the points of the front and of the chosen variant, which a legend of models and formats lacks."""
    for name in sorted(on_front(report.variants, cost) | {report.chosen}):
        point = trade_off(report.variant(name), cost)
        if point:
            axes.annotate(name, point, xytext=(9, 9), textcoords="offset points", fontsize=9, zorder=5)


def _keys(handles: list[Any], labels: list[str], items: Sequence[Series]) -> tuple[list[Any], list[str]]:
    """The legend when looks are shared: the lines, a colour for each model, and a shape for each format."""
    from matplotlib.lines import Line2D

    names = {item.variant.name for item in items}
    keys = {label: handle for handle, label in zip(handles, labels, strict=True) if label not in names}
    for item in items:
        line = Line2D([], [], color=item.color, linewidth=5, solid_capstyle="butt")
        keys.setdefault(model_of(item.variant), line)
    for item in items:
        shape = Line2D([], [], color=STAND_INS["muted"], marker=item.marker, linestyle="none", markersize=7)
        keys.setdefault(kind(item.variant), shape)
    return list(keys.values()), list(keys)


def distribution(report: Report) -> Markup | None:
    """Share of requests answered within a time, in process and served, one line a variant; SVG or None without data."""
    panels = [
        (title, [(s, found) for s in series(report) if (found := getattr(s.variant, source)) and found.percentiles_ms])
        for title, source in (("In process", "in_process"), ("Served", "served"))
    ]
    panels = [(title, lines) for title, lines in panels if lines]
    if not panels:
        return None
    with new_figure(3.4 if len(panels) > 1 else 2.4) as figure:
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0].tolist()
        for axes, (title, lines) in zip(rows, panels, strict=True):
            for item, latency in lines:
                style = {"color": item.color, "linewidth": item.width, "linestyle": item.dashes}
                axes.plot(latency.percentiles_ms, range(101), label=item.variant.name, zorder=2 + item.chosen, **style)
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axes.set_ylabel("answered, %")
            axes.set_yticks([0, 25, 50, 75, 95])
            axes.set_ylim(0, 101)
        latency_axis(rows[-1], "latency of one text, ms")
        for axes in rows[:-1]:
            axes.tick_params(which="both", bottom=False)
        legend(figure, *unique(rows))
        return svg(figure, "distribution", "Distribution of latency", _describe(panels))


def _describe(panels: Sequence[tuple[str, Sequence[tuple[Series, Latency]]]]) -> str:
    return "; ".join(
        f"{title}, {item.variant.name}: half within {latency.p50_ms:g} ms, 99% within {latency.p99_ms:g} ms"
        for title, lines in panels
        for item, latency in lines
    )
