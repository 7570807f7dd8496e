"""The schema of report.json, its file and the terminal table."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bantam.report.file import read_report
from bantam.report.schema import Budget, InProcess, Report
from bantam.report.table import MOST_ROWS, show
from bantam.report.text import DASH, client_code, columns, headline, milliseconds, points, serve_command, times
from tests.plugins.reports import EXAMPLE, changed, licensed


@pytest.fixture
def report() -> Report:
    return read_report(EXAMPLE)


def printed(report: Report, width: int, *, whole: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(report, console, html=Path("build/report.html"), whole=whole)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


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
    unmet = Budget(max_drop_points=0.3, met=False, unmet="it ships 3.00 MB, the budget is 2 MB")
    assert headline(changed(report, budget=unmet))[2].endswith("; it ships 3.00 MB, the budget is 2 MB.")
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
        for column in columns(report):
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
    assert text.index("make serve NAME=minilm") < text.index("from bantam import Classifier")
    assert "open build/report.html" in text


def test_the_terminal_names_licences_and_weights_that_were_quantized_once(report: Report) -> None:
    assert "quantized once" not in printed(report, 200)
    lines = printed(licensed(report), 200).splitlines()
    assert [line.rstrip() for line in lines if line.startswith("Licence of")] == [
        "Licence of minilm: Apache-2.0",
        "Licence of gemma3-270m: Gemma Terms of Use (https://example.org/terms); counts for what is distilled from its "
        "outputs",
    ]
    assert any(line.startswith("The baseline is from Q4_K_M: its weights were quantized once.") for line in lines)


def test_teachers_that_were_quantized_once_are_named_apart_from_the_baseline(report: Report) -> None:
    source = {**(report.model_source.model_dump() if report.model_source else {}), "teachers_quantization": "Q8_0"}
    text = printed(changed(report, model_source=source), 200)
    assert "Weights of teachers are from Q8_0: they were quantized once." in text
    assert "The baseline is from" not in text


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


def test_test_and_dev_stand_beside_each_other_in_the_headline(report: Report) -> None:
    chosen = report.variant(report.chosen)
    assert chosen.quality is not None
    dev = chosen.quality.model_copy(update={"split": "dev", "drop_ci95": (0.1, 0.7)})
    both = tuple(
        variant.model_copy(update={"quality_dev": dev}) if variant is chosen else variant for variant in report.variants
    )
    line = headline(changed(report, variants=both))[-1]
    assert "on test" in line
    assert "on dev 0.10 to 0.70: the budget" in line


def test_another_metric_is_named(report: Report) -> None:
    chosen = report.variant(report.chosen)
    assert chosen.quality is not None
    measured = chosen.model_copy(update={"quality": chosen.quality.model_copy(update={"metric_value": 0.875})})
    variants = tuple(measured if variant is chosen else variant for variant in report.variants)
    budget = report.budget.model_copy(update={"metric": "average-precision"})
    assert headline(changed(report, variants=variants, budget=budget))[-1].startswith("average-precision 0.875, ")
