"""Texts without labels: lines, tables, folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bantam.errors import DataError
from optimizer.data import Columns, load_dataset
from optimizer.data.files import read_texts
from tests.optimizer.data_files import texts, write_jsonl


def test_texts_of_a_file_of_lines_and_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes("one\r\n\r\n two \nthree".encode("utf-16"))
    assert read_texts(tmp_path / "d.txt") == ["one", "two", "three"]
    (tmp_path / "d.csv").write_text("review,stars\none,1\n ,2\n", encoding="utf-8")
    assert read_texts(tmp_path / "d.csv") == ["one"]
    (tmp_path / "e.txt").write_text("ham\tone\nspam\ttwo\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"each line has 2 parts separated by tabs.*\n.*add a header line"):
        read_texts(tmp_path / "e.txt")


@pytest.mark.parametrize("name", ["d.txt", "d.csv", "d.jsonl", "folder"])
def test_texts_without_labels(tmp_path: Path, name: str) -> None:
    if name == "d.txt":
        (tmp_path / name).write_text("".join(f"text number {i}, café\n" for i in range(60)), encoding="utf-8")
    elif name == "d.csv":
        (tmp_path / name).write_text(
            "text\n" + "".join(f"text number {i}, café\n" for i in range(60)), encoding="utf-8"
        )
    elif name == "d.jsonl":
        rows = "".join(json.dumps({"id": i, "text": f"text number {i}, café"}) + "\n" for i in range(60))
        (tmp_path / name).write_text(rows, encoding="utf-8")
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.txt").write_text("What this is.\n", encoding="utf-8")
        lines = [f"text number {i}, café\n" for i in range(60)]
        for part, some in {"train": lines[:30], "test": lines[30:45], "dev": lines[45:]}.items():
            (tmp_path / name / f"{part}.txt").write_text("".join(some), encoding="utf-8")
    data = load_dataset(str(tmp_path / name))
    assert (data.task, data.labels, data.labelled, data.pair) == ("unlabelled", (), False, False)
    assert texts(data) == {f"text number {i}, café" for i in range(60)}
    assert all(len(split.targets) == len(split.texts) for split in data.splits.values())
    assert any("No row has a label" in note for note in data.notes)
    read = data.read_by("single_label", ("a", "b"))
    assert (read.task, read.labels, read.labelled) == ("single_label", ("a", "b"), False)
    assert set(read.splits["test"].targets.tolist()) == {-1}


def test_a_misspelt_label_column_is_not_taken_for_none(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "lable": "ab"[i % 2]} for i in range(60)]
    write_jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError, match=r"no label column .*\n.*--label-column 'lable'; --label-column '' says that"):
        load_dataset(str(tmp_path / "d.jsonl"))
    assert not load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(label="")).labelled
    assert load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(label="lable")).labels == ("a", "b")
