"""What is said of quality where there are no labels, where there are numbers, on slices, and at given thresholds."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bantam.errors import RecipeError
from bantam.report.model_card import render as card_of
from bantam.report.page import render
from bantam.report.table import show
from bantam.report.text import columns
from bantam.run import judge
from bantam.run.choose import Budget
from bantam.run.evidence import evidence
from bantam.run.measures import check_metric, given_thresholds
from bantam.run.quality import of_order
from bantam.run.state import Run
from optimizer.data import Dataset, Split
from optimizer.data.sample import bounded
from optimizer.evaluate import bootstrap_drop
from optimizer.metric import Metric, parse
from optimizer.slices import Tokens
from tests.run.made_up import LABELS, make_run
from tests.run.test_record import reported

ROWS = 600

pytestmark = pytest.mark.usefixtures("few_resamples")


def with_data(run: Run, **changes: Any) -> Run:
    """The same run on other data, whose metric nobody has chosen."""
    run.data = replace(run.data, **changes)
    run.recipe = run.recipe.model_copy(update={"metric": None})
    return run


def unlabelled(tmp_path: Path, dev: tuple[float, float] = (0.1, 0.0)) -> Run:
    """The baseline is wrong on a tenth of what nobody knows, and int8 decides ``dev[1]`` of it otherwise."""
    run = make_run(tmp_path, dev=dev, test=dev, rows=ROWS)
    splits = {name: replace(split, targets=np.zeros_like(split.targets)) for name, split in run.data.splits.items()}
    run.thresholds = (0.5,) * len(LABELS)
    run.scored = {name: replace(scored, thresholds=run.thresholds) for name, scored in run.scored.items()}
    return with_data(run, labelled=False, splits=MappingProxyType(splits))


def regression(tmp_path: Path, noise: float, *, labelled: bool = True) -> Run:
    """Numbers from 1 to 5, which the baseline meets but for noise, and int8 but for more of it."""
    run = make_run(tmp_path, rows=ROWS)
    rng = np.random.default_rng(5)
    splits = {}
    for name, split in run.data.splits.items():
        wanted = rng.uniform(1, 5, len(split.texts)).astype(np.float32)
        splits[name] = replace(split, targets=wanted if labelled else np.full_like(wanted, np.nan))
        base = wanted + rng.normal(0, 0.3, len(wanted)).astype(np.float32)
        worse = base + rng.normal(0, noise, len(wanted)).astype(np.float32)
        for variant, scored in run.scored.items():
            said = (worse if variant == "int8" else base)[:, None]
            dev, test = (said if name == split else scored.on(split) for split in ("dev", "test"))
            run.scored[variant] = replace(scored, thresholds=None, dev=dev, test=test)
            if name == "dev" and variant != "baseline":
                run.answers[variant, "dev"] = said
    return with_data(
        run, task="regression", labels=("relatedness",), labelled=labelled, splits=MappingProxyType(splits)
    )


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
    run.request = replace(run.request, slice_column="language", max_slice_drop=2.0)
    run.data = replace(run.data, splits={**run.data.splits, "dev": replace(run.data.splits["dev"], groups=groups)})
    silent = run.scored["baseline"].dev.copy()
    silent[:100] = 0.1
    run.scored["baseline"] = replace(run.scored["baseline"], dev=silent)
    run.scored["int8"] = replace(run.scored["int8"], dev=np.vstack([silent[:100] + np.float32(0.8), silent[100:]]))
    assert judge.group_drops(run, "int8", "dev")["language: fi"].points == pytest.approx(100)


def test_what_is_published_is_remeasured_against_what_its_metric_wants(tmp_path: Path) -> None:
    """Agreement is with the baseline's decisions, though the data have labels."""
    run = make_run(tmp_path, test=(0.1, 0.13), metric="agreement")
    found = json.loads(evidence(run, "int8"))
    rows = np.sort(np.random.default_rng(0).permutation(ROWS)[: len(found["texts"])])
    assert found["metric"] == "agreement"
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


def test_given_thresholds_decide_dev_and_test_of_all(tmp_path: Path) -> None:
    run = make_run(tmp_path, dev=(0.1, 0.1), test=(0.1, 0.1))
    run.thresholds = (0.95, 0.5, 0.05)
    run.scored = {name: replace(scored, thresholds=run.thresholds) for name, scored in run.scored.items()}
    run.request = replace(run.request, thresholds="thresholds.json")
    for split in ("dev", "test"):
        decided = judge.decided(run, "int8", split)
        assert not decided[:, 0].any()
        assert decided[:, 2].all()
    report = reported(run)
    assert report.thresholds is not None
    assert (report.thresholds.source, report.thresholds.values) == (
        "given",
        dict(zip(LABELS, run.thresholds, strict=True)),
    )


