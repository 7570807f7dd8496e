"""What label cells mean: classes, several labels, numbers, as spreadsheets, pandas and people write them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam.errors import DataError
from optimizer.data import Columns, Dataset, load_dataset

COLUMNS = Columns(label="label")


def write(path: Path, cells: Sequence[Any], n: int = 120, text: str = "text", label: str = "label") -> str:
    """A CSV or JSONL file whose label cells go round."""
    rows = [{text: f"text number {i}", label: cells[i % len(cells)]} for i in range(n)]
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [text, label])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def label_sets(data: Dataset) -> dict[str, tuple[str, ...]]:
    """The labels of each text."""
    found = {}
    for split in data.splits.values():
        for text, target in zip(split.single, split.targets, strict=True):
            chosen = np.flatnonzero(target) if data.task == "multi_label" else [target]
            found[text] = tuple(data.labels[i] for i in chosen)
    return found


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


MULTI_HOT = [[0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "written",
    [
        lambda bits: bits,
        lambda bits: [float(bit) for bit in bits],
        lambda bits: [str(bit) for bit in bits],
        lambda bits: [bool(bit) for bit in bits],
        json.dumps,
        lambda bits: "[" + " ".join(map(str, bits)) + "]",
        lambda bits: "[" + " ".join(f"{bit}." for bit in bits) + "]",
        lambda bits: f"array({bits}, dtype=int32)",
        lambda bits: f"tensor([{', '.join(f'{bit}.' for bit in bits)}])",
        lambda bits: ",".join(map(str, bits)),
        lambda bits: " ".join(map(str, bits)),
    ],
    ids=[
        "ints",
        "floats",
        "strings",
        "booleans",
        "json",
        "numpy",
        "numpy floats",
        "array",
        "tensor",
        "commas",
        "spaces",
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_multi_hot_lists_are_a_label_a_position(tmp_path: Path, suffix: str, written: Any) -> None:
    cells = [written(bits) for bits in MULTI_HOT]
    if suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table(
            {"text": [f"text number {i}" for i in range(120)], "label": [cells[i % 4] for i in range(120)]}
        )
        parquet.write_table(table, tmp_path / "d.parquet")
        path = str(tmp_path / "d.parquet")
    else:
        path = write(tmp_path / f"d{suffix}", cells)
    data = load_dataset(path)
    assert (data.task, data.labels) == ("multi_label", ("label_0", "label_1", "label_2"))
    assert label_sets(data)["text number 1"] == ("label_0", "label_1")
    assert label_sets(data)["text number 2"] == ()
    named = load_dataset(path, columns=Columns(labels=("toxic", "rude", "threat")))
    assert label_sets(named)["text number 3"] == ("threat",)
    with pytest.raises(DataError, match=r"--label-columns names 2 labels, and the lists in 'label' have 3"):
        load_dataset(path, columns=Columns(labels=("toxic", "rude")))


def test_a_multi_hot_list_of_another_length_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [*MULTI_HOT * 4, [0, 1]])
    with pytest.raises(DataError, match=r"d\.jsonl, line 17: a list of 2 zeros and ones, where most have 3"):
        load_dataset(path)


def test_lists_of_numbers_of_labels_are_no_multi_hot_lists(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "d.jsonl", [[0], [1], [0, 1], []]))
    assert (data.task, data.labels) == ("multi_label", ("0", "1"))
    assert label_sets(data)["text number 2"] == ("0", "1")


def test_numpy_lists_of_names_are_not_joined_to_one(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "d.csv", ["['joy' 'anger']", "['fear']", "['anger']"]))
    assert data.labels == ("anger", "fear", "joy")


def one_hot(path: Path, cells: Sequence[str] = ("0", "1"), names: str = "toxic,rude,threat", more: str = "") -> str:
    lines = [f"id,comment_text,{names}{',' if more else ''}{more}"]
    for i in range(120):
        bits = [cells[i % 2], cells[i % 3 == 0], cells[i % 5 == 0]]
        lines.append(",".join([str(i), f"text number {i}", *bits, *(["x"] if more else [])]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("cells", [("0", "1"), ("0.0", "1.0"), ("False", "True"), ("no", "yes")])
def test_columns_of_zeros_and_ones_are_a_label_each(tmp_path: Path, cells: tuple[str, str]) -> None:
    data = load_dataset(one_hot(tmp_path / "d.csv", cells))
    assert (data.task, data.labels) == ("multi_label", ("toxic", "rude", "threat"))
    assert label_sets(data)["text number 3"] == ("toxic", "rude")
    assert label_sets(data)["text number 2"] == ()
    assert "Text column 'comment_text', a label a column: toxic, rude, threat." in data.notes


def test_label_columns_of_joined_files_with_secret_labels(tmp_path: Path) -> None:
    """As the test files of toxicity competitions: -1 in all columns where a label is kept secret."""
    once = Path(one_hot(tmp_path / "d.csv")).read_text(encoding="utf-8")
    secret = "".join(f"{i},another text {i},-1,-1,-1\n" for i in range(20))
    (tmp_path / "d.csv").write_text(once + once.replace("number", "no.") + secret, encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.csv"))
    assert (data.labels, len(label_sets(data))) == (("toxic", "rude", "threat"), 240)
    assert any(note.startswith("1 of 261 rows") and "repeat the header" in note for note in data.notes)
    assert any(note.startswith("20 of 261 rows") and "kept secret" in note for note in data.notes)


def test_columns_of_which_one_applies_can_be_one_label_a_row(tmp_path: Path) -> None:
    lines = ["text,pos,neg,neutral", *(f"text number {i},{i % 3 == 0},{i % 3 == 1},{i % 3 == 2}" for i in range(60))]
    (tmp_path / "d.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    several = load_dataset(str(tmp_path / "d.csv"))
    assert several.task == "multi_label"
    assert any("--task single_label" in note for note in several.notes)
    data = load_dataset(str(tmp_path / "d.csv"), columns=Columns(task="single_label"))
    assert (data.task, label_sets(data)["text number 1"]) == ("single_label", ("neg",))
    with pytest.raises(DataError, match=r"line 2: 2 labels, where --task single_label expects 1"):
        load_dataset(one_hot(tmp_path / "e.csv"), columns=Columns(task="single_label"))


def test_label_columns_that_the_user_names(tmp_path: Path) -> None:
    path = one_hot(tmp_path / "d.csv", more="language")
    with pytest.raises(DataError, match=r"no label column .*\n.*--label-columns toxic,rude,threat reads"):
        load_dataset(path)
    assert load_dataset(path, columns=Columns(labels=("threat", "toxic"))).labels == ("threat", "toxic")
    with pytest.raises(DataError, match=r"no column 'kind'\. Columns: .*; --label-columns names one"):
        load_dataset(path, columns=Columns(labels=("toxic", "kind")))
    with pytest.raises(DataError, match=r"line 2: 'language' is 'x', expected 0 or 1"):
        load_dataset(path, columns=Columns(labels=("toxic", "language")))


def test_a_label_column_beside_one_flag_is_the_label(tmp_path: Path) -> None:
    lines = ["text,label,is_valid", *(f"text number {i},{i % 2},{i % 3 // 2}" for i in range(60))]
    (tmp_path / "d.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.csv"))
    assert (data.task, data.labels) == ("single_label", ("0", "1"))


@pytest.mark.parametrize("cells", [["0.5", "1", "2.25"], ["0,5", "1", "2,25"], [0.5, 1, 2.25], ["5e-1", "1.0", "2.25"]])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_fractions_are_a_number_to_be_predicted(tmp_path: Path, suffix: str, cells: list[Any]) -> None:
    data = load_dataset(write(tmp_path / f"d{suffix}", cells, label="score"))
    assert (data.task, data.labels, data.labelled) == ("regression", ("score",), True)
    targets = np.concatenate([split.targets for split in data.splits.values()])
    assert targets.dtype == np.float32
    assert sorted(set(targets.tolist())) == [0.5, 1.0, 2.25]
    assert any("--task single_label" in note for note in data.notes)


def test_all_digits_of_a_fraction_are_read(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "d.csv", ["3.6666666666666665", "1", "1e-05"]))
    assert data.task == "regression"


def test_half_steps_with_a_decimal_comma_are_numbers(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "d.csv", ["1", "1,5", "2", "2,5", "5"]))
    assert data.task == "regression"
    assert {float(x) for split in data.splits.values() for x in split.targets} == {1, 1.5, 2, 2.5, 5}


def test_whole_numbers_are_classes_unless_the_task_says_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", [str(i) for i in range(1, 21)], n=200)
    data = load_dataset(path)
    assert (data.task, len(data.labels)) == ("single_label", 20)
    assert any("20 whole numbers are read as classes; --task regression" in note for note in data.notes)
    data = load_dataset(path, columns=Columns(task="regression"))
    assert (data.task, data.labels) == ("regression", ("label",))
    data = load_dataset(write(tmp_path / "e.csv", ["0.5", "1", "2.5"]), columns=Columns(task="single_label"))
    assert (data.task, data.labels) == ("single_label", ("0.5", "1", "2.5"))
    data = load_dataset(write(tmp_path / "f.csv", ["3.1", "3.10", "3.9"]), columns=Columns(task="single_label"))
    assert data.labels == ("3.1", "3.10", "3.9")


@pytest.mark.parametrize(
    ("cells", "columns", "message"),
    [
        (["0.5", "1.5", "n/a"], Columns(task="regression"), r"line 4: 'label' is 'n/a', expected a number"),
        ([*(f"{i}.5" for i in range(30)), "n/a"], Columns(), r"line 32: the label is 'n/a', and most others are numb"),
        (["0.5", "1.5", ""], Columns(), r"40 rows have no 'label': .*line 4; .*\. Label or remove them"),
        (["1,200", "950", "2,400"], Columns(task="regression"), r"line 2: .*1,200.* may be 1\.2 or 1200"),
        (["1.5"], Columns(), r"all 1\.5"),
    ],
    ids=["text", "text among numbers", "nothing", "thousands", "one value"],
)
def test_what_is_no_number(tmp_path: Path, cells: list[str], columns: Columns, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(write(tmp_path / "d.csv", cells), columns=columns)


def test_classes_of_a_row_each_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"120 labels for 120 rows.*--label-column"):
        load_dataset(write(tmp_path / "d.csv", [f"a sentence of its own, {i}" for i in range(120)]))


def test_contradictions_are_counted_with_an_example(tmp_path: Path) -> None:
    rows = [{"text": "the same", "label": ("pos", "neg")[i % 2]} for i in range(10)]
    rows += [{"text": f"text number {i}", "label": ("pos", "neg")[i % 2]} for i in range(60)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
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


def test_labels_with_few_rows_are_named_and_refuse_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": f"topic{i % 10}"} for i in range(200)]
    rows += [{"text": "rare 1", "label": "rare_a"}, *({"text": f"rare b {i}", "label": "rare_b"} for i in range(2))]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.jsonl"))
    assert len(data.labels) == 12
    assert any("fewer than 5 rows in train" in note and "'rare_a' (1), 'rare_b' (1)" in note for note in data.notes)
    assert any(note.startswith("No row of dev has the label 'rare_a', 'rare_b'") for note in data.notes)


def test_a_label_without_rows_in_train_is_said(tmp_path: Path) -> None:
    for part, labels in {"train": "ab", "dev": "ab", "test": "abc"}.items():
        write(tmp_path / f"{part}.csv", list(labels), n=30)
    data = load_dataset(str(tmp_path))
    assert data.labels == ("a", "b", "c")
    assert any("'c' (0)" in note for note in data.notes)


@pytest.mark.parametrize("secret", [-1, None, "", "-1", "?", "hidden"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_split_whose_labels_are_kept_secret_is_left_out(tmp_path: Path, suffix: str, secret: Any) -> None:
    write(tmp_path / f"train{suffix}", [0, 1], n=90)
    write(tmp_path / f"validation{suffix}", [0, 1], n=20)
    write(tmp_path / f"test{suffix}", [secret], n=20)
    data = load_dataset(str(tmp_path))
    assert data.labels == ("0", "1")
    assert any(note.startswith("The split 'test' has no labels") and "left out" in note for note in data.notes)
    assert len(data.splits["dev"].texts) == 20


def test_splits_without_a_label_in_common_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [0, 1], n=90)
    write(tmp_path / "test.csv", ["neg", "pos"], n=20)
    with pytest.raises(DataError, match=r"test has the labels 'neg', 'pos' and train '0', '1': none in common"):
        load_dataset(str(tmp_path))


def test_column_names_of_splits_may_differ_in_case(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ["a", "b"], n=90)
    write(tmp_path / "test.csv", ["a", "b"], n=20, text="Text", label="LABEL")
    assert len(load_dataset(str(tmp_path)).splits["test"].texts) == 20


@pytest.mark.parametrize("columns", [Columns(text="text", label="text"), Columns(text="text", pair="text")])
def test_a_column_cannot_be_two_things(tmp_path: Path, columns: Columns) -> None:
    with pytest.raises(DataError, match=r"the column 'text' is given twice"):
        load_dataset(write(tmp_path / "d.csv", ["a", "b"]), columns=columns)


def test_minus_one_is_a_label_where_train_has_it(tmp_path: Path) -> None:
    for part in ("train", "dev", "test"):
        write(tmp_path / f"{part}.csv", [-1, 0, 1] if part == "train" else [-1], n=30)
    assert len(load_dataset(str(tmp_path)).splits["test"].texts) == 30


def test_groups_follow_their_rows_through_the_splits(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 2, "language": ("en", "fi", None)[i % 3]} for i in range(60)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(group="language"))
    for split in data.splits.values():
        for text, group in zip(split.single, split.groups, strict=True):
            assert group == ("en", "fi", "(none)")[int(text.split()[1]) % 3]
    rows_alone = [{name: cell for name, cell in row.items() if name != "language"} for row in rows]
    (tmp_path / "alone.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_alone), encoding="utf-8")
    assert load_dataset(str(tmp_path / "alone.jsonl")).digest == data.digest, "nothing is trained again for slices"
    both = load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(label="label", group="label"))
    assert (both.labels, {*both.splits["dev"].groups}) == (("0", "1"), {"0", "1"})
    with pytest.raises(
        DataError, match=r"'label' is by its name the column of the labels, and there is no other\. Say"
    ):
        load_dataset(str(tmp_path / "alone.jsonl"), columns=Columns(group="label"))
    with pytest.raises(DataError, match=r"no column 'lang'\. Columns: .*; --slice-column names one"):
        load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(group="lang"))


def test_numbers_of_dev_that_are_all_the_same_are_said(tmp_path: Path) -> None:
    for part in ("train", "dev", "test"):
        write(tmp_path / f"{part}.csv", [1.5] if part == "dev" else [0.5, 1.5, 2.25], n=30)
    notes = load_dataset(str(tmp_path)).notes
    assert [note for note in notes if "All numbers" in note] == [
        "All numbers of dev are 1.5: correlation on dev says nothing, whatever a variant loses."
    ]
