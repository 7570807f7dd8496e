"""Labels as zeros and ones: a list a row, or a column a label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bantam.errors import DataError
from optimizer.data import Columns, load_dataset
from tests.optimizer.data_files import label_sets, write

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
