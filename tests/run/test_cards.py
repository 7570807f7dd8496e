"""What report, page and card say where something is missing: a variant, labels, thresholds."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bantam.report.model_card import render as card_of
from bantam.report.page import render
from bantam.report.table import show
from tests.run.made_up import make_run, regression, unlabelled
from tests.run.test_record import reported

pytestmark = pytest.mark.usefixtures("few_resamples")


def test_a_variant_that_could_not_be_made_is_a_row_with_the_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.failed = {"onnx-int4": "the operator <Foo> is not known"}
    report = reported(run)
    assert [(failed.name, failed.reason) for failed in report.failed] == [*run.failed.items()]
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Failed onnx-int4: the operator <Foo> is not known" in text
    assert "failed: the operator &lt;Foo&gt; is not known" in render(report)
    assert "| onnx-int4 | failed: the operator &lt;Foo> is not known |" in card_of(report)


def test_the_card_says_agreement_and_that_nothing_says_what_is_right(tmp_path: Path) -> None:
    report = reported(unlabelled(tmp_path, dev=(0.1, 0.1)))
    card = card_of(report)
    assert "Nothing here says whether it is right." in card
    assert "agree with the baseline in 1.000 of them" in card
    assert "thresholds not tuned, as there are no labels: 0.5 for all labels" in card
    assert "model-index" not in card, "no figure of it is one of the data"
    assert "macro-F1 lost" not in card


def test_the_card_of_a_regression_on_pairs(tmp_path: Path) -> None:
    run = regression(tmp_path, noise=0.0)
    run.data = replace(run.data, pair=True)
    card = card_of(reported(run))
    assert "A model that rates texts as ONNX int8" in card
    assert "It gives each pair of texts a number, without labels." in card
    assert "type: spearmanr" in card
    assert "threshold" not in card
    assert "macro-F1" not in card
    assert "F1 of this model" not in card
    assert "print(prediction.scores)" in card
    assert 'classifier([("' in card, "a pair is what it reads"


def test_a_regression_without_labels_says_that_its_numbers_are_the_baseline_s(tmp_path: Path) -> None:
    report = reported(regression(tmp_path, noise=0.0, labelled=False))
    card = card_of(report)
    assert "quality is agreement with the numbers of the uncompressed model" in card
    assert "with the baseline's." in card
    assert "model-index" not in card, "no figure of it is one of the data"
    assert "are against the numbers of the baseline" in render(report)
