"""Which rows count: those drawn from large splits, slices of them, and texts that are cut."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from rich.console import Console

from bantam.report.model_card import render as card_of
from bantam.report.page import render
from bantam.report.table import show
from bantam.run.choose import Budget
from bantam.run.state import Run
from optimizer.data import Dataset, Split
from optimizer.data.sample import bounded
from optimizer.evaluate import bootstrap_drop
from optimizer.metric import Metric
from optimizer.slices import Tokens
from tests.run.made_up import ROWS, make_run
from tests.run.test_record import reported

pytestmark = pytest.mark.usefixtures("few_resamples")


def test_large_splits_are_drawn_from_and_the_rest_stays(tmp_path: Path) -> None:
    labels = make_run(tmp_path).data
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
    run.recipe = run.recipe.model_copy(update={"max_drop_points": 50.0, "max_slice_drop_points": limit})
    run.request = replace(run.request, slice_column="language")
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
    assert "points on language: fi (interval" in reason
    assert reason.endswith("the budget for each slice is 2")
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
    rng, budget = np.random.default_rng(0), Budget(1.0, "accuracy", 1200, 2.0)
    beyond = broken = 0
    for _ in range(20):
        right = rng.random((60, 2)) < 0.9  # of either model
        one, other = (Metric("accuracy").on(right, right[:, [i]], np.ones((60, 1), bool), ("a",)) for i in (0, 1))
        drop = bootstrap_drop(one, other, 60, resamples=500)
        beyond += drop.points > 2.0
        broken += budget.broken(drop)
    assert beyond >= 5, "the point estimate alone would refuse any model"
    assert broken <= 2


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
