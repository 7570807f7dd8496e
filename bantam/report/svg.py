"""Figures as inline SVG whose colours are CSS variables, so that they follow the page's theme.

Drawn with Matplotlib's objects, without pyplot and its global state; the same figure gives the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.0
"""Inches: small, so that the text is still readable when a phone shrinks the plot to its width."""
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "p")
DASHES: tuple[Any, ...] = ("-", "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
VARIABLES = ("ink", "muted", "grid", "surface", *(f"series-{n}" for n in range(len(MARKERS))))
STAND_INS = {name: f"#{0xABCD00 + n:06x}" for n, name in enumerate(VARIABLES)}
"""Matplotlib knows no CSS variables: it draws with these colours, which are then replaced."""


def unique(rows: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of all panels, each label once."""
    found = {label: handle for axes in rows for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def latency_axis(axes: Axes, label: str) -> None:
    """Logarithmic, because variants differ by factors, with plain numbers at 1, 2, 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def legend(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """Below the plot, in as many columns as the longest name leaves room for; the figure grows by its height."""
    columns = max(1, min(3, len(labels), 52 // (max(map(len, labels)) + 7)))
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


@contextmanager
def new_figure(height: float) -> Iterator[Figure]:
    """A figure in the report's style, ``height`` in inches without the legend."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink, muted, grid = (STAND_INS[name] for name in ("ink", "muted", "grid"))
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


def svg(figure: Figure, name: str, title: str, description: str) -> Markup:
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
    # ElementTree escapes: no markup of the user's is in it.
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704


def _restyle(key: str, value: str, name: str) -> str:
    """One SVG attribute: colours to variables, the font to the page's, ids made unique on the page."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("}href"):
        return f"#{name}-{value[1:]}"
    if key == "style":
        value = re.sub(r"font-family:[^;]+;?\s*", "", value)
        for variable, color in STAND_INS.items():
            value = value.replace(color, f"var(--{variable})")
    return re.sub(r"\s+", " ", value.replace("url(#", f"url(#{name}-")).strip()
