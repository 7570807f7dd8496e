"""Thresholds that the user has in production, instead of tuned ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bantam.errors import RecipeError
from bantam.run import judge
from bantam.run.measures import given_thresholds
from optimizer.data import Dataset
from tests.run.made_up import LABELS, make_run
from tests.run.test_record import reported

pytestmark = pytest.mark.usefixtures("few_resamples")


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
