"""A report in words and formatted figures: what the terminal and the page show alike."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bantam.artifact import EXAMPLES
from bantam.report.provenance import DataSource
from bantam.report.schema import BASELINE, Report, Variant, speedup

DASH = "\N{EN DASH}"
"""Stands for what was not measured."""


class Format(NamedTuple):
    """A format of variants, for readers."""

    title: str
    library: str
    """What the Hugging Face hub calls the library that loads it."""


FORMATS = {
    "pytorch": Format("PyTorch", "transformers"),
    "onnx": Format("ONNX", "onnx"),
    "openvino": Format("OpenVINO", "openvino"),
}

Values = tuple[float, ...]


@dataclass(frozen=True)
class Column:
    """A column of the table of variants."""

    group: str
    title: str
    values: Callable[[Report, Variant], Values | None]
    """The figures in a cell as they are in the report; None if they were not measured."""
    show: Callable[[Values], str]
    head: str
    """Head in the terminal: two short lines."""
    points: float | None = None
    """By what a difference of two such figures is multiplied to be in points; None if their ratio says more."""

    def text(self, report: Report, variant: Variant) -> str:
        """The cell as a reader sees it."""
        values = self.values(report, variant)
        return DASH if values is None else self.show(values)


def milliseconds(value: float) -> str:
    """Three digits that count: 0.48, 9.71, 41.2, 335."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def share(value: float) -> str:
    """A quality from 0 to 1."""
    return f"{value:.3f}"


