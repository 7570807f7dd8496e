"""What the demo reads: files of texts, examples, the newest report of a model."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bantam.demo.batch import score_file
from bantam.demo.run import EXAMPLES, LONGEST_EXAMPLE, examples, newest_report, read_upload
from bantam.errors import DataError
from bantam.report.file import read_report, write_report
from optimizer.data import load_dataset
from optimizer.data.dataset import Rows, build
from tests.client.fake_kserve import Fake, Script
from tests.plugins.reports import EXAMPLE, changed

ROOT = Path(__file__).resolve().parents[2]


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
    (tmp_path / "file.csv").write_text(content, encoding="utf-8")
    found = read_upload(tmp_path / "file.csv", column)
    assert found.text == name
    assert list(found.columns[name]) == texts
    assert len({len(cells) for cells in found.columns.values()}) == 1


def test_a_scored_file_holds_no_formulas_and_its_numbers_stay(tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_text("text,change,=odd\n=1+1,-0.5,@me\nfine,2,\n", encoding="utf-8")
    fake = Fake("grpc", Script())
    try:
        with fake.client() as client:
            score_file(client, read_upload(tmp_path / "file.csv", ""), tmp_path / "scored.csv", lambda done, of: None)
    finally:
        fake.stop()
    with (tmp_path / "scored.csv").open(encoding="utf-8-sig", newline="") as file:
        heads, *rows = csv.reader(file)
    assert heads == ["text", "change", "'=odd", "predicted", "score_short", "score_long"]
    assert rows == [["'=1+1", "-0.5", "'@me", "short", "0.6", "0.4"], ["fine", "2", "", "short", "0.6", "0.4"]]


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ("", "", "is empty"),
        ("a,b\n1,one\n", "", "Columns: a, b"),
        ("a,b\n1,one\n", "text", "has no column 'text'. Columns: a, b"),
        ("a,b\n1,one\n", "3", "has no column 3; it has 2"),
        ("a,b\n1,one\n", "0", "has no column 0; it has 2"),
        ('text\n"open\n', "", "Is a quote left open?"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, content: str, column: str, message: str) -> None:
    (tmp_path / "file.csv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_upload(tmp_path / "file.csv", column)
    assert message in str(caught.value)


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
    rows = Rows(["good", "bad", "x" * 500], [("yes",), ("no",), ("no",)])
    data = build("d", "single_label", dict.fromkeys(("train", "dev", "test"), rows), licence="", source="")
    assert examples(data) == ["bad", "good"]


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
