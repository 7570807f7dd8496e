"""The parts of the page that are HTML of ours; all texts in them are escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from serving.demo.latency import Course, Load
from serving.demo.served import Comparison, Served, Status
from serving.loadtest.histogram import percentiles
from serving.report import BASELINE, Report
from serving.report_page import cards, environment, labels, slices
from serving.report_text import headline, times

Fragment = str
ALIKE = 1.05
"""Latencies that differ by less come out the other way round at the next try."""


def title(served: Served) -> Fragment:
    """The head of the page."""
    return _macro("title", served=served)


def status(served: Served, found: Status) -> Fragment:
    """Whether the server answers; if not, how to start it."""
    return _macro("status", served=served, found=found)


def scores(served: Served, names: Sequence[str], found: Comparison | None = None, problem: str = "") -> Fragment:
    """The scores and latencies of both models, or why there are none; as high with figures as without."""
    rows = []
    if found:
        before = found.baseline.prediction if found.baseline else None
        for label, score in found.model.prediction.scores.items():
            old = before.scores[label] if before else None
            rows.append(
                {
                    "label": label,
                    "baseline": old,
                    "model": score,
                    "change": None if old is None else score - old,
                    "said_before": bool(before) and label in before.labels if before else False,
                    "said": label in found.model.prediction.labels,
                }
            )
    else:
        rows = [{"label": name, "baseline": None, "model": None, "change": None} for name in names]
    return _macro("scores", served=served, rows=rows, found=found, problem=problem, gain=_gain(found and found.speedup))


def message(text: str, *, bad: bool = False) -> Fragment:
    """One line or a few."""
    return _macro("message", text=text, bad=bad)


def latency(names: Mapping[str, str], courses: Mapping[str, Course], load: Load | None) -> Fragment:
    """The table below the plot: what was measured so far, one row a model; ``names`` are model -> what it is."""
    rows = [{"name": name, "what": what, **_measured(courses.get(name))} for name, what in names.items()]
    medians = [row["ms"][0] for row in rows if row["ms"]]
    gain = _gain(medians[0] / medians[1]) if len(medians) == 2 and medians[1] else None
    return _macro("latency", rows=rows, gain=gain, load=load)


def quality(report: Report | None, served: Served) -> Fragment:
    """What was chosen in the newest run that published this model, and its quality by label and slice."""
    if report is None:
        return _macro("no_report", served=served)
    chosen, baseline = report.variant(report.chosen), report.variant(BASELINE)
    return (
        environment()
        .get_template("demo-quality.html.j2")
        .render(
            report=report,
            chosen=chosen,
            headline=headline(report),
            cards=cards(report),
            dash="\N{EN DASH}",
            labels=labels(baseline.quality, chosen.quality),
            slices=slices(baseline.quality, chosen.quality),
        )
    )


def _measured(course: Course | None) -> dict[str, Any]:
    results = course.results if course else []
    answered = [ms for result in results for ms in result.latencies_ms.tolist()]
    import numpy as np

    found = percentiles(np.array(answered), None, (50.0, 95.0, 99.0))
    errors = sum(len(result.failed) for result in results)
    rate = len(answered) / sum(result.seconds for result in results) if answered else None
    return {"requests": len(answered) + errors, "errors": errors, "ms": [each.ms for each in found], "rate": rate}


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
