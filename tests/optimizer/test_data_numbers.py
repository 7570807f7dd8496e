"""Labels that are numbers: classes, or what is to be predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam.errors import DataError
from optimizer.data import Columns, load_dataset
from tests.optimizer.data_files import write


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


def test_numbers_of_dev_that_are_all_the_same_are_said(tmp_path: Path) -> None:
    for part in ("train", "dev", "test"):
        write(tmp_path / f"{part}.csv", [1.5] if part == "dev" else [0.5, 1.5, 2.25], n=30)
    notes = load_dataset(str(tmp_path)).notes
    assert [note for note in notes if "All numbers" in note] == [
        "All numbers of dev are 1.5: correlation on dev says nothing, whatever a variant loses."
    ]
