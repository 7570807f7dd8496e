"""The plots of report.html: the same each time, in the page's colours, variants told apart."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from bantam.report import plots
from bantam.report.file import read_report
from bantam.report.ranking import on_front
from bantam.report.schema import Report
from tests.plugins.reports import EXAMPLE, study


@pytest.fixture(scope="module")
def report() -> Report:
    return read_report(EXAMPLE)


def test_plots_are_the_same_each_time_and_follow_the_theme(report: Report) -> None:
    for draw in (plots.tradeoff, plots.distribution):
        svg = draw(report)
        assert svg is not None
        assert svg == draw(report)
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg), "a colour is not a variable of the page"
        assert "DejaVu" not in svg, "the text is in the page's font"
        for variant in report.variants:
            assert variant.name in svg


def test_plots_leave_matplotlibs_settings_alone(report: Report) -> None:
    import matplotlib as mpl

    names = sorted(set(mpl.rcParams) - {"backend"})  # reading that one makes Matplotlib choose one
    before = [mpl.rcParams[name] for name in names]
    plots.tradeoff(report)
    assert [mpl.rcParams[name] for name in names] == before
    script = "import sys; from pathlib import Path\n"
    script += "from bantam.report.file import read_report; from bantam.report.page import render\n"
    script += "render(read_report(Path(sys.argv[1]))); print('matplotlib.pyplot' in sys.modules)"
    command = [sys.executable, "-c", script, str(EXAMPLE)]
    assert (
        subprocess.run(command, cwd=EXAMPLE.parents[2], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_variants_are_told_apart(report: Report) -> None:
    drawn = plots.series(study(report))
    looks = [(item.color, item.marker, item.dashes) for item in drawn]
    assert len(set(looks)) == len(looks) == plots.MOST_SERIES
    assert sum(item.chosen for item in drawn) == 1
    assert drawn[0].variant.name == "baseline"


def test_a_study_is_drawn_by_model_and_format(report: Report) -> None:
    many = study(report)
    looks = {item.variant.name: (item.color, item.marker) for item in plots.groups(many)}
    assert len(looks) == len(many.variants), "none is left out"
    color, marker = looks["model-1-onnx-int8"]
    assert looks["model-1-onnx-fp32"][0] == color
    assert looks["model-2-onnx-int8"] == (looks["model-2-onnx-fp32"][0], marker)
    assert looks["model-2-onnx-int8"][0] != color
    svg = plots.tradeoff(many)
    assert svg is not None
    texts = re.findall(r"<text[^>]*>([^<]+)", svg)
    assert {"model-1", "model-2", "ONNX int8", "ONNX fp32", "Pareto front", many.chosen} <= set(texts)
    assert "model-1-onnx-fp32" not in texts, "a study's legend does not list every variant"
    (description,) = re.findall(r"<desc[^>]*>([^<]+)", svg)
    for variant in many.variants:
        assert variant.in_process is not None
        assert f"{variant.name}: {variant.in_process.p50_ms:g} ms" in description
    front = set(re.findall(r"([\w-]+): [^;]+, on the Pareto front", description))
    assert front == on_front(many.variants)