@pytest.fixture
def labels(tmp_path: Path) -> Dataset:
    return make_run(tmp_path).data


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ('{"a": 0.1, "c": 0.3, "b": 1}', (0.1, 1.0, 0.3)),
        ("[0.1, 0.2, 0.3]", (0.1, 0.2, 0.3)),
        ("0.4", (0.4, 0.4, 0.4)),
    ],
)
def test_thresholds_are_read_by_name_or_in_order(
    tmp_path: Path, labels: Dataset, content: str, wanted: tuple[float, ...]
) -> None:
    (tmp_path / "t.json").write_text(content, encoding="utf-8")
    assert given_thresholds(str(tmp_path / "t.json"), labels) == wanted
    assert given_thresholds("0.5", labels) == (0.5, 0.5, 0.5)
    assert given_thresholds(None, labels) is None
    assert given_thresholds(None, replace(labels, labelled=False)) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 0.1, "b": 0.2, "x": 0.3}', r"has no threshold for 'c' and names what is no label: 'x'\. .*a, b, c"),
        ("[0.1, 0.2]", r"has 2 thresholds, and there are 3 labels.*a, b, c"),
        ('{"a": 0.1, "b": 1.2, "c": 0.3}', r"got 1\.2 for 'b', expected a number from 0 to 1"),
        ('["x", 0.2, 0.3]', r"got 'x' for 'a', expected a number"),
        ("{", r"cannot be read .*JSON file"),
    ],
)
def test_wrong_thresholds_are_named(tmp_path: Path, labels: Dataset, content: str, message: str) -> None:
    (tmp_path / "t.json").write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        given_thresholds(str(tmp_path / "t.json"), labels)


def test_thresholds_of_what_has_none_are_refused(tmp_path: Path, labels: Dataset) -> None:
    with pytest.raises(
        RecipeError, match=r"--thresholds 0\.5, but made-up is single_label: the best-scored label wins"
    ):
        given_thresholds("0.5", replace(labels, task="single_label"))
    with pytest.raises(RecipeError, match=r"made-up is regression: a number is no decision"):
        given_thresholds("0.5", replace(labels, task="regression"))
    with pytest.raises(RecipeError, match=r"--thresholds nowhere\.json, which cannot be read"):
        given_thresholds("nowhere.json", labels)


def test_large_splits_are_drawn_from_and_the_rest_stays(labels: Dataset) -> None:
    small = bounded(labels, 100, 5000)
    assert [len(small.splits[part].texts) for part in ("train", "dev", "test")] == [10, 100, 600]
    assert small.splits["test"] is labels.splits["test"]
    assert small.notes[-1].startswith("Scored on 100 of the 600 rows of dev, drawn with a fixed seed")
    assert small.digest != labels.digest
    again = bounded(labels, 100, 5000)
    assert (again.splits["dev"].texts, again.digest) == (small.splits["dev"].texts, small.digest)
    texts = list(labels.splits["dev"].texts)
    rows = [texts.index(text) for text in small.splits["dev"].texts]
    assert (labels.splits["dev"].targets[rows] == small.splits["dev"].targets).all() or len(set(texts)) < len(texts)
    assert bounded(labels, 600, 600) is labels


def test_a_drawn_split_keeps_the_groups_of_its_rows() -> None:
    split = Split(tuple(map(str, range(50))), np.arange(50), tuple(f"g{i}" for i in range(50)))
    data = Dataset("d", "single_label", ("a",), {"train": split, "dev": split, "test": split}, "0", "none", "none", ())
    drawn = bounded(data, 10, 10).splits["dev"]
    assert drawn.groups == tuple(f"g{text}" for text in drawn.texts)
    assert drawn.targets.tolist() == [int(str(text)) for text in drawn.texts]


