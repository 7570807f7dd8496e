"""The report's plots as inline SVG whose colours are CSS variables, so that they follow the page's theme.

Drawn with Matplotlib's objects, without pyplot and its global state; the same report gives the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from serving.report import BASELINE, Latency, Report, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.0
"""Inches: small, so that the text is still readable when a phone shrinks the plot to its width."""
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "p")
DASHES: tuple[Any, ...] = ("-", "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
VARIABLES = ("ink", "muted", "grid", "surface", *(f"series-{n}" for n in range(len(MARKERS))))
_STAND_INS = {name: f"#{0xABCD00 + n:06x}" for n, name in enumerate(VARIABLES)}
"""Matplotlib knows no CSS variables: it draws with these colours, which are then replaced."""


@dataclass(frozen=True)
class Series:
    """How one variant looks in all plots: told apart by shape and dashes as well as by colour."""

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
    """Baseline first, in grey; the chosen one in the page's accent colour; the others in the palette's order."""
    others = 2
    result = []
    for variant in report.ordered:
        chosen = variant.name == report.chosen
        slot = 1 if chosen else 0
        if not chosen and variant.name != BASELINE:
            slot, others = 2 + (others - 2) % (len(MARKERS) - 2), others + 1
        color = _STAND_INS[f"series-{slot}"]
        result.append(Series(variant, color, MARKERS[slot], DASHES[slot], chosen))
    return result


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (latency, quality) points that no other one beats in both, from the fastest to the best."""
    front: list[tuple[float, float]] = []
    for latency, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((latency, quality))
    return front


def tradeoff(report: Report) -> str | None:
    """Macro-F1 against in-process p50, with the Pareto front, the drop's intervals and the budget; SVG.

    None if fewer than two variants have both figures. An interval bar is the baseline's macro-F1 minus the ends of the
    interval of the drop.
    """
    drawn = [(s, s.variant.in_process.p50_ms, s.variant.quality.macro_f1) for s in series(report)
             if s.variant.in_process and s.variant.quality and s.variant.quality.macro_f1 is not None]  # fmt: skip
    if len(drawn) < 2 or report.random_weights:
        return None
    with _figure(3.4) as figure:
        axes = figure.subplots()
        front = pareto_front([(latency, f1) for _, latency, f1 in drawn])
        axes.step(
            *zip(*front, strict=True),
            where="post",
            color=_STAND_INS["muted"],
            linewidth=1,
            label="Pareto front",
            zorder=1,
        )
        baseline = report.variant(BASELINE).quality
        base_f1 = baseline.macro_f1 if baseline else None
        if base_f1 is not None:
            limit = base_f1 - report.budget.max_drop_points / 100
            axes.axhline(
                limit,
                color=_STAND_INS["ink"],
                linewidth=1,
                linestyle=(0, (2, 3)),
                label=f"budget: drop of {report.budget.max_drop_points:g}",
                zorder=1,
            )
        for item, latency, f1 in drawn:
            _point(axes, item, latency, f1, base_f1)
        _latency_axis(axes, "in-process p50, ms (less is better)")
        axes.set_ylabel("macro-F1 (more is better)")
        axes.locator_params(axis="y", nbins=6)
        axes.yaxis.set_major_formatter("{x:.3f}")
        axes.margins(x=0.12, y=0.15)
        _legend(figure, *_unique([axes]))
        description = "; ".join(f"{s.variant.name}: {latency:g} ms, macro-F1 {f1:.3f}" for s, latency, f1 in drawn)
        return _svg(figure, "tradeoff", "Macro-F1 against in-process latency", description)


def _point(axes: Axes, item: Series, latency: float, f1: float, base_f1: float | None) -> None:
    quality = item.variant.quality
    if base_f1 is not None and quality is not None and quality.drop_ci95 is not None:
        low, high = (base_f1 - end / 100 for end in reversed(quality.drop_ci95))
        axes.vlines(latency, low, high, color=item.color, linewidth=item.width, zorder=2)
    axes.plot([latency], [f1], item.marker, color=item.color, markersize=12 if item.chosen else 9, zorder=3,
              markeredgecolor=_STAND_INS["surface"], linestyle="none", label=item.variant.name)  # fmt: skip


