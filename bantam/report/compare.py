"""Two runs side by side: what differs between them, and which of their figures can be compared at all.

Figures that cannot be compared, such as times of two machines, are shown without a ratio, and the reason is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from bantam.report.schema import BASELINE, Report, Variant
from bantam.report.text import FIGURES, Column, Values, columns, metric, milliseconds, served_name, share, times

Figures = Literal["quality", "times", "memory", "sizes"]
GROUPS: Mapping[str, Figures] = {"Quality": "quality", "In process, ms": "times", "Served, ms": "times"}
TITLES: Mapping[str, Figures] = {"Speed": "times", "Size, MB": "sizes", "Memory, MB": "memory"}
"""Which kind of figure a column of the table of variants holds: by its group, or by its title."""
MACHINE = ("cpu", "cores", "gpu", "isa", "os")
"""What changes times and memory; the size of the main memory does not."""


@dataclass(frozen=True)
class Doubt:
    """Why figures of a kind cannot be compared."""

    figures: Figures
    reason: str


@dataclass(frozen=True)
class Line:
    """One figure of two variants."""

    column: Column
    a: Values | None
    b: Values | None
    comparable: bool

    @property
    def change(self) -> float | None:
        """``b - a`` in points, or ``b / a``; None if either is missing, for an interval, and for times nothing."""
        if not self.comparable or self.a is None or self.b is None or len(self.a) > 1:
            return None
        if self.column.points is None:
            return self.b[0] / self.a[0] if self.a[0] else None
        return self.column.points * (self.b[0] - self.a[0])

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the exact figures; an interval is a list."""
        a, b = (found if found is None or len(found) > 1 else found[0] for found in (self.a, self.b))
        unit = "ratio" if self.column.points is None else "points"
        name = {"group": self.column.group, "figure": self.column.title}
        return {**name, "a": a, "b": b, "change": self.change, "change_is": unit, "comparable": self.comparable}


@dataclass(frozen=True)
class Difference:
    """A setting, or a part of the data, the machine or the versions, that is not the same."""

    group: str
    what: str
    a: Any
    b: Any
    """Absent on one side: None."""


@dataclass(frozen=True)
class RunComparison:
    """What :func:`compare` finds."""

    a: Report
    b: Report
    doubts: tuple[Doubt, ...]
    chosen: tuple[Line, ...]
    """The chosen variant of A and that of B, whatever their names."""
    variants: Mapping[str, tuple[Line, ...]]
    """The variants that have the same name in both."""
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "a": _summary(self.a),
            "b": _summary(self.b),
            "not_comparable": [vars(doubt) for doubt in self.doubts],
            "notes": list(self.notes),
            "chosen": [line.as_dict() for line in self.chosen],
            "variants": {name: [line.as_dict() for line in lines] for name, lines in self.variants.items()},
            "differences": [vars(difference) for difference in self.differences],
        }


def compare(a: Report, b: Report) -> RunComparison:
    """Set two reports side by side."""
    doubts = tuple(_doubts(a, b))
    doubtful = {doubt.figures for doubt in doubts}
    others = {variant.name: variant for variant in b.variants}

    def lines(first: Variant, second: Variant) -> tuple[Line, ...]:
        return tuple(
            Line(column, column.values(a, first), column.values(b, second), figures_of(column) not in doubtful)
            for column in dict.fromkeys((*columns(a), *columns(b)))
        )

    return RunComparison(
        a=a,
        b=b,
        doubts=doubts,
        chosen=lines(a.variant(a.chosen), b.variant(b.chosen)),
        variants={v.name: lines(v, others[v.name]) for v in a.ordered if v.name in others},
        differences=tuple(_differences(a, b)),
        notes=tuple(_notes(a, b, doubtful)),
    )


def figures_of(column: Column) -> Figures:
    """The kind of a column's figures."""
    return TITLES.get(column.title) or GROUPS[column.group]


def _doubts(a: Report, b: Report) -> Iterator[Doubt]:
    """Every reason why a kind of figure means something else in A than in B."""
    data = _other_data(a, b)
    if data:
        yield Doubt("quality", data)
    elif _at(a, "on_dev", "split", "rows") != _at(b, "on_dev", "split", "rows"):
        yield Doubt("quality", "it was measured on other rows")
    if metric(a) != metric(b):
        yield Doubt("quality", f"drops are points of {metric(a)} and of {metric(b)}")
    if a.random_weights or b.random_weights:
        yield Doubt("quality", "random weights have none")
    machine = [name for name in MACHINE if getattr(a.machine, name) != getattr(b.machine, name)]
    if machine:
        for figures in ("times", "memory"):
            yield Doubt(figures, f"other machines: {', '.join(machine)}")
    if data:
        yield Doubt("times", f"other texts: {data}")
    for name, report in (("A", a), ("B", b)):
        noise = report.conditions.noise if report.conditions else None
        if noise and {BASELINE, report.chosen} & {*noise.doubtful}:
            yield Doubt("times", f"the machine was busy with something else while {name} was measured")
    before, after = a.conditions, b.conditions
    if before is None or after is None:
        yield Doubt("times", "how they were measured is not in both reports")
        return
    for name, what in (("texts", "other texts: another number of them"), ("threads", "other numbers of threads")):
        if not (data and name == "texts") and getattr(before, name) != getattr(after, name):
            yield Doubt("times", f"{what} ({getattr(before, name)} and {getattr(after, name)})")


