"""Labels and columns that differ from split to split, and groups that follow their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bantam.errors import DataError
from optimizer.data import Columns, load_dataset
from tests.optimizer.data_files import write, write_jsonl


def test_labels_with_few_rows_are_named_and_refuse_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": f"topic{i % 10}"} for i in range(200)]
    rows += [{"text": "rare 1", "label": "rare_a"}, *({"text": f"rare b {i}", "label": "rare_b"} for i in range(2))]
    write_jsonl(tmp_path / "d.jsonl", rows)
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


def test_minus_one_is_a_label_where_train_has_it(tmp_path: Path) -> None:
    for part in ("train", "dev", "test"):
        write(tmp_path / f"{part}.csv", [-1, 0, 1] if part == "train" else [-1], n=30)
    assert len(load_dataset(str(tmp_path)).splits["test"].texts) == 30


def test_groups_follow_their_rows_through_the_splits(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 2, "language": ("en", "fi", None)[i % 3]} for i in range(60)]
    write_jsonl(tmp_path / "d.jsonl", rows)
    data = load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(group="language"))
    for split in data.splits.values():
        for text, group in zip(split.single, split.groups, strict=True):
            assert group == ("en", "fi", "(none)")[int(text.split()[1]) % 3]
    rows_alone = [{name: cell for name, cell in row.items() if name != "language"} for row in rows]
    write_jsonl(tmp_path / "alone.jsonl", rows_alone)
    assert load_dataset(str(tmp_path / "alone.jsonl")).digest == data.digest, "nothing is trained again for slices"
    both = load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(label="label", group="label"))
    assert (both.labels, {*both.splits["dev"].groups}) == (("0", "1"), {"0", "1"})
    with pytest.raises(
        DataError, match=r"'label' is by its name the column of the labels, and there is no other\. Say"
    ):
        load_dataset(str(tmp_path / "alone.jsonl"), columns=Columns(group="label"))
    with pytest.raises(DataError, match=r"no column 'lang'\. Columns: .*; --slice-column names one"):
        load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(group="lang"))
