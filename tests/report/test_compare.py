"""Two runs side by side: what changed, what differs, and what cannot be compared."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from bantam.report.compare import RunComparison, compare, figures_of
from bantam.report.compare_table import show
from bantam.report.file import read_report
from bantam.report.schema import Report
from bantam.report.text import columns
from tests.plugins.reports import EXAMPLE

"""Made-up figures."""


@pytest.fixture(scope="module")
def report() -> Report:
    return read_report(EXAMPLE)


def changed(report: Report, **changes: Any) -> Report:
    """A validated copy; a dict is merged into the part of that name."""
    dump = report.model_dump()
    for name, value in changes.items():
        dump[name] = {**dump[name], **value} if isinstance(value, dict) else value
    return Report.model_validate(dump)


def printed(found: RunComparison, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(found, console, ("build/one", "build/other"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def doubtful(found: RunComparison) -> dict[str, str]:
    return {doubt.figures: doubt.reason for doubt in found.doubts}


def changes(found: RunComparison) -> dict[str, float | None]:
    return {f"{line.column.group}: {line.column.title}": line.change for line in found.chosen}


def test_a_run_is_equal_to_itself(report: Report) -> None:
    found = compare(report, report)
    assert (found.doubts, found.differences) == ((), ())
    assert {name: change for name, change in changes(found).items() if name.startswith("Quality")} == {
        "Quality: Macro-F1": 0,
        "Quality: Drop, points": 0,
        "Quality: 95% interval": None,
    }
    assert {change for name, change in changes(found).items() if not name.startswith("Quality")} == {1}
    assert "Nothing else differs." in printed(found)


def test_changes_are_computed_from_the_reports(report: Report) -> None:
    other = changed(report, chosen="openvino-int8")
    found = compare(report, other)
    one, two = report.variant(report.chosen), report.variant("openvino-int8")
    assert one.quality
    assert two.quality
    assert one.quality.macro_f1
    assert two.quality.macro_f1
    assert one.quality.drop_points is not None
    assert two.quality.drop_points is not None
    assert one.in_process
    assert two.in_process
    assert one.served
    assert two.served
    assert one.size_mb
    assert two.size_mb
    expected = {
        "Quality: Macro-F1": 100 * (two.quality.macro_f1 - one.quality.macro_f1),
        "Quality: Drop, points": two.quality.drop_points - one.quality.drop_points,
        "In process, ms: p95": two.in_process.p95_ms / one.in_process.p95_ms,
        "Served, ms: p50": two.served.p50_ms / one.served.p50_ms,
        "Gain and cost: Speed": one.in_process.p50_ms / two.in_process.p50_ms,
        "Gain and cost: Size, MB": two.size_mb / one.size_mb,
    }
    assert {name: changes(found)[name] for name in expected} == pytest.approx(expected)
    assert [(d.group, d.what, d.a, d.b) for d in found.differences] == [("Run", "chosen", "onnx-int8", "openvino-int8")]
    assert list(found.variants) == [variant.name for variant in report.ordered]


def test_other_data_compare_neither_quality_nor_times(report: Report) -> None:
    found = compare(report, changed(report, data="reviews.csv", data_source={"digest": "f" * 64}))
    assert doubtful(found) == {"quality": "other data", "times": "other texts: other data"}
    for line in found.chosen:
        if figures_of(line.column) in ("quality", "times"):
            assert line.change is None
        else:
            assert line.change == 1
    text = printed(found)
    assert "The quality of A and B cannot be compared: other data." in text
    assert text.count("not comparable") == 10
    assert "reviews.csv" in text


@pytest.mark.parametrize(
    ("change", "figures", "reason"),
    [
        ({"machine": {"cpu": "Another CPU"}}, {"times", "memory"}, "other machines: cpu"),
        ({"machine": {"isa": ("avx2",)}}, {"times", "memory"}, "other machines: isa"),
        ({"conditions": {"threads": 1}}, {"times"}, "other numbers of threads (2 and 1)"),
        ({"conditions": {"texts": 50}}, {"times"}, "other texts: another number of them (200 and 50)"),
        ({"conditions": None}, {"times"}, "how they were measured is not in both reports"),
        ({"random_weights": True}, {"quality"}, "random weights have none"),
    ],
)
def test_what_makes_figures_incomparable(
    report: Report, change: dict[str, Any], figures: set[str], reason: str
) -> None:
    found = compare(report, changed(report, **change))
    assert doubtful(found) == dict.fromkeys(figures, reason)
    assert f"cannot be compared: {reason}." in printed(found).replace("\n", " ")


def test_data_of_an_unknown_digest_are_not_taken_for_the_same(report: Report) -> None:
    old = changed(report, data_source=None)
    assert doubtful(compare(old, old))["quality"] == "the data's digest is not in both reports"


def test_more_main_memory_and_other_versions_are_only_differences(report: Report) -> None:
    found = compare(report, changed(report, machine={"memory_gib": 99.0}, versions={"onnx": "9.9"}))
    assert found.doubts == ()
    assert [(d.group, d.what, d.b) for d in found.differences] == [
        ("Machine", "memory_gib", 99.0),
        ("Versions", "onnx", "9.9"),
    ]


def test_settings_of_stages_and_stages_of_one_run_are_named(report: Report) -> None:
    dump = report.model_dump(mode="json")
    for variant in dump["variants"]:
        variant["stages"] = [step for step in variant["stages"] if step["name"] != "openvino-int8"]
        for step in variant["stages"]:
            if step["name"] == "baseline":
                step["config"] |= {"epochs": 3.0, "losses": {"soft": 0.5}}
    found = compare(report, Report.model_validate(dump))
    assert {(d.group, d.what): (d.a, d.b) for d in found.differences} == {
        ("Stages", "only there"): (["openvino-int8"], None),
        ("Stage baseline", "epochs"): (1, 3.0),
        ("Stage baseline", "losses.soft"): (None, 0.5),
    }


def test_the_drift_of_the_baseline_is_said(report: Report) -> None:
    dump = report.model_dump(mode="json")
    timed = dump["variants"][0]["in_process"]
    dump["variants"][0]["in_process"] = {name: 2 * timed[name] for name in ("p50_ms", "p95_ms", "p99_ms")}
    found = compare(report, Report.model_validate(dump))
    assert any("moved by 2.0" in note and "(9.71 and 19.4 ms)" in note for note in found.notes)
    other = compare(report, changed(report, machine={"cores": 64}))
    assert not any("moved by" in note for note in other.notes), "of another machine it says nothing"


@pytest.mark.parametrize("width", [120, 80])
def test_no_line_is_too_long_and_every_figure_is_there(report: Report, width: int) -> None:
    found = compare(report, changed(report, chosen="openvino-int8", machine={"cpu": "Another CPU"}))
    text = printed(found, width)
    assert max(map(len, text.splitlines())) <= width
    for name in (report.chosen, "openvino-int8"):
        for column in columns(report):
            assert set(column.text(report, report.variant(name)).split()) <= set(text.split())


def test_json_has_the_exact_figures(report: Report) -> None:
    found = json.loads(json.dumps(compare(report, changed(report, chosen="openvino-int8")).as_dict()))
    quality = report.variant(report.chosen).quality
    assert quality is not None
    lines = {(line["group"], line["figure"]): line for line in found["chosen"]}
    assert lines["Quality", "Macro-F1"]["a"] == quality.macro_f1
    assert lines["Quality", "95% interval"]["a"] == list(quality.drop_ci95 or ())
    assert lines["Gain and cost", "Size, MB"]["comparable"] is True
    assert found["differences"] == [{"group": "Run", "what": "chosen", "a": "onnx-int8", "b": "openvino-int8"}]
    assert found["b"]["chosen"] == "openvino-int8"
    assert found["variants"].keys() == {variant.name for variant in report.variants}


def test_times_of_a_busy_machine_cannot_be_compared(report: Report) -> None:
    assert report.conditions is not None
    noise = {"kernel_ms": 9.0, "spread": 1.4, "waited": 0.4, "doubtful": [report.chosen]}
    busy = changed(report, conditions={**report.conditions.model_dump(), "noise": noise})
    found = compare(report, busy)
    reasons = {doubt.figures: doubt.reason for doubt in found.doubts}
    assert reasons == {"times": "the machine was busy with something else while B was measured"}