def sliced(tmp_path: Path, wrong_in_fi: float, *, limit: float | None = 2.0) -> Run:
    """Two languages, and one with three rows: int8 is as good as the baseline but in Finnish."""
    run = make_run(tmp_path, dev=(0.1, 0.1), test=(0.1, 0.1), rows=1000)
    run.recipe = run.recipe.model_copy(update={"max_drop_points": 50.0})
    run.request = replace(run.request, slice_column="language", max_slice_drop=limit)
    groups = ("sv",) * 3 + ("en",) * 797 + ("fi",) * 200
    splits = {
        name: replace(split, groups=groups if name != "train" else ("en",) * len(split.texts))
        for name, split in run.data.splits.items()
    }
    run.data = replace(run.data, splits=MappingProxyType(splits))
    rng, changed = np.random.default_rng(11), {}
    for split in ("dev", "test"):
        found = run.scored["int8"].on(split).copy()
        flipped = (rng.random(found.shape) < wrong_in_fi) & (np.array(groups) == "fi")[:, None]
        found[flipped] = 1 - found[flipped]
        changed[split] = found
    run.scored["int8"] = replace(run.scored["int8"], dev=changed["dev"], test=changed["test"])
    run.answers["int8", "dev"] = changed["dev"]
    return run


def test_a_loss_in_one_language_is_beyond_the_limit_though_the_whole_is_not(tmp_path: Path) -> None:
    report = reported(sliced(tmp_path, 0.1))
    assert report.chosen == "fp32"
    reason = {entry.name: entry.reason for entry in report.dropped}["int8"]
    assert reason.startswith("loses ")
    assert "points on language: fi (95% interval" in reason
    assert reason.endswith("the budget for each language is 2")
    assert (report.budget.slice_column, report.budget.max_slice_drop_points) == ("language", 2.0)
    what = "no slice of their own that is held to 2 points: language 'sv' (3)."
    assert f"Fewer than 50 rows of dev, and so {what}" in report.notes


def test_without_a_limit_slices_are_reported_alone_and_the_worst_is_shown(tmp_path: Path) -> None:
    report = reported(sliced(tmp_path, 0.1, limit=None))
    assert (report.chosen, report.budget.met) == ("int8", True)
    quality = report.variant("int8").quality
    assert quality is not None
    groups = {name: part for name, part in (quality.slices or {}).items() if part.kind == "group"}
    assert {name: part.rows for name, part in groups.items()} == {"language: en": 797, "language: fi": 200}
    assert "Fewer than 50 rows of dev, and so no slice of their own: language 'sv' (3)." in report.notes
    finnish = groups["language: fi"]
    assert finnish.drop_points is not None
    assert finnish.drop_ci95 is not None
    assert finnish.drop_ci95[0] < finnish.drop_points < finnish.drop_ci95[1]
    assert groups["language: en"].drop_points == 0.0
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"Most is lost on language: fi: {finnish.drop_points:.2f} points (95% interval" in text
    card, page = card_of(report), render(report)
    for shown in (card, page):
        assert "language: fi" in shown
        assert f"{finnish.drop_ci95[0]:.2f} to {finnish.drop_ci95[1]:.2f}" in shown


def test_chance_seldom_puts_a_slice_beyond_its_limit() -> None:
    """Two models of equal quality on 20 slices of 60 rows each: differences are chance, and most are tolerated."""
    rng, budget = np.random.default_rng(0), Budget(1.0, "accuracy", 1200, 2.0, "language")
    beyond = broken = 0
    for _ in range(20):
        right = rng.random((60, 2)) < 0.9  # of either model
        one, other = (Metric("accuracy").on(right, right[:, [i]], np.ones((60, 1), bool), ("a",)) for i in (0, 1))
        drop = bootstrap_drop(one, other, 60, resamples=500)
        beyond += drop.points > 2.0
        broken += budget.broken(drop)
    assert beyond >= 5, "the point estimate alone would refuse any model"
    assert broken <= 2


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


def test_how_texts_are_cut_is_in_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, rows=ROWS)
    rng = np.random.default_rng(0)
    for split, longest in (("dev", 20), ("test", 10)):
        counts = rng.integers(1, longest, ROWS)
        run.tokens[split] = Tokens(counts, counts / 4, 15)
    report = reported(run)
    assert report.texts is not None
    assert report.texts.cut == {"dev": pytest.approx((run.tokens["dev"].counts > 15).mean()), "test": 0.0}
    assert report.texts.tokens_per_word == pytest.approx(run.tokens["dev"].per_word.mean())
    assert report.conditions is not None
    assert report.conditions.tokens_p50 == np.median(run.tokens["dev"].counts)
    (note,) = [note for note in report.notes if "are cut" in note]
    assert note.startswith("Texts longer than the 15 tokens that the model reads are cut: ")
    assert note.endswith("% of dev.")
    quality = report.variant("int8").quality
    assert quality is not None
    assert sum(part.rows for part in (quality.slices or {}).values() if part.kind == "pieces") == ROWS
    assert "of dev, 0.0% of test (longer than 15 tokens)" in render(report)
    assert "Texts that it does not read to their end: " in card_of(report)
