"""What a report has of a run: test for the baseline and the chosen variant, dev for all; notes of what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam.artifact import Artifact, Manifest, Signature
from bantam.report.schema import InProcess, Report, Variant
from bantam.run import judge
from bantam.run.choose import choose
from bantam.run.record import report as report_of
from bantam.run.score import Scored
from bantam.run.sparsity import sparsity_notes
from bantam.run.state import Run
from bantam.run.timing import Phase
from optimizer.config import StageConfig
from optimizer.evaluate import quality
from optimizer.recipe import Recipe
from tests.run.made_up import make_run, timing

pytestmark = pytest.mark.usefixtures("few_resamples")
SIGNATURE = Signature("single_label", ("no", "yes"), ("input_ids",), 64)
SPARSE = {"sparsity": {"pattern": "magnitude", "ratio": 0.25, "modules": []}}


def artifact(name: str, parents: tuple[str, ...], **details: Any) -> Artifact:
    """One that was made from ``parents`` in turn."""
    lineage = tuple({"key": step} for step in (*parents, name))
    manifest = Manifest("prune", name, "onnx", SIGNATURE, lineage=lineage, details=details)
    return Artifact(Path(name), manifest)


def run_of(*artifacts: Artifact) -> Run:
    """As much of a run as the notes look at."""
    by_name = {one.name: one for one in artifacts}
    run = object.__new__(Run)
    parents = {one.name: [step["key"] for step in one.manifest.lineage][-2:-1] for one in artifacts}
    stages = tuple(
        StageConfig(stage="prune", name=name, parent="".join(before) or None) for name, before in parents.items()
    )
    run.recipe = Recipe.model_construct(stages=stages)  # type: ignore[call-arg, arg-type] # no more of it is looked at
    run.artifacts = by_name
    run.scored = {name: Scored(one, np.empty((0, 2), np.float32), None) for name, one in by_name.items()}
    return run


def record(name: str, p50: float, parameters: int = 100) -> Variant:
    """A measured variant."""
    timed = InProcess(p50_ms=p50, p95_ms=p50, p99_ms=p50, texts_per_s=1.0)
    return Variant(
        name=name, stages=(), format="onnx", precision="fp32", size_mb=1.0, parameters=parameters, in_process=timed
    )


RUN = run_of(
    artifact("dense", (), parameters=100),
    artifact("zeros", ("dense",), parameters=100, **SPARSE),
    artifact("exported", ("dense", "zeros")),
)


def test_values_come_from_the_whole_lineage() -> None:
    assert RUN.behind("exported", "details", "parameters") == [100, 100]
    assert RUN.behind("dense", "details", "sparsity") == []


def test_zeros_that_gain_nothing_are_said_to_gain_nothing() -> None:
    (note,) = sparsity_notes(RUN, [record("dense", 2.0), record("exported", 1.98)])
    assert note.startswith("exported: 75% of its blocks' weights are zero; it is NOT faster than dense")
    assert "(1.98 against 2.00 ms)" in note


def test_zeros_that_gain_are_said_to_gain() -> None:
    (note,) = sparsity_notes(RUN, [record("dense", 2.0), record("exported", 1.0)])
    assert "it is faster than dense" in note


def test_without_a_dense_twin_nothing_is_claimed() -> None:
    (note,) = sparsity_notes(RUN, [record("dense", 2.0, parameters=50), record("exported", 1.0)])
    assert note.endswith("no dense twin was measured.")
    assert sparsity_notes(RUN, [record("dense", 2.0)]) == []


def reported(run: Run) -> Report:
    """The report of a made-up run, whose choice is made here."""
    choice = choose(judge.candidates(run), run.measured["baseline"], run.budget, run.safe)
    return report_of(run, choice)


def test_a_run_reports_its_own_names_of_what_it_made(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for variant in reported(run).variants:
        made = run.artifacts[variant.name].manifest
        assert variant.stages[-1].name == variant.name
        assert [step.key for step in variant.stages] == [step["key"] for step in made.lineage]
        parents = [step.config.get("parent") for step in variant.stages[1:]]
        assert parents == [step.name for step in variant.stages[:-1]]


def test_what_another_run_has_made_of_an_equal_model_is_reported_by_this_run_s_names(tmp_path: Path) -> None:
    """Keys follow from what the sources hold: the store may give what was made of another stage's equal model."""
    run = make_run(tmp_path)
    made = run.artifacts["int8"].manifest
    theirs = replace(made, lineage=({"stage": "finetune", "key": "of another run"}, *made.lineage[1:]))
    run.artifacts["int8"] = replace(run.artifacts["int8"], manifest=theirs)
    run.scored["int8"] = replace(run.scored["int8"], artifact=run.artifacts["int8"])
    steps = reported(run).variant("int8").stages
    assert [(step.name, step.key) for step in steps] == [(n, f"key of {n}") for n in ("baseline", "fp32", "int8")]


