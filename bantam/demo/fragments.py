"""The parts of the page that are HTML of ours; all texts in them are escaped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Template
from markupsafe import Markup

from bantam.client.prediction import Prediction
from bantam.demo.latency import Course, Load
from bantam.demo.served import ServedPair, SideBySide, Status
from bantam.report.page import cards, environment, labels, slices
from bantam.report.schema import BASELINE, Report
from bantam.report.text import DASH, headline, metric, times

Fragment = str
NOTHING = Prediction([], {})
ALIKE = 1.05
"""Latencies that differ by less come out the other way round at the next try."""


def title(served: ServedPair) -> Fragment:
    """The head of the page."""
    return _macro("title", served=served)


def status(served: ServedPair, found: Status) -> Fragment:
    """Whether the server answers; if not, how to start it."""
    return _macro("status", served=served, found=found)


def scores(served: ServedPair, expected: Status, found: SideBySide | None = None, problem: str = "") -> Fragment:
    """The scores and latencies of both models, or why there are none; as high with figures as without."""
    task = found.task if found else expected.task
    was = found.baseline.prediction if found and found.baseline else NOTHING
    now = found.model.prediction if found else NOTHING
    rows = [
        {
            "label": label,
            "baseline": was.scores.get(label),
            "model": now.scores.get(label),
            "assigned": (label in was.labels, label in now.labels),
        }
        for label in now.scores or expected.labels
    ]
    gain = _gain(found.speedup if found else None)
    shares = task != "regression"  # a number of any size is no part of a bar
    return _macro("scores", served=served, rows=rows, found=found, problem=problem, gain=gain, shares=shares)


def message(text: str, *, bad: bool = False) -> Fragment:
    """One line or a few."""
    return _macro("message", text=text, bad=bad)


def latency(names: Mapping[str, str], courses: Mapping[str, Course], load: Load | None) -> Fragment:
    """The table below the plot: what was measured so far, one row a model; ``names`` are model -> what it is."""
    rows = [{"name": name, "what": what, **_measured(courses.get(name))} for name, what in names.items()]
    medians = [row["ms"][0] for row in rows if row["ms"]]
    gain = _gain(medians[0] / medians[1]) if len(medians) == 2 and medians[1] else None
    return _macro("latency", rows=rows, gain=gain, load=load)


def quality(report: Report | None, served: ServedPair) -> Fragment:
    """What was chosen in the newest run that published this model, and its quality by label and slice."""
    if report is None:
        return _macro("no_report", served=served)
    chosen, baseline = report.variant(report.chosen), report.variant(BASELINE)
    template = environment().get_template("demo-quality.html.j2")
    return template.render(
        report=report,
        chosen=chosen,
        headline=headline(report),
        cards=cards(report),
        dash=DASH,
        labels=labels(baseline.quality, chosen.quality),
        slices=slices(baseline.quality, chosen.quality),
        metric=metric(report),
    )


def _measured(course: Course | None) -> dict[str, Any]:
    results = course.results if course else []
    answered = np.concatenate([np.empty(0), *(result.latencies_ms for result in results)])
    errors = sum(len(result.failed) for result in results)
    # Without intervals: they take time that the test under way needs.
    found = np.percentile(answered, (50, 95, 99)).tolist() if len(answered) else []
    rate = len(answered) / course.seconds if course and len(answered) else None
    return {"requests": len(answered) + errors, "errors": errors, "ms": found, "rate": rate}


def _gain(ratio: float | None) -> str | None:
    if ratio is None:
        return None
    if ALIKE > ratio > 1 / ALIKE:
        return "no difference"
    return f"{times(ratio)} faster" if ratio >= 1 else f"{times(1 / ratio)} slower"


def _macro(name: str, **values: Any) -> Fragment:
    found: Markup = getattr(_template().module, name)(**values)
    return str(found)


@cache
def _template() -> Template:
    return environment().get_template("demo.html.j2")
