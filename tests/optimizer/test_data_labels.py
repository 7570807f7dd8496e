"""What label cells mean: classes and several labels, as spreadsheets, pandas and people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bantam.errors import DataError
from optimizer.data import Columns, load_dataset
from tests.optimizer.data_files import label_sets, write, write_jsonl


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["0,0", "1,0"], ("0", "1")),
        (["0", "1.0", "1", "0.0"], ("0", "1")),
        ([1, 1.0, "1", 2], ("1", "2")),
        (["1,0", "2,0", "3"], ("1", "2", "3")),
        (["-1", "0", "1.0"], ("-1", "0", "1")),
        (["Home", "Garden", "Home, Garden", "Toys"], ("Garden", "Home", "Home, Garden", "Toys")),
        (["Home, Garden", "Home, Kitchen", "Books"], ("Books", "Home, Garden", "Home, Kitchen")),
        (["[SPAM]", "[HAM]"], ("[HAM]", "[SPAM]")),
        (["007", "01", "7"], ("01", "007", "7")),
        (["1.10", "1.9", "v2"], ("1.10", "1.9", "v2")),
        (["two\nlines", '"quoted"', "<b>{{ 7 }}</b>", "a|"], ('"quoted"', "<b>{{ 7 }}</b>", "a|", "two\nlines")),
        ([["neg"], ["pos"]], ("neg", "pos")),
        ([[0], [1], [2]], ("0", "1", "2")),
        ([True, False], ("False", "True")),
        (["(25, 32)", "(8, 12)"], ("(25, 32)", "(8, 12)")),
        (["none", "N/A", "null"], ("N/A", "none", "null")),
        (["12345678901234567", "12345678901234568"], ("12345678901234567", "12345678901234568")),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_cells_that_are_one_class_each(tmp_path: Path, suffix: str, cells: list[Any], labels: tuple[str, ...]) -> None:
    data = load_dataset(write(tmp_path / f"d{suffix}", cells))
    assert (data.task, data.labels) == ("single_label", labels)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["joy", "anger", "joy, anger", "anger, fear", "fear"], ("joy", "anger")),
        (["0", "1", "0,1", "2", "1,2"], ("0", "1")),
        (["2", "2,14", "14", "27", "14,27"], ("2", "14")),
        (["a", "b", "a;b"], ("a", "b")),
        (["a", "b", "a | b"], ("a", "b")),
        (["[joy, anger]", "[anger]", "[fear, joy]", "[fear]"], ("joy", "anger")),
        (["{'joy', 'anger'}", "{'fear'}"], ("joy", "anger")),
        (["('joy', 'anger')", "('fear',)"], ("joy", "anger")),
        (['{"choices": ["joy", "anger"]}', "fear"], ("joy", "anger")),
    ],
    ids=str,
)
def test_cells_with_several_labels(tmp_path: Path, cells: list[str], expected: tuple[str, ...]) -> None:
    data = load_dataset(write(tmp_path / "d.csv", cells))
    several = next(i for i, cell in enumerate(cells) if any(mark in cell for mark in ",;|"))
    assert data.task == "multi_label"
    assert set(label_sets(data)[f"text number {several}"]) == set(expected)
    assert any("separated by" in note or "Labels are lists" in note for note in data.notes)


def test_a_comma_that_is_read_as_part_of_a_name_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", ["Home", "Garden", "Home, Garden", "Toys"])
    assert any("'Home, Garden'" in note and "--separator" in note for note in load_dataset(path).notes)
    assert load_dataset(path, columns=Columns(separator=",")).labels == ("Garden", "Home", "Toys")
    assert load_dataset(path, columns=Columns(task="multi_label")).labels == ("Garden", "Home", "Toys")


@pytest.mark.parametrize("nothing", ["", " ", "nan", "#N/A"])
def test_a_row_without_a_label_is_named_by_its_line(tmp_path: Path, nothing: str) -> None:
    path = write(tmp_path / "d.csv", [*["neg", "pos"] * 20, nothing], n=60)
    with pytest.raises(DataError, match=r"1 rows have no 'label': .*d\.csv, line 42\. Label or remove them"):
        load_dataset(path)


@pytest.mark.parametrize("odd", ["pos,", "pos ;", "|pos", "pos.", '"pos"'])
def test_one_odd_cell_is_named_by_its_line(tmp_path: Path, odd: str) -> None:
    path = write(tmp_path / "d.csv", [*["neg", "pos"] * 20, odd])
    with pytest.raises(DataError, match=r"d\.csv, line 42: the label is '.*', and others are 'pos'\. .*--separator ''"):
        load_dataset(path)
    assert len(load_dataset(path, columns=Columns(separator="")).labels) == 3


@pytest.mark.parametrize("odd", ["pos;neg", "pos|neg", "pos,neg"])
def test_one_row_with_a_separator_makes_no_other_task_of_the_set(tmp_path: Path, odd: str) -> None:
    data = load_dataset(write(tmp_path / "d.csv", [*["neg", "pos"] * 59, odd], n=119))
    assert (data.task, data.labels) == ("single_label", ("neg", "pos", odd))
    assert any(f"{odd!r} is read as one label; --separator" in note for note in data.notes)
    assert any(f"{odd!r} (1)" in note for note in data.notes)


def test_labels_that_differ_in_case_are_said(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "d.csv", ["Spam", "spam", "ham"]))
    assert data.labels == ("Spam", "ham", "spam")
    assert "Labels that differ in case alone are different labels: 'Spam' and 'spam'." in data.notes


def test_numpy_lists_of_names_are_not_joined_to_one(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "d.csv", ["['joy' 'anger']", "['fear']", "['anger']"]))
    assert data.labels == ("anger", "fear", "joy")


def test_classes_of_a_row_each_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"120 labels for 120 rows.*--label-column"):
        load_dataset(write(tmp_path / "d.csv", [f"a sentence of its own, {i}" for i in range(120)]))


def test_contradictions_are_counted_with_an_example(tmp_path: Path) -> None:
    rows = [{"text": "the same", "label": ("pos", "neg")[i % 2]} for i in range(10)]
    rows += [{"text": f"text number {i}", "label": ("pos", "neg")[i % 2]} for i in range(60)]
    write_jsonl(tmp_path / "d.jsonl", rows)
    notes = load_dataset(str(tmp_path / "d.jsonl")).notes
    assert any(
        note.startswith("Texts with different labels in different rows: 1, for example 'the same'") for note in notes
    )


def test_a_header_in_the_middle_is_left_out_and_said(tmp_path: Path) -> None:
    for again in ("text,label", "Text,Label_Name"):
        lines = [f"text number {i},{'ab'[i % 2]}" for i in range(60)]
        (tmp_path / "d.csv").write_text("\n".join(["text,label", *lines, again, "more,a"]) + "\n", encoding="utf-8")
        data = load_dataset(str(tmp_path / "d.csv"))
        assert data.labels == ("a", "b")
        assert any(note.startswith("1 of 62 rows") and "repeat the header" in note for note in data.notes)


@pytest.mark.parametrize("columns", [Columns(text="text", label="text"), Columns(text="text", pair="text")])
def test_a_column_cannot_be_two_things(tmp_path: Path, columns: Columns) -> None:
    with pytest.raises(DataError, match=r"the column 'text' is given twice"):
        load_dataset(write(tmp_path / "d.csv", ["a", "b"]), columns=columns)
