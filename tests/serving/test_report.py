"""The schema of report.json, its file and the terminal table."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from optimizer.errors import ArtifactError, DiskFullError, UserError
from serving import report as schema
from serving.report import Budget, InProcess, Report, percentile_fields, speedup
from serving.report_file import read_report, to_json, write_report
from serving.report_table import MOST_ROWS, show
from serving.report_text import COLUMNS, DASH, client_code, headline, milliseconds, points, serve_command, times

EXAMPLE = Path(__file__).parents[1] / "fixtures" / "example-report.json"
"""Made-up figures."""


@pytest.fixture
def report() -> Report:
    return read_report(EXAMPLE)


@pytest.fixture
def raw() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return found


def changed(report: Report, **changes: Any) -> Report:
    """A validated copy with other top-level fields."""
    return Report.model_validate({**report.model_dump(), **changes})


def printed(report: Report, width: int, *, whole: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(report, console, html=Path("build/report.html"), whole=whole)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- The schema -------------------------------------------------------------------------------------------------------
def test_round_trip_keeps_everything(report: Report, raw: dict[str, Any]) -> None:
    assert json.loads(to_json(report)) == raw
    assert Report.model_validate_json(to_json(report)) == report


def test_the_fields_that_benchmarks_read_are_where_the_design_puts_them(raw: dict[str, Any]) -> None:
    assert raw["schema"] == 1
    assert {"model", "data", "recipe", "profile", "machine", "versions", "variants", "chosen"} <= raw.keys()
    assert {"speedup", "size_ratio", "budget"} <= raw.keys()
    variant = next(v for v in raw["variants"] if v["name"] == raw["chosen"])
    assert {
        "name",
        "stages",
        "format",
        "precision",
        "size_mb",
        "parameters",
        "peak_rss_mb",
        "train_s",
    } <= variant.keys()
    assert {
        "split",
        "rows",
        "macro_f1",
        "micro_f1",
        "accuracy",
        "top1",
        "drop_points",
        "drop_ci95",
        "slices",
    } <= variant["quality"].keys()
    assert {"p50_ms", "p95_ms", "p99_ms", "texts_per_s"} <= variant["in_process"].keys()
    assert {
        "protocol",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "max_rps_within_slo",
        "slo_ms",
        "errors",
        "accuracy",
        "macro_f1",
    } <= variant["served"].keys()


def test_what_was_not_measured_is_absent(report: Report) -> None:
    written = json.loads(to_json(report))
    assert "gpu" not in written["machine"]
    assert "served" not in written["variants"][0]
    assert "drop_points" not in written["variants"][0]["quality"]
    assert written["variants"][2]["served"]["errors"] == 0, "measured to be zero is not the same as absent"
    assert "null" not in to_json(report)


@pytest.mark.parametrize(
    ("where", "value"),
    [("p50_ms", 0.0), ("p50_ms", float("nan")), ("p50_ms", float("inf")), ("texts_per_s", 0.0), ("p51_ms", 1.0)],
)
def test_zero_nan_and_unknown_fields_are_refused(raw: dict[str, Any], where: str, value: float) -> None:
    raw["variants"][0]["in_process"][where] = value
    with pytest.raises(ValidationError, match=where):
        Report.model_validate(raw)


def test_percentiles_that_fall_are_refused(raw: dict[str, Any]) -> None:
    raw["variants"][0]["in_process"]["percentiles_ms"].reverse()
    with pytest.raises(ValidationError, match="must not fall"):
        Report.model_validate(raw)


def test_variants_need_a_baseline_the_chosen_one_and_names_of_their_own(report: Report) -> None:
    with pytest.raises(ValidationError, match="no variant is named 'gone'"):
        changed(report, chosen="gone")
    with pytest.raises(ValidationError, match="no variant is named 'baseline'"):
        changed(report, variants=report.variants[1:])
    with pytest.raises(ValidationError, match="same name"):
        changed(report, variants=(*report.variants, report.variants[0]))


def test_the_baseline_comes_first(report: Report) -> None:
    turned = changed(report, variants=report.variants[::-1])
    assert turned.ordered[0].name == "baseline"
    assert {variant.name for variant in turned.ordered} == {variant.name for variant in report.variants}


def test_percentile_fields_are_numpys_percentiles() -> None:
    latencies = np.random.default_rng(0).lognormal(size=997)
    found = percentile_fields(latencies.tolist())
    assert found["p99_ms"] == pytest.approx(np.percentile(latencies, 99), abs=1e-4)
    assert found["p50_ms"] == found["percentiles_ms"][50]
    assert found["percentiles_ms"][0] == pytest.approx(latencies.min(), abs=1e-4)
    assert len(found["percentiles_ms"]) == 101
    assert found["samples"] == 997
    with pytest.raises(ValueError, match="at least one"):
        percentile_fields([])


def test_speedup_is_a_ratio_of_medians(report: Report) -> None:
    ratio = speedup(report.variant("baseline"), report.variant("onnx-int8"))
    assert ratio == pytest.approx(report.speedup, abs=1e-3)
    untimed = report.variant("onnx-int8").model_copy(update={"in_process": None})
    assert speedup(report.variant("baseline"), untimed) is None


# --- Its file ---------------------------------------------------------------------------------------------------------
def test_write_and_read(report: Report, tmp_path: Path) -> None:
    json_path, html_path = write_report(report, tmp_path / "run")
    assert read_report(json_path) == report
    assert read_report(tmp_path / "run") == report
    assert html_path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]
    assert max(map(len, json_path.read_text(encoding="utf-8").splitlines())) > 300, "lists of numbers are on one line"


def test_a_failed_write_leaves_the_old_report(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(report, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskFullError, match="no space left"):
        write_report(changed(report, model="another"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written there"):
        write_report(report, tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged, expected JSON"),
        ("", "damaged, expected JSON"),
        ("[]", "schema a list, expected 1"),
        ("{}", "schema none, expected 1"),
        ('{"schema": 2}', "schema 2, expected 1"),
        ('{"schema": 1}', r"model: Field required \(9 in all\)"),
        ('{"schema": 1, "speedup": NaN}', "not a report of schema 1"),
    ],
)
def test_a_file_that_is_no_report(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=message) as caught:
        read_report(path)
    assert "make optimize" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="damaged"):
        read_report(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no report there, expected one\. `make optimize` writes it"):
        read_report(tmp_path)


# --- In words ---------------------------------------------------------------------------------------------------------
def test_headline(report: Report) -> None:
    assert headline(report) == (
        "onnx-int8 was chosen: the fastest variant within the budget.",
        "5.4× faster (p50 1.79 ms, was 9.71 ms) and 3.9× smaller (23.4 MB, was 91.6 MB) than the baseline.",  # noqa: RUF001
        "Macro-F1 0.590, 0.41 points below the baseline (drop with 95% interval 0.08 to 0.75); "
        "the budget of 1 point is kept.",
    )


def test_headline_says_when_it_went_badly(report: Report) -> None:
    slower = headline(changed(report, speedup=0.5, size_ratio=0.8, budget=Budget(max_drop_points=0.3, met=False)))
    assert "2.0× slower" in slower[1]  # noqa: RUF001
    assert "larger" in slower[1]
    assert "the budget of 0.3 points is NOT kept" in slower[2]
    kept = headline(
        changed(report, chosen="baseline", speedup=None, size_ratio=None, chosen_reason="no variant is faster.")
    )
    assert kept[0] == "The baseline stays: no variant is faster."
    assert kept[1] == "Nothing was gained in speed or size."


def test_headline_of_random_weights_does_not_speak_of_quality(report: Report) -> None:
    line = headline(changed(report, random_weights=True, budget=Budget(max_drop_points=1.0)))[2]
    assert line == "Random weights: quality means nothing here, the budget of 1 point was not judged."


def test_figures_are_short_and_without_a_negative_zero() -> None:
    assert [milliseconds(v) for v in (0.4849, 9.994, 9.996, 99.94, 99.96, 1234.5)] == [
        "0.48",
        "9.99",
        "10.0",
        "99.9",
        "100",
        "1,234",
    ]
    assert [points(v) for v in (-0.001, 0.0, -0.13, 1.005)] == ["0.00", "0.00", "-0.13", "1.00"]
    assert [times(v)[:-1] for v in (0.931, 0.999, 5.42, 120.4)] == ["0.93", "1.0", "5.4", "120"]


def test_next_steps_name_what_was_published(report: Report) -> None:
    assert serve_command(report) == "make serve NAME=minilm"
    unpublished = changed(report, published=None, model="it's; rm -rf")
    assert serve_command(unpublished) == """make serve NAME='it'"'"'s; rm -rf'"""
    compile(client_code(unpublished), "client", "exec")
    assert len(client_code(report).splitlines()) <= 10


# --- The terminal -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [200, 120, 80])
def test_every_figure_is_in_the_terminal_and_no_line_is_too_long(report: Report, width: int) -> None:
    text = printed(report, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text, "nothing is cut off"
    words = text.split()
    for variant in report.variants:
        assert variant.name in words
        for column in COLUMNS:
            assert set(column.text(report, variant).split()) <= set(words)
    assert DASH in words


def test_one_table_on_120_columns_two_on_80(report: Report) -> None:
    rows = [line for line in printed(report, 120).splitlines() if line.split()[:2] == ["»", "onnx-int8"]]
    assert rows[0].split()[2:] == "0.590 0.41 0.08 to 0.75 1.79 2.98 4.32 2.31 3.70 5.78 5.4× 23.4 188".split()  # noqa: RUF001, SIM905
    assert len(rows) == 1
    assert len([line for line in printed(report, 80).splitlines() if line.split()[:2] == ["»", "onnx-int8"]]) == 2


def test_the_terminal_says_what_was_dropped_and_what_to_do_next(report: Report) -> None:
    text = printed(report, 120)
    assert text.startswith("onnx-int8 was chosen")
    assert "Dropped openvino-int8: it loses 1.18 points" in text
    assert text.index("make serve NAME=minilm") < text.index("from serving import Classifier")
    assert "open build/report.html" in text


def test_a_study_shows_its_fastest_and_says_where_the_rest_is(report: Report) -> None:
    first = report.variant("onnx-fp32")
    slow = {"served": None, "in_process": InProcess(p50_ms=50.0, p95_ms=60.0, p99_ms=70.0)}
    extra = [first.model_copy(update={"name": f"slower-{n}", **slow}) for n in range(20)]
    many = changed(report, variants=[v.model_dump() for v in (*extra, *report.variants)])
    text = printed(many, 160)
    names = {variant.name for variant in many.variants}
    rows = [word for line in text.splitlines() for word in line[2:].split()[:1] if word in names and line[0] in "» "]
    assert len(rows) == len(set(rows)) == MOST_ROWS
    assert {variant.name for variant in report.variants} <= set(rows)
    assert f"12 of {len(many.variants)} variants" in text
    assert "bantam report build --all" in text
    whole = printed(many, 160, whole=True)
    assert all(variant.name in whole.split() for variant in many.variants)
    assert "--all" not in whole
    assert "--all" not in printed(report, 160)


def test_texts_are_not_read_as_markup(report: Report) -> None:
    text = printed(changed(report, notes=("[red]mind[/red] the [gap]",), random_weights=True), 120)
    assert "[red]mind[/red] the [gap]" in text
    assert text.startswith("RANDOM WEIGHTS")


# --- Its documentation ------------------------------------------------------------------------------------------------
def test_every_field_is_documented() -> None:
    page = (EXAMPLE.parents[2] / "docs" / "report-schema.md").read_text(encoding="utf-8")
    named = {word for code in re.findall(r"`([^`\n]+)`", page) for word in re.findall(r"\w+", code)}
    models = [model for model in vars(schema).values() if isinstance(model, type) and issubclass(model, schema.Record)]
    fields = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert len(fields) > 50
    assert fields - named == set(), "docs/report-schema.md does not speak of these"