def test_the_baseline_and_the_chosen_variant_have_test_and_dev_all_others_dev(tmp_path: Path) -> None:
    run = make_run(tmp_path, dev=(0.1, 0.1), test=(0.1, 0.1))
    report = reported(run)
    assert report.chosen == "int8"
    splits = {v.name: (v.quality and v.quality.split, v.quality_dev and v.quality_dev.split) for v in report.variants}
    assert splits == {"baseline": ("test", "dev"), "fp32": ("dev", None), "int8": ("test", "dev")}
    chosen = report.variant("int8").quality
    assert chosen is not None
    wanted = run.data.splits["test"].targets
    expected = quality(run.scored["int8"].on("test"), wanted, run.scored["int8"].thresholds)
    assert chosen.macro_f1 == chosen.metric_value == pytest.approx(expected["macro_f1"])
    on_dev = [v.on_dev for v in report.variants]
    assert [q and q.split for q in on_dev] == ["dev"] * 3


def test_the_scores_of_all_others_on_test_are_never_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.scored["fp32"] = Scored(run.scored["fp32"].artifact, run.scored["fp32"].dev, run.scored["fp32"].thresholds)
    assert reported(run).variant("fp32").quality is not None
    with pytest.raises(KeyError, match="fp32 was not scored on test"):
        run.scored["fp32"].on("test")


def test_the_drop_is_of_the_metric_that_was_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path, dev=(0.0, 0.01), test=(0.0, 0.01), metric="accuracy")
    report = reported(run)
    assert report.budget.metric == "accuracy"
    wrong = (run.scored["int8"].dev.round() != run.data.splits["dev"].targets).any(axis=1).mean()
    on_dev = report.variant("int8").on_dev
    assert on_dev is not None
    assert on_dev.drop_points == pytest.approx(100 * wrong, abs=1e-3)
    assert on_dev.metric_value == on_dev.accuracy == pytest.approx(1 - wrong)


def test_the_report_says_what_was_missing(tmp_path: Path) -> None:
    report = reported(make_run(tmp_path, dev=(0.0, 0.015), test=(0.0, 0.0), rows=300))
    assert report.chosen == "fp32"
    assert report.budget.met is True, "the unquantized export loses nothing"
    assert report.budget.nearest == "int8"
    assert report.budget.rows_needed is not None
    assert report.budget.rows_needed > 300
    assert "nothing compressed kept the budget" in (report.chosen_reason or "")


def test_a_budget_that_test_contradicts_is_not_met(tmp_path: Path) -> None:
    report = reported(make_run(tmp_path, dev=(0.0, 0.0), test=(0.0, 0.2)))
    assert (report.chosen, report.budget.met, report.published) == ("int8", False, None)


def test_served_quality_is_of_the_answers_and_of_the_same_split(tmp_path: Path) -> None:
    run = make_run(tmp_path, off=5e-4)
    served = reported(run).variant("int8").served
    assert served is not None
    assert served.max_score_difference == pytest.approx(5e-4, rel=1e-2)
    assert served.macro_f1 == 1.0, "of dev, as nothing was published"
    run.answers["int8", "test"] = 1 - run.scored["int8"].on("test")
    served = reported(run).variant("int8").served
    assert served is not None
    assert served.max_score_difference == pytest.approx(0.8)
    assert served.macro_f1 == 0.0


def test_answers_that_are_no_numbers_do_not_cost_the_report(tmp_path: Path) -> None:
    report = reported(make_run(tmp_path, off=float("nan")))
    served = report.variant("int8").served
    assert served is not None
    assert served.max_score_difference is None
    assert report.chosen == "fp32"
    assert "differ from those in process by up to nan" in {d.name: d.reason for d in report.dropped}["int8"]


def test_a_variant_whose_process_or_server_ended_is_a_row_and_dropped(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    failed: dict[Phase, dict[str, int]] = {"served": {"UnavailableError": 1}}
    run.measured["int8"] = replace(run.measured["int8"], in_process=None, errors=failed, peak_rss_mb=0.0)
    del run.answers["int8", "dev"]
    report = reported(run)
    row = report.variant("int8")
    assert (row.in_process, row.served, row.peak_rss_mb, report.chosen) == (None, None, None, "fp32")
    assert {d.name: d.reason for d in report.dropped}["int8"] == "1 of the requests to it failed"


def test_random_weights_have_no_quality(tmp_path: Path) -> None:
    report = reported(make_run(tmp_path, random_weights=True))
    assert (report.chosen, report.budget.met) == ("int8", None)
    assert all(v.quality is None and v.quality_dev is None for v in report.variants)


def test_latencies_are_of_dev(tmp_path: Path) -> None:
    run = make_run(tmp_path, rows=50)
    report = reported(run)
    baseline = timing("baseline").in_process
    assert baseline is not None
    assert report.conditions is not None
    assert report.conditions.texts == baseline.texts == 20, "those that were timed, of 50"
    found = report.variant("int8").in_process
    assert found is not None
    assert found.p50_ms == pytest.approx(float(np.median(timing("int8").in_process.latencies_ms)), abs=1e-3)  # type: ignore[union-attr]
    timed = timing("int8").in_process
    assert timed is not None
    assert found.p50_ci95 == (round(timed.p50_ms.low, 4), round(timed.p50_ms.high, 4))
    assert found.p50_ci95[0] < found.p50_ms < found.p50_ci95[1]
