"""Quality against latency, size as area: one panel in process, one served; bench.svg and bench.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bantam.files import replacing_file
from benchmarks.bench.results import BUDGET_POINTS, Results, Row, baseline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS_COLOR, PEER_COLOR, OUT_COLOR = "#c2410c", "#1d4ed8", "#8b8b8b"
AREA_PER_MB = 4.0
PANELS = (("in_process", "In process"), ("served", "Served"))


def draw(results: Results, folder: Path) -> list[Path]:
    """Write the plot in both formats; returns the files, none if nothing was measured."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = [(where, title, points(results.rows, where)) for where, title in PANELS]
    panels = [(where, title, found) for where, title, found in panels if found]
    if not panels:
        return []
    style: Any = {"svg.hashsalt": "bantam", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    written = []
    with mpl.rc_context(style):
        figure = Figure(figsize=(9, 4.2 * len(panels)), layout="constrained")
        rows = figure.subplots(len(panels), 1, squeeze=False)[:, 0].tolist()
        for axes, (where, title, found) in zip(rows, panels, strict=True):
            panel(axes, results, where, title, found)
        for ending in ("svg", "png"):
            path = folder / f"bench.{ending}"
            with replacing_file(path) as temporary:
                figure.savefig(temporary, format=ending, dpi=150)
            written.append(path)
    return written


def points(rows: Sequence[Row], where: str) -> list[tuple[Row, float, float]]:
    """Row, p50 and macro-F1 of all that have both."""
    return [
        (row, getattr(row, where).p50_ms, row.quality.macro_f1) for row in rows if getattr(row, where) and row.quality
    ]


def panel(axes: Axes, results: Results, where: str, title: str, found: Sequence[tuple[Row, float, float]]) -> None:
    """One kind of latency."""
    from bantam.report.svg import latency_axis

    for row, p50, f1 in found:
        color = OUT_COLOR if not row.within_budget else OURS_COLOR if row.ours else PEER_COLOR
        size = AREA_PER_MB * (row.size_mb or 1)
        axes.scatter([p50], [f1], s=size, color=color, alpha=0.35, edgecolors=color, marker="D" if row.ours else "o")
        axes.scatter([p50], [f1], s=6, color=color)
    _name(axes, found)
    base = baseline(results.rows)
    if base is not None and base.quality is not None:
        axes.axhline(base.quality.macro_f1 - BUDGET_POINTS / 100, color=OUT_COLOR, linewidth=1, linestyle=(0, (2, 3)))
    axes.margins(x=0.12, y=0.2)
    latency_axis(axes, "p50 of one text, ms (less is better)")
    axes.set_ylabel("macro-F1 (more is better)")
    note = "diamonds: Bantam; circles: peers; grey: outside the budget (dotted line); area: size to ship"
    axes.set_title(f"{title}  ({note})", loc="left", fontsize=9)
    axes.grid(visible=True, linewidth=0.4)


def _name(axes: Axes, found: Sequence[tuple[Row, float, float]]) -> None:
    """A number beside each point, the fastest first, and whose it is beside the panel: so many names would overlap."""
    ranked = sorted(found, key=lambda each: each[1])
    for number, (_, p50, f1) in enumerate(ranked, start=1):
        axes.annotate(str(number), (p50, f1), xytext=(4, 4), textcoords="offset points", fontsize=8)
    names = "\n".join(f"{number}  {row.name}" for number, (row, _, _) in enumerate(ranked, start=1))
    axes.annotate(names, (1, 1), xytext=(12, 0), xycoords="axes fraction", textcoords="offset points", va="top")
