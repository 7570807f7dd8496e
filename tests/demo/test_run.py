"""What the demo reads: files of texts, examples, the newest report of a model."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bantam.demo.batch import ScoredFile, Upload, score_file
from bantam.demo.request import DemoRequest
from bantam.demo.run import EXAMPLES, LONGEST_EXAMPLE, demo_data, examples, newest_report, read_upload
from bantam.errors import DataError
from bantam.report.file import read_report, write_report
from optimizer.data import load_dataset
from optimizer.data.dataset import Dataset, Rows, Split, build
from tests.client.fake_kserve import Fake, Script
from tests.plugins.reports import EXAMPLE, changed

ODD_LABELS = ["a\nb", "<script>alert(1)</script>&amp;"]
ROOT = Path(__file__).resolve().parents[2]


def uploaded(folder: Path, content: str, columns: Sequence[str] = ("",)) -> Upload:
    """A CSV file of this content, as it is read."""
    (folder / "file.csv").write_text(content, encoding="utf-8")
    return read_upload(folder / "file.csv", columns)


def scored(upload: Upload, folder: Path, script: Script) -> tuple[ScoredFile, list[list[str]]]:
    """What a server that follows the script makes of it, and the rows of the file that was written, heads first."""
    fake = Fake("grpc", script)
    try:
        with fake.client() as client:
            found = score_file(client, upload, folder / "scored.csv", lambda done, of: None)
    finally:
        fake.stop()
    with (folder / "scored.csv").open(encoding="utf-8-sig", newline="") as file:
        return found, [*csv.reader(file)]


@pytest.mark.parametrize(
    ("content", "column", "name", "texts"),
    [
        ("id,text\n1,one\n2,two\n", "", "text", ["one", "two"]),
        ("id;Review\n1;one, or so\n", "", "Review", ["one, or so"]),
        ("a,b\n1,one\n", "b", "b", ["one"]),
        ("7,one\n8,two\n", "2", "column 2", ["one", "two"]),
        ("one\ntwo\nthree\n", "", "column 1", ["one", "two", "three"]),
        ("text\n\none\n", "", "text", ["one"]),
    ],
)
def test_the_text_column_is_found_or_named_with_a_header_or_without(
    tmp_path: Path, content: str, column: str, name: str, texts: list[str]
) -> None:
    found = uploaded(tmp_path, content, [column])
    assert found.texts == (name,)
    assert found.rows() == texts
    assert list(found.columns[name]) == texts
    assert len({len(cells) for cells in found.columns.values()}) == 1


@pytest.mark.parametrize(
    ("content", "columns", "names", "rows"),
    [
        ("id,premise,hypothesis\n1,one,two\n", ["", ""], ("premise", "hypothesis"), [("one", "two")]),
        ("id,a,b\n1,one,two\n2,,three\n", ["b", "a"], ("b", "a"), [("two", "one"), ("three", "")]),
        ("one,two\nthree,four\n", ["", ""], ("column 1", "column 2"), [("one", "two"), ("three", "four")]),
        ("7,one,two\n8,three,four\n", ["3", "2"], ("column 3", "column 2"), [("two", "one"), ("four", "three")]),
    ],
)
def test_two_text_columns_are_pairs(
    tmp_path: Path, content: str, columns: list[str], names: tuple[str, str], rows: list[tuple[str, str]]
) -> None:
    found = uploaded(tmp_path, content, columns)
    assert found.texts == names
    assert found.rows() == rows


def test_a_file_of_pairs_with_a_regression_has_the_score_alone(tmp_path: Path) -> None:
    upload = uploaded(tmp_path, "id,premise,hypothesis\n1,12,345\n2,,x\n", ["", ""])
    script = Script()
    script.parameters = {"task": "regression", "labels": '["score\\nof"]', "pair": "true"}
    script.width = 1
    found, _ = scored(upload, tmp_path, script)
    assert found.columns == ("id", "premise", "hypothesis", "predicted")
    assert [row[-1] for row in found.rows] == [0.5, 0.9]


def test_labels_with_line_breaks_and_markup_come_back_from_a_scored_file(tmp_path: Path) -> None:
    script = Script()
    script.parameters = {"task": "multi_label", "labels": json.dumps(ODD_LABELS)}
    _, (heads, row) = scored(uploaded(tmp_path, "text\n12345\n"), tmp_path, script)
    assert heads == ["text", "predicted", *(f"score_{label}" for label in ODD_LABELS)]
    assert row[1] == "|".join(ODD_LABELS)


def test_a_scored_file_holds_no_formulas_and_its_numbers_stay(tmp_path: Path) -> None:
    upload = uploaded(tmp_path, "text,change,=odd\n=1+1,-0.5,@me\nfine,2,\n")
    _, (heads, *rows) = scored(upload, tmp_path, Script())
    assert heads == ["text", "change", "'=odd", "predicted", "score_short", "score_long"]
    assert rows == [["'=1+1", "-0.5", "'@me", "short", "0.6", "0.4"], ["fine", "2", "", "short", "0.6", "0.4"]]


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ("", "", "is empty"),
        ("a,b\n1,one\n", "", "Columns: a, b"),
        ("a,b\n1,one\n", "text", "has no column 'text'. Columns: a, b"),
        ("a,b\n1,one\n", "", "which column is the text? Name it"),
        ("a,b\n1,one\n", "3", "has no column 3; it has 2"),
        ("a,b\n1,one\n", "0", "has no column 0; it has 2"),
        ('text\n"open\n', "", "Is a quote left open?"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, content: str, column: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        uploaded(tmp_path, content, [column])
    assert message in str(caught.value)


def build_rows() -> Dataset:
    rows = Rows(["good", "bad", "x" * 500], [("yes",), ("no",), ("no",)])
    return build("d", "single_label", dict.fromkeys(("train", "dev", "test"), rows), licence="", source="")


def test_examples_are_short_and_of_every_label() -> None:
    data = load_dataset("goemotions-ekman")
    found = examples(data)
    assert len(set(found)) == EXAMPLES
    assert max(map(len, found)) <= LONGEST_EXAMPLE
    test = data.splits["test"]
    rows = [test.targets[test.texts.index(text)] for text in found]
    assert all(row.sum() == 1 for row in rows)
    assert len({int(np.argmax(row)) for row in rows}) == EXAMPLES


def test_a_task_of_one_label_has_examples_too() -> None:
    assert examples(build_rows()) == ["bad", "good"]


def test_pairs_regressions_and_data_without_labels_have_examples() -> None:
    pairs = [("one", "two"), ("three", "x" * 500), ("five", "six")]
    split = Split(tuple(pairs), np.array([0.5, 1.5, 2.5], dtype=np.float32))
    made = build_rows()
    data = replace(made, task="regression", labels=("score",), splits=dict.fromkeys(made.splits, split), pair=True)
    assert sorted(examples(data)) == [("five", "six"), ("one", "two")]
    bare = Split(("good", "bad"), np.full(2, -1, dtype=np.int64))
    data = replace(made, task="unlabelled", labels=(), splits=dict.fromkeys(made.splits, bare), labelled=False)
    assert sorted(examples(data)) == ["bad", "good"]


def test_the_report_is_the_newest_that_can_be_read_of_the_model(tmp_path: Path) -> None:
    example = read_report(EXAMPLE)
    for age, (name, published) in enumerate((("old", "it"), ("new", "it"), ("other", "another"), ("broken", "it"))):
        path, _ = write_report(
            changed(example, data=name, published={"name": published, "version": 1}), tmp_path / name
        )
        os.utime(path, (1000 + age, 1000 + age))
    broken = tmp_path / "broken" / "report.json"
    broken.write_text("{", encoding="utf-8")
    found = newest_report(tmp_path, "it")
    assert found is not None
    assert found.data == "new"
    assert newest_report(tmp_path, "nobody") is None


def test_the_demo_reads_the_columns_that_the_run_was_told(tmp_path: Path) -> None:
    """The column of labels is none that would be found."""
    data = tmp_path / "d.csv"
    rows = [f"{'abc'[i % 3]},text {i},{('yes', 'no')[i % 2]}" for i in range(60)]
    data.write_text("\n".join(["verdict,said,code", *rows]) + "\n", encoding="utf-8")
    report = changed(
        read_report(EXAMPLE),
        data=str(data),
        data_source={"columns": {"text": "said", "label": "code", "labels": []}},
        published={"name": "it", "version": 1},
    )
    write_report(report, tmp_path / "build" / "run")
    found = demo_data(DemoRequest(model="it", build=tmp_path / "build"), pytest.fail)
    assert found.labels == ("no", "yes")


def test_without_gradio_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "gradio.py").write_text("raise ModuleNotFoundError(\"No module named 'gradio'\")\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "bantam", "demo", "--port", "0"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "No module named 'gradio'" in done.stderr
    assert "pip install '.[optimize,demo]'" in done.stderr
