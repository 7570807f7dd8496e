"""The schema of report.json, its file and the terminal table."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bantam.errors import ArtifactError, DiskFullError, UserError
from bantam.report import quality, schema
from bantam.report.file import read_report, to_json, write_report
from bantam.report.provenance import Record
from bantam.report.schema import Report, percentile_fields, speedup
from tests.plugins.reports import EXAMPLE, changed


@pytest.fixture
def report() -> Report:
    return read_report(EXAMPLE)


@pytest.fixture
def raw() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return found


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
    with pytest.raises(DiskFullError, match="No space left"):
        write_report(changed(report, model="another"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
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


# --- Its documentation ------------------------------------------------------------------------------------------------
def test_every_field_is_documented() -> None:
    page = (EXAMPLE.parents[2] / "docs" / "report-schema.md").read_text(encoding="utf-8")
    named = {word for code in re.findall(r"`([^`\n]+)`", page) for word in re.findall(r"\w+", code)}
    models = [
        model
        for model in [*vars(schema).values(), *vars(quality).values()]
        if isinstance(model, type) and issubclass(model, Record)
    ]
    fields = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert len(fields) > 50
    assert fields - named == set(), "docs/report-schema.md does not speak of these"