def distribution(report: Report) -> str | None:
    """Share of requests answered within a time, in process and served, one line a variant; SVG or None without data."""
    panels = [
        (title, [(s, found) for s in series(report) if (found := getattr(s.variant, source)) and found.percentiles_ms])
        for title, source in (("In process", "in_process"), ("Served", "served"))
    ]
    panels = [(title, lines) for title, lines in panels if lines]
    if not panels:
        return None
    with _figure(3.4 if len(panels) > 1 else 2.4) as figure:
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0].tolist()
        for axes, (title, lines) in zip(rows, panels, strict=True):
            for item, latency in lines:
                style = {"color": item.color, "linewidth": item.width, "linestyle": item.dashes}
                axes.plot(latency.percentiles_ms, range(101), label=item.variant.name, zorder=2 + item.chosen, **style)
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axes.set_ylabel("answered, %")
            axes.set_yticks([0, 25, 50, 75, 95])
            axes.set_ylim(0, 101)
        _latency_axis(rows[-1], "latency of one text, ms")
        for axes in rows[:-1]:
            axes.tick_params(which="both", bottom=False)
        _legend(figure, *_unique(rows))
        return _svg(figure, "distribution", "Distribution of latency", _describe(panels))


def _describe(panels: Sequence[tuple[str, Sequence[tuple[Series, Latency]]]]) -> str:
    return "; ".join(
        f"{title}, {item.variant.name}: half within {latency.p50_ms:g} ms, 99% within {latency.p99_ms:g} ms"
        for title, lines in panels
        for item, latency in lines
    )


def _unique(rows: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of all panels, each label once."""
    found = {label: handle for axes in rows for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def _latency_axis(axes: Axes, label: str) -> None:
    """Logarithmic, because variants differ by factors, with plain numbers at 1, 2, 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def _legend(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """Below the plot, in as many columns as the longest name leaves room for; the figure grows by its height."""
    columns = max(1, min(3, len(labels), 52 // (max(map(len, labels)) + 7)))
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


@contextmanager
def _figure(height: float) -> Iterator[Figure]:
    """A figure in the report's style, ``height`` in inches without the legend."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink, muted, grid = (_STAND_INS[name] for name in ("ink", "muted", "grid"))
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "bantam",
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.linewidth": 0.7,
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), grid),
        **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), muted),
        "text.color": ink,
    }
    with mpl.rc_context(style):
        yield Figure(figsize=(WIDTH, height), layout="constrained")


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an ``<svg>`` for a page: ids of its own, the page's font and colours, a title and a description."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - Matplotlib's own output, not a stranger's
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key: _restyle(key, value, name) for key, value in element.attrib.items()}
        for key in [key for key in element.attrib if key.endswith("}href")]:
            element.set("href", element.attrib.pop(key))
        if element.tag == "g":
            element.attrib.pop("id", None)
        element.tail = None
        if element.tag != "text":
            element.text = None
    for defs in [child for child in root if child.tag == "defs" and child.find("style") is not None]:
        root.remove(defs)
    for tag, text in (("desc", description), ("title", title)):
        root.insert(0, ET.Element(tag, id=f"{name}-{tag}"))
        root[0].text = text
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    return ET.tostring(root, encoding="unicode")


def _restyle(key: str, value: str, name: str) -> str:
    """One SVG attribute: colours to variables, the font to the page's, ids made unique on the page."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("}href"):
        return f"#{name}-{value[1:]}"
    if key == "style":
        value = re.sub(r"font-family:[^;]+;?\s*", "", value)
        for variable, color in _STAND_INS.items():
            value = value.replace(color, f"var(--{variable})")
    return re.sub(r"\s+", " ", value.replace("url(#", f"url(#{name}-")).strip()
