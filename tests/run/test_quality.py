"""What is said of quality where there are no labels, and where there are numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bantam.errors import RecipeError
from bantam.machine import cpu_kind
from bantam.report.page import render
from bantam.report.text import columns
from bantam.run import judge
from bantam.run.evidence import evidence
from bantam.run.measures import check_metric
from bantam.run.optimize import _contradicted
from bantam.run.quality import of_order
from optimizer.metric import Metric, parse
from tests.run.made_up import LABELS, ROWS, make_run, regression, unlabelled, with_data
from tests.run.test_record import reported

pytestmark = pytest.mark.usefixtures("few_resamples")


def test_without_labels_the_baseline_s_decisions_are_what_is_right(tmp_path: Path) -> None:
    run = unlabelled(tmp_path, dev=(0.1, 0.13))
    assert run.budget.metric == "agreement"
    assert run.budget.points == 4, "of several labels all have to be decided alike"
    asked = replace(run, recipe=run.recipe.model_copy(update={"max_disagreement_points": 2.5}))
    assert asked.budget.points == 2.5
    base, other = (run.scored[name].dev >= 0.5 for name in ("baseline", "int8"))
    assert (judge.actual(run, "dev") == base).all()
    drop = judge.drop(run, "int8", "dev")
    assert drop is not None
    assert drop.points == pytest.approx(100 * (base != other).any(axis=1).mean(), abs=1e-3)
    assert drop.low < drop.points < drop.high


def test_without_labels_the_report_speaks_of_agreement(tmp_path: Path) -> None:
    report = reported(unlabelled(tmp_path, dev=(0.1, 0.1)))
    assert (report.judged_by, report.budget.metric) == ("baseline", "agreement")
    chosen, quality = report.variant("int8"), report.variant("int8").on_dev
    assert report.chosen == "int8"
    assert quality is not None
    assert (quality.agreement, quality.total_variation, quality.macro_f1) == (1.0, 0.0, 1.0)
    assert quality.macro_f1_ci95 == (1.0, 1.0)
    assert report.thresholds is not None
    assert report.thresholds.source == "default"
    assert chosen.served is not None
    assert chosen.served.agreement == 1.0
    assert any("nothing here can say" in note for note in report.notes)
    assert [c.title for c in columns(report)][:3] == ["Agreement", "Macro-F1", "Distance"]
    page = render(report)
    assert "The data have no labels." in page
    assert "points of macro-F1" not in page


def test_macro_f1_against_the_baseline_has_an_interval(tmp_path: Path) -> None:
    quality = reported(unlabelled(tmp_path, dev=(0.1, 0.13))).variant("int8").on_dev
    assert quality is not None
    assert quality.macro_f1 is not None
    assert quality.macro_f1_ci95 is not None
    low, high = quality.macro_f1_ci95
    assert low < quality.macro_f1 < high
    assert quality.agreement == quality.metric_value == quality.accuracy


def test_texts_of_which_the_baseline_says_no_label_are_slices_of_agreement_too(tmp_path: Path) -> None:
    run = unlabelled(tmp_path)
    groups = ("fi",) * 100 + ("en",) * (ROWS - 100)
    run.request = replace(run.request, slice_column="language")
    run.recipe = run.recipe.model_copy(update={"max_slice_drop_points": 2.0})
    run.data = replace(run.data, splits={**run.data.splits, "dev": replace(run.data.splits["dev"], groups=groups)})
    silent = run.scored["baseline"].dev.copy()
    silent[:100] = 0.1
    run.scored["baseline"] = replace(run.scored["baseline"], dev=silent)
    run.scored["int8"] = replace(run.scored["int8"], dev=np.vstack([silent[:100] + np.float32(0.8), silent[100:]]))
    assert judge.slice_drops(run, "int8", "dev")["language: fi"].points == pytest.approx(100)


def test_what_is_published_is_remeasured_against_what_its_metric_wants(tmp_path: Path) -> None:
    """Agreement is with the baseline's decisions, though the data have labels."""
    run = make_run(tmp_path, test=(0.1, 0.13), metric="agreement")
    found = json.loads(evidence(run, "int8"))
    rows = np.sort(np.random.default_rng(0).permutation(ROWS)[: len(found["texts"])])
    assert found["metric"] == "agreement"
    assert (found["cpu"], found["device"]) == (cpu_kind("onnx"), "cpu")
    assert (np.array(found["actual"]) == judge.decided(run, "baseline", "test")[rows]).all()
    assert (judge.wanted(run, "test", Metric("macro-f1")) == judge.actual(run, "test")).all()
    assert (np.array(found["actual"]) != judge.actual(run, "test")[rows]).any()


def test_a_regression_is_judged_by_its_ranks(tmp_path: Path) -> None:
    run = regression(tmp_path, noise=0.0)
    report = reported(run)
    assert (report.budget.metric, report.chosen, report.budget.met) == ("spearman", "int8", True)
    quality = report.variant("int8").on_dev
    assert quality is not None
    assert quality.spearman == quality.metric_value
    assert quality.spearman == pytest.approx(0.96, abs=0.02)
    assert quality.mean_absolute_error == pytest.approx(0.24, abs=0.05)
    assert (quality.macro_f1, quality.per_label, report.thresholds) == (None, None, None)
    assert sum(part.rows for part in (quality.slices or {}).values()) == ROWS
    assert [c.title for c in columns(report)][:3] == ["Spearman", "Pearson", "Mean error"]
    assert "correlation against in-process latency" in render(report)