def _other_data(a: Report, b: Report) -> str | None:
    """Why the data are not known to be the same; None if they are."""
    digests = [report.data_source and report.data_source.digest for report in (a, b)]
    if None in digests:
        return "the data's digest is not in both reports"
    return None if digests[0] == digests[1] else "other data"


def _notes(a: Report, b: Report, doubtful: set[Figures]) -> Iterator[str]:
    """What a reader has to know of figures that can be compared."""
    first, second = a.variant(BASELINE), b.variant(BASELINE)
    if "quality" not in doubtful and first.on_dev and second.on_dev:
        old, new = first.on_dev.figure, second.on_dev.figure
        if old is not None and new is not None and old != new:
            figures = f"{FIGURES[a.judged_by][1]} {share(old)} in A, {share(new)} in B"
            yield f"Each drop is against its own run's baseline: {figures}."
        yield "Each interval is against its own baseline; of a difference between A and B, reports know no interval."
    timed = first.in_process and second.in_process and first.parameters == second.parameters
    if "times" not in doubtful and timed and first.in_process and second.in_process:
        was, now = first.in_process.p50_ms, second.in_process.p50_ms
        moved = times(max(was, now) / min(was, now))
        yield (
            f"The baseline's own p50 moved by {moved} between the runs ({milliseconds(was)} and {milliseconds(now)} "
            "ms): a change of times that is no larger says nothing. Speed, which is against each run's baseline, is "
            "steadier."
        )


def _differences(a: Report, b: Report) -> Iterator[Difference]:
    sections: tuple[tuple[str, Callable[[Report], Any]], ...] = (
        ("Run", _settings),
        ("Model", lambda report: report.model_source),
        ("Data", lambda report: report.data_source),
        ("Measuring", _measuring),
        ("Machine", lambda report: report.machine),
        ("Versions", lambda report: report.versions),
        ("Server versions", lambda report: report.serving_versions),
    )
    for group, section in sections:
        yield from _unequal(group, _flat(section(a)), _flat(section(b)))
    yield from _other_stages(a, b)


def _settings(report: Report) -> dict[str, Any]:
    names = ("model", "data", "recipe", "profile", "chosen", "random_weights")
    return {
        **{name: getattr(report, name) for name in names},
        "budget": report.budget.max_drop_points,
        "metric": metric(report),
    }


def _measuring(report: Report) -> dict[str, Any]:
    protocol = _at(report, "served", "protocol", "slo_ms")
    return {**_flat(report.conditions), **_flat(_at(report, "on_dev", "split", "rows")), **_flat(protocol)}


def _at(report: Report, part: str, *names: str) -> dict[str, Any]:
    """Fields of a part of the chosen variant; empty if it was not measured."""
    found = getattr(report.variant(report.chosen), part)
    return {name: getattr(found, name) for name in names} if found else {}


def _other_stages(a: Report, b: Report) -> Iterator[Difference]:
    """Stages that only one of them has, and the settings of those that both have."""
    first, second = ({step.name: step for v in report.ordered for step in v.stages} for report in (a, b))
    alone = [[name for name in mine if name not in other] for mine, other in ((first, second), (second, first))]
    if any(alone):
        yield Difference("Stages", "only there", *(names or None for names in alone))
    for name in (name for name in first if name in second):
        yield from _unequal(f"Stage {name}", _flat(first[name].config), _flat(second[name].config))


def _unequal(group: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for what in dict.fromkeys((*a, *b)):
        if a.get(what) != b.get(what):
            yield Difference(group, what, a.get(what), b.get(what))


def _flat(value: BaseModel | Mapping[str, Any] | None, prefix: str = "") -> dict[str, Any]:
    """Nested fields as one level, ``rows.train``; what is None is left out."""
    found: dict[str, Any] = {}
    items = value.model_dump(mode="json") if isinstance(value, BaseModel) else dict(value or {})
    for key, part in items.items():
        if isinstance(part, Mapping):
            found |= _flat(part, f"{prefix}{key}.")
        elif part is not None:
            found[f"{prefix}{key}"] = part
    return found


def _summary(report: Report) -> dict[str, Any]:
    names = ("model", "data", "recipe", "profile", "created", "chosen")
    return {**{name: getattr(report, name) for name in names}, "published": served_name(report)}
