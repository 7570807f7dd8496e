"""Parquet files, saved sets and clones from the hub: what numbers its classes itself."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bantam.errors import DataError
from optimizer.data import load_dataset
from tests.optimizer.data_files import ROWS, same_rows, table


def saved(folder: Path) -> Any:
    import datasets

    names = datasets.ClassLabel(names=["ham", "spam"])
    rows = [{"text": row["text"], "label": names.str2int(row["label"])} for row in ROWS]
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    part = datasets.Dataset.from_list(rows, features=features)
    parts = {
        "train": part.select(range(30)),
        "validation": part.select(range(30, 45)),
        "test": part.select(range(45, 60)),
    }
    return part, datasets.DatasetDict(parts)


def write_set(folder: Path, kind: str, rows: list[dict[str, Any]], labels: Any) -> str:
    """A folder of one set, whose schema says what the numbers of the label column mean."""
    import datasets

    text, label = rows[0]
    features = datasets.Features({text: datasets.Value("string"), label: labels})
    whole = datasets.Dataset.from_list(rows, features=features)
    if kind == "disk":
        whole.save_to_disk(folder)
    else:
        whole.to_parquet(folder / "train.parquet")
    return str(folder)


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    part, parts = saved(tmp_path)
    part.save_to_disk(tmp_path / "one")
    parts.save_to_disk(tmp_path / "three")
    for name in ("one", "three"):
        assert same_rows(load_dataset(str(tmp_path / name)))
    assert len(load_dataset(str(tmp_path / "three")).splits["dev"].texts) == 15
    (tmp_path / "one" / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as a saved data set"):
        load_dataset(str(tmp_path / "one"))


@pytest.mark.parametrize("written", ["disk", "parquet"])
def test_lists_of_numbers_of_classes_are_their_names(tmp_path: Path, written: str) -> None:
    import datasets

    names = datasets.Sequence(datasets.ClassLabel(names=["joy", "fear", "anger"]))
    rows = [{"text": f"text {i}", "labels": [[0], [1, 2], []][i % 3]} for i in range(60)]
    data = load_dataset(write_set(tmp_path / "d", written, rows, names))
    assert (data.task, data.labels) == ("multi_label", ("joy", "fear", "anger"))


@pytest.mark.parametrize("kind", ["parquet", "disk"])
def test_classes_that_the_file_numbers_keep_their_order(tmp_path: Path, kind: str) -> None:
    """A head without names was trained with these numbers: LABEL_0 is the first class, not the first by name."""
    import datasets

    names = datasets.ClassLabel(names=["World", "Sports", "Business", "Sci/Tech", "never"])
    rows = [{"text": f"text {i}", "label": i % 4} for i in range(80)]
    data = load_dataset(write_set(tmp_path / "d", kind, rows, names))
    assert data.labels == ("World", "Sports", "Business", "Sci/Tech")
    assert data.classes == ("World", "Sports", "Business", "Sci/Tech", "never")
    numbers = [int(text.split()[1]) % 4 for text in data.splits["train"].single]
    assert data.splits["train"].targets.tolist() == numbers


def test_columns_of_parquet_that_hold_no_text(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "text": pa.array([f"text {i}" for i in range(60)]).dictionary_encode(),
        "image": [{"bytes": b"png"}] * 60,
        "raw": pa.array([b"png"] * 60),
        "score": [Decimal(i) / 4 for i in range(60)],
    }
    parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
    assert load_dataset(str(tmp_path / "d.parquet")).task == "regression"


@pytest.mark.parametrize("names", ["{part}-0000{n}-of-00002.parquet", "{part}_{n}.parquet", "my-{part}.{n}.parquet"])
def test_a_clone_from_the_hub_with_shards(tmp_path: Path, names: str) -> None:
    _, parts = saved(tmp_path)
    (tmp_path / "clone" / "data").mkdir(parents=True)
    (tmp_path / "clone" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    for part, rows in parts.items():
        for n in range(2):
            shard = rows.shard(2, n, contiguous=True)
            shard.to_parquet(tmp_path / "clone" / "data" / names.format(part=part, n=n))
    data = load_dataset(str(tmp_path / "clone"))
    assert same_rows(data), "the names of the classes are in the files' schema"
    assert {part: len(split.texts) for part, split in data.splits.items()} == {"train": 30, "dev": 15, "test": 15}


def test_a_clone_with_a_folder_a_configuration_names_them(tmp_path: Path) -> None:
    for name in ("mrpc", "rte"):
        (tmp_path / "glue" / name).mkdir(parents=True)
        (tmp_path / "glue" / name / "train.csv").write_text(table(), encoding="utf-8")
    with pytest.raises(DataError, match=r"Folders with data files, each of which can be given: mrpc, rte"):
        load_dataset(str(tmp_path / "glue"))
    assert same_rows(load_dataset(str(tmp_path / "glue" / "rte")))