def points(value: float) -> str:
    """Points of a metric, without a negative zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def times(ratio: float) -> str:
    """A ratio with two or three digits."""
    digits = f"{ratio:.2f}" if ratio < 0.995 else f"{ratio:.1f}" if ratio < 99.5 else f"{ratio:,.0f}"
    return f"{digits}\N{MULTIPLICATION SIGN}"


def megabytes(value: float) -> str:
    """10^6 bytes: 23.1, 4,400."""
    return f"{value:.1f}" if value < 999.95 else f"{value:,.0f}"


def interval(values: Values) -> str:
    """Both ends of an interval in points."""
    return f"{points(values[0])} to {points(values[1])}"


def _path(path: str) -> Callable[[Report, Variant], Values | None]:
    """Follows attribute names from a variant to a number, or to a tuple of them; None if one is missing."""

    def values(_: Report, variant: Variant) -> Values | None:
        found: object = variant
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, tuple):
            return found
        return (found,) if isinstance(found, int | float) else None

    return values


def _speedup(report: Report, variant: Variant) -> Values | None:
    ratio = speedup(report.variant(BASELINE), variant)
    return None if ratio is None else (ratio,)


def _one(show: Callable[[float], str]) -> Callable[[Values], str]:
    return lambda values: show(values[0])


_DROP = (
    Column("Quality", "Drop, points", _path("on_dev.drop_points"), _one(points), "Drop\npoints", 1),
    Column("Quality", "95% interval", _path("on_dev.drop_ci95"), interval, "95%\ninterval", 1),
)
_MACRO_F1 = Column("Quality", "Macro-F1", _path("on_dev.macro_f1"), _one(share), "Macro\nF1", 100)
QUALITY: dict[str, tuple[Column, ...]] = {
    "labels": (_MACRO_F1, *_DROP),
    "baseline": (
        Column("Quality", "Agreement", _path("on_dev.agreement"), _one(share), "Agree-\nment", 100),
        _MACRO_F1,
        Column("Quality", "Distance", _path("on_dev.total_variation"), _one(share), "\nDistance", 100),
        *_DROP,
    ),
    "numbers": (
        Column("Quality", "Spearman", _path("on_dev.spearman"), _one(share), "\nSpearman", 100),
        Column("Quality", "Pearson", _path("on_dev.pearson"), _one(share), "\nPearson", 100),
        Column("Quality", "Mean error", _path("on_dev.mean_absolute_error"), _one("{:.3g}".format), "Mean\nerror"),
        *_DROP,
    ),
}
"""Columns of quality by what it is judged by; see :attr:`Report.judged_by`."""
COSTS: tuple[Column, ...] = (
    Column("In process, ms", "p50", _path("in_process.p50_ms"), _one(milliseconds), "Process\np50 ms"),
    Column("In process, ms", "p95", _path("in_process.p95_ms"), _one(milliseconds), "\np95 ms"),
    Column("In process, ms", "p99", _path("in_process.p99_ms"), _one(milliseconds), "\np99 ms"),
    Column("Served, ms", "p50", _path("served.p50_ms"), _one(milliseconds), "Served\np50 ms"),
    Column("Served, ms", "p95", _path("served.p95_ms"), _one(milliseconds), "\np95 ms"),
    Column("Served, ms", "p99", _path("served.p99_ms"), _one(milliseconds), "\np99 ms"),
    Column("Gain and cost", "Speed", _speedup, _one(times), "\nSpeed"),
    Column("Gain and cost", "Size, MB", _path("size_mb"), _one(megabytes), "Size\nMB"),
    Column("Gain and cost", "Memory, MB", _path("peak_rss_mb"), _one(lambda value: f"{value:,.0f}"), "Memory\nMB"),
)
PRICED = Column("Gain and cost", "Per million", _path("cost_per_million"), _one("{:.3g}".format), "Cost\nper 1M")
FIGURES = {
    "labels": ("macro-f1", "macro-F1"),
    "baseline": ("agreement", "agreement"),
    "numbers": ("spearman", "Spearman's correlation"),
}
"""The metric that stands for the quality in plots, likewise, and the words for it."""
LATENCY_GROUPS = ("In process, ms", "Served, ms")


def columns(report: Report) -> tuple[Column, ...]:
    """The columns of the table of variants."""
    return (*QUALITY[report.judged_by], *COSTS, *([PRICED] if report.prices else []))


def kind(variant: Variant) -> str:
    """What a variant is: ``ONNX int8``, ``ONNX fp16 on the GPU``."""
    return f"{FORMATS[variant.format].title} {variant.precision}{' on the GPU' if variant.device == 'gpu' else ''}"


def headline(report: Report) -> tuple[str, str, str]:
    """Three lines: what was chosen and why; what was gained; what was lost, and whether the budget is kept."""
    chosen = report.variant(report.chosen)
    if report.budget.unmet:
        return f"Nothing was chosen: {report.chosen_reason}.", _gains(report, chosen), _cost(report, chosen)
    verb = "The baseline stays" if chosen.name == BASELINE else f"{chosen.name} was chosen"
    reason = f": {report.chosen_reason.rstrip('.')}" if report.chosen_reason else f" ({kind(chosen)})"
    return f"{verb}{reason}.", _gains(report, chosen), _cost(report, chosen)


WORDS = {
    None: "Macro-F1",
    "macro-f1": "Macro-F1",
    "agreement": "Agreement",
    "spearman": "Spearman",
    "pearson": "Pearson",
}
"""Metrics by the words for them; others are called as they are typed."""


def metric(report: Report) -> str:
    """What drops are in points of."""
    return WORDS.get(report.budget.metric, f"{report.budget.metric}")


def lost(report: Report) -> str:
    """What a drop is: the subject of a sentence or the head of a list."""
    if report.budget.metric == "agreement":
        return "points of the texts that are decided otherwise than by the baseline"
    name = metric(report)
    return f"{'macro-F1' if report.budget.is_macro_f1 else name} points lost"


def cut(report: Report) -> str | None:
    """Which share of the texts is longer than the model reads; None if it was not counted."""
    if report.texts is None or not report.texts.cut:
        return None
    shares = ", ".join(f"{part:.1%} of {split}" for split, part in report.texts.cut.items())
    return f"{shares} (longer than {report.texts.max_length:,} tokens)" if report.texts.max_length else shares


def thresholds(report: Report) -> str | None:
    """Where the thresholds come from; None for tasks without."""
    if report.thresholds is None:
        return None
    values = [*dict.fromkeys(report.thresholds.values.values())]
    same = f": {values[0]:g} for all labels" if len(values) == 1 else ""
    return {"dev": "tuned on dev", "given": "as given", "default": "not tuned, as there are no labels"}[
        report.thresholds.source
    ] + same


def worst_group(chosen: Variant) -> str | None:
    """The value of the slice column on which most is lost; None if there is none, or nothing to compare with."""
    slices = (chosen.quality and chosen.quality.slices) or {}
    groups = {name: part for name, part in slices.items() if part.kind == "group" and part.drop_points is not None}
    if not groups or chosen.quality is None:
        return None
    name, part = max(groups.items(), key=lambda item: item[1].drop_points or 0)
    ci = f" (95% interval {interval(part.drop_ci95)})" if part.drop_ci95 else ""
    lost = points(part.drop_points or 0)
    return f"Most is lost on {name}: {lost} points{ci} on {part.rows:,} rows of {chosen.quality.split}."


def _gains(report: Report, chosen: Variant) -> str:
    baseline = report.variant(BASELINE)
    if chosen.name == BASELINE:
        return "Nothing was gained in speed or size."
    parts = []
    if report.speedup is not None and chosen.in_process and baseline.in_process:
        now, was = milliseconds(chosen.in_process.p50_ms), milliseconds(baseline.in_process.p50_ms)
        parts.append(f"{_ratio(report.speedup, 'faster', 'slower')} (p50 {now} ms, was {was} ms)")
    if report.size_ratio is not None and chosen.size_mb and baseline.size_mb:
        sizes = f"{megabytes(chosen.size_mb)} MB, was {megabytes(baseline.size_mb)} MB"
        parts.append(f"{_ratio(report.size_ratio, 'smaller', 'larger')} ({sizes})")
    if not parts:
        return "Its speed and size were not measured."
    noise = report.conditions.noise if report.conditions else None
    doubt = " The machine was busy meanwhile: do not trust the times." if noise and noise.doubtful else ""
    return " and ".join(parts) + f" than the baseline.{doubt}"


def _ratio(ratio: float, better: str, worse: str) -> str:
    return f"{times(ratio)} {better}" if ratio >= 1 else f"{times(1 / ratio)} {worse}"


def _cost(report: Report, chosen: Variant) -> str:
    """The drop of the chosen variant, and the budget."""
    quality, on_dev = chosen.quality, chosen.on_dev
    limit = f"{report.budget.max_drop_points:g} point{'' if report.budget.max_drop_points == 1 else 's'}"
    verdict = {True: f"the budget of {limit} is kept", False: f"the budget of {limit} is NOT kept", None: ""}
    end = report.budget.unmet or verdict[report.budget.met] or f"the budget of {limit} was not judged"
    if report.random_weights:
        return f"Random weights: quality means nothing here, {end}."
    if quality is None or quality.value is None:
        return f"Its quality was not measured, {end}."
    figure = f"{metric(report)} {share(quality.value)}"
    if on_dev is not None and on_dev != quality:
        figure = f"{figure} on {quality.split}"
        if on_dev.drop_ci95 is not None:
            end = f"on {on_dev.split} {interval(on_dev.drop_ci95)}: {end}"
    if quality.drop_points is None:
        return f"{figure}; {end}."
    side = "below" if quality.drop_points >= 0 else "above"
    ci = f" (drop with 95% interval {interval(quality.drop_ci95)})" if quality.drop_ci95 else ""
    amount = points(abs(quality.drop_points))
    if report.budget.metric == "agreement":
        return f"{figure}: {amount} points of the texts are decided otherwise than by the baseline{ci}; {end}."
    return f"{figure}, {amount} points {side} the baseline{ci}; {end}."


RANDOM_WEIGHTS = "RANDOM WEIGHTS: sizes and times mean something, predictions and quality do not."


def served_name(report: Report) -> str:
    """The name under which the server knows the model."""
    return report.published.name if report.published else report.model


def serve_command(report: Report) -> str:
    """What to type to serve the chosen variant."""
    return f"make serve NAME={shlex.quote(served_name(report))}"


def client_code(report: Report) -> str:
    """Python that asks the served model, with what it reads, for what it gives."""
    data = report.data_source or DataSource()
    said = "prediction.scores" if data.task == "regression" else "prediction.labels, prediction.scores"
    return (
        "from bantam import Classifier\n\n"
        f'classifier = Classifier("localhost:8001", model={json.dumps(served_name(report), ensure_ascii=False)})\n'
        f"for prediction in classifier([{EXAMPLES[bool(data.pair)]}]):\n"
        f"    print({said})"
    )