def test_the_gate_holds_for_a_regression(tmp_path: Path) -> None:
    report = reported(regression(tmp_path, noise=0.6))
    assert report.chosen == "fp32"
    assert report.budget.nearest == "int8"
    assert "points of spearman" in (report.chosen_reason or "") or "of spearman" in (report.chosen_reason or "")


def test_a_regression_without_labels_is_compared_with_the_baseline_s_numbers(tmp_path: Path) -> None:
    run = regression(tmp_path, noise=0.2, labelled=False)
    found = reported(run).variant("int8").on_dev
    assert found is not None
    assert found.spearman == pytest.approx(0.985, abs=0.01)
    base = reported(run).variant("baseline").on_dev
    assert base is not None
    assert base.spearman == pytest.approx(1.0)


def test_numbers_that_are_large_may_differ_by_more_than_probabilities(tmp_path: Path) -> None:
    run = regression(tmp_path, noise=0.0)
    for name, scored in run.scored.items():
        run.scored[name] = replace(scored, dev=scored.dev * 1e4)
    run.answers = {key: said * np.float32(1e4) * np.float32(1 + 1e-5) for key, said in run.answers.items()}
    assert run.difference("int8", "dev") == pytest.approx(1e-5, rel=0.1)
    assert judge.problem(run, "int8") is None


def test_a_metric_that_judges_something_else_is_refused_with_those_that_fit(tmp_path: Path) -> None:
    numbers, labels = regression(tmp_path, 0.1).data, make_run(tmp_path).data
    with pytest.raises(RecipeError, match=r"Got metric 'macro-f1', but made-up is of numbers.*spearman, pearson\."):
        check_metric(parse("macro-f1"), numbers)
    with pytest.raises(RecipeError, match=r"Got metric 'spearman', but made-up is of labels.*macro-f1, micro-f1"):
        check_metric(parse("spearman"), labels)
    check_metric(parse("pearson"), numbers)
    check_metric(parse("agreement"), labels)
    check_metric(None, numbers)


def test_a_label_without_rows_in_dev_is_no_metric(tmp_path: Path) -> None:
    data = make_run(tmp_path).data.read_by("multi_label", ("d", *LABELS))
    with pytest.raises(RecipeError, match=r"no row of dev has the label 'd'"):
        check_metric(parse("f1:d"), data)


def test_labels_that_no_row_has_are_absent_and_named(tmp_path: Path) -> None:
    before = reported(make_run(tmp_path, rows=ROWS)).variant("int8").on_dev
    run = make_run(tmp_path, rows=ROWS)
    run.data = run.data.read_by("multi_label", (*LABELS, "d"))
    for name, scored in run.scored.items():
        dev, test = (np.pad(scored.on(split), ((0, 0), (0, 1))) for split in ("dev", "test"))
        run.scored[name] = replace(scored, dev=dev, test=test, thresholds=(*(scored.thresholds or ()), 1.0))
        if name != "baseline":
            run.answers[name, "dev"] = dev
    report = reported(run)
    after = report.variant("int8").on_dev
    assert before is not None
    assert after is not None
    assert after.macro_f1 == before.macro_f1
    assert after.per_label is not None
    assert [(entry.support, entry.f1) for entry in after.per_label][-1] == (0, None)
    assert [note for note in report.notes if "No row of" in note] == [
        f"No row of {split} has the label 'd': macro-F1 is the mean over the others." for split in ("dev", "test")
    ]
    assert render(report)


def test_labels_of_an_adopted_head_that_fit_in_another_order_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, rows=ROWS)
    numbers = np.arange(ROWS) % 3
    split = replace(run.data.splits["dev"], targets=numbers)
    with_data(run, task="single_label", splits={**run.data.splits, "dev": split})
    said = np.eye(3, dtype=np.float32)[[1, 0, 2]][numbers]  # a for b, and b for a
    run.scored["baseline"] = replace(run.scored["baseline"], thresholds=None, dev=said)
    assert of_order(run) == [], "it was trained on these labels"
    run.recipe = run.recipe.adopting(["baseline"])
    (note,) = of_order(run)
    assert "33% of rows of dev are right, and 100% would be with 'b' where it says 'a', 'a' where it says 'b'." in note
    run.decisions.clear()
    run.scored["baseline"] = replace(run.scored["baseline"], dev=np.eye(3, dtype=np.float32)[numbers])
    assert of_order(run) == []


def test_numbers_that_move_and_keep_their_order_are_not_within_the_budget(tmp_path: Path) -> None:
    run = regression(tmp_path, noise=0.0)
    scored = run.scored["int8"]
    run.scored["int8"] = replace(scored, dev=np.exp(scored.dev), test=np.exp(scored.on("test")))
    run.answers["int8", "dev"] = np.exp(scored.dev)
    report = reported(run)
    assert report.chosen == "fp32"
    (dropped,) = (each for each in report.dropped if each.name == "int8")
    assert "points of Pearson's correlation" in dropped.reason
    assert "METRIC=spearman judges the order alone" in dropped.reason
    run.recipe = run.recipe.model_copy(update={"metric": Metric("spearman")})
    assert reported(run).chosen == "int8"


def test_numbers_that_move_on_test_alone_contradict_dev(tmp_path: Path) -> None:
    run = regression(tmp_path, noise=0.0)
    assert _contradicted(run, "int8") is None
    scored = run.scored["int8"]
    run.scored["int8"] = replace(scored, test=np.exp(scored.on("test")))
    run.drops.clear()
    found = _contradicted(run, "int8")
    assert found is not None
    assert found[0] == " of Pearson's correlation"
    assert found[1].low > run.budget.points
