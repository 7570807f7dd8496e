"""Files as they lie around: spreadsheets' encodings and delimiters, JSON documents, saved sets, annotation exports."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bantam.errors import DataError
from optimizer.data import Columns, Dataset, load_dataset
from optimizer.data.files import read_texts

ROWS = [{"text": f"text number {i} café", "label": ("spam", "ham", "ham")[i % 3]} for i in range(60)]


def table(delimiter: str = ",", end: str = "\n") -> str:
    return end.join([f"text{delimiter}label", *(f"{row['text']}{delimiter}{row['label']}" for row in ROWS), ""])


def texts(data: Dataset) -> set[str]:
    return {text for split in data.splits.values() for text in split.single}


def same_rows(data: Dataset) -> bool:
    found = {
        (text, data.labels[target])
        for split in data.splits.values()
        for text, target in zip(split.single, split.targets, strict=True)
    }
    return found == {(row["text"], row["label"]) for row in ROWS}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encodings_and_delimiters_of_spreadsheets(tmp_path: Path, encoding: str, delimiter: str) -> None:
    (tmp_path / "d.csv").write_bytes(table(delimiter, "\r\n").encode(encoding))
    assert same_rows(load_dataset(str(tmp_path / "d.csv")))


def test_big_endian_with_a_mark_and_json_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"\xfe\xff" + table().encode("utf-16-be"))
    assert same_rows(load_dataset(str(tmp_path / "d.csv")))
    (tmp_path / "d.jsonl").write_bytes("".join(json.dumps(row) + "\n" for row in ROWS).encode("utf-16"))
    assert same_rows(load_dataset(str(tmp_path / "d.jsonl")))


@pytest.mark.parametrize(("suffix", "packed"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_compressed_files(tmp_path: Path, suffix: str, packed: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"reviews.csv{suffix}"
    path.write_bytes(packed(table().encode()))
    data = load_dataset(str(path))
    assert same_rows(data)
    assert data.name == "reviews"
    path.write_bytes(packed(table().encode())[:60])
    with pytest.raises(DataError, match="is damaged or cut off"):
        load_dataset(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\ncafé,a\n".encode("cp1252"), r"line 2: not UTF-8 \(byte 0xe9\).*iconv -f WINDOWS-1252"),
        (b"\xff\xfet\x00e\x00x", r"not UTF-16, which its first bytes promise"),
        (b"PK\x03\x04\x00\x00\x00\x00\x08\x00\x08\x08", r"has zero bytes and is no text"),
        (b"text,label\n" + b"one\x00,a\n" * 20, r"has zero bytes and is no text"),
        (b"text,label\n" + b",a\n,b\n" * 20, r"no row has a text in 'text'\. --text-column names another"),
    ],
)
def test_bytes_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(str(tmp_path / "d.csv"))


@pytest.mark.parametrize("header", ["text, label", " Text ,LABEL", '"text", "label"', "\ufefftext,label"])
def test_spaces_and_case_of_header_names(tmp_path: Path, header: str) -> None:
    space = " " if ", " in header else ""
    lines = [f'"text number {i}, café",{space}"{"ab"[i % 2]}"' for i in range(60)]
    (tmp_path / "d.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.csv"))
    assert data.labels == ("a", "b")
    assert "text number 7, café" in texts(data)


def test_excels_own_line_before_the_header(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("sep=;\n" + table(";"), encoding="utf-8")
    assert same_rows(load_dataset(str(tmp_path / "d.csv")))
    (tmp_path / "d.csv").write_text("\n\n" + table(), encoding="utf-8")
    assert same_rows(load_dataset(str(tmp_path / "d.csv")))


def test_the_format_of_fasttext(tmp_path: Path) -> None:
    lines = [f"__label__{row['label']} {row['text']}\n" for row in ROWS]
    (tmp_path / "d.txt").write_text("".join(lines), encoding="utf-8")
    assert same_rows(load_dataset(str(tmp_path / "d.txt")))
    (tmp_path / "d.txt").write_text("__label__a __label__b both\n" + "".join(lines), encoding="utf-8")
    assert load_dataset(str(tmp_path / "d.txt")).task == "multi_label"


def test_columns_without_a_name(tmp_path: Path) -> None:
    """The SMS Spam Collection as it is on Kaggle; and pandas' index, which has no name either."""
    lines = [f'{("ham", "spam")[i % 2]},"text, number {i}",,,' for i in range(60)]
    (tmp_path / "d.csv").write_text("\n".join(["v1,v2,,,", *lines]) + "\n", encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.csv"))
    assert (data.labels, len(texts(data))) == (("ham", "spam"), 60)
    assert "Text column 'v2', label column 'v1'." in data.notes
    lines[3] = "ham,text,cut in two,,"
    (tmp_path / "d.csv").write_text("\n".join(["v1,v2,,,", *lines]) + "\n", encoding="utf-8")
    notes = load_dataset(str(tmp_path / "d.csv")).notes
    assert any("1 rows have something in a column without a name" in note for note in notes)
    lines = [f"{i},text number {i},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "d.csv").write_text("\n".join([",text,label", *lines]) + "\n", encoding="utf-8")
    assert load_dataset(str(tmp_path / "d.csv")).labels == ("a", "b")


def test_unknown_columns_are_refused_with_the_options_that_name_them(tmp_path: Path) -> None:
    lines = [f"a longer text with number {i},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "d.csv").write_text("\n".join(["col1,col2", *lines]) + "\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"name the text column with --text-column 'col1' .* --label-column, or add a he"
    ):
        load_dataset(str(tmp_path / "d.csv"))
    data = load_dataset(str(tmp_path / "d.csv"), columns=Columns(text="col1", label="col2"))
    assert data.labels == ("a", "b")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('"He said ""{i}"" twice"\tpos', 'He said "7" twice'),
        ('"two\nlines {i}"\tpos', "two\nlines 7"),
        ('"all {i}"\t"pos"', "all 7"),
        ('"a, {i}"\tpos', "a, 7"),
        ('"a, {i}\tpos', '"a, 7'),
        ('"Stop!" he said {i}\tpos', '"Stop!" he said 7'),
        ('"Stop!" {i} "Go!"\tpos', '"Stop!" 7 "Go!"'),
        ('he said "{i}"\tpos', 'he said "7"'),
    ],
)
def test_quotes_of_a_tsv_are_the_writers_or_the_texts(tmp_path: Path, written: str, text: str) -> None:
    lines = [written.replace("{i}", str(i)) if i % 2 == 1 else f"plain {i}\tneg" for i in range(60)]
    if written.endswith('"'):
        lines = [written.replace("{i}", str(i)).replace("pos", ("neg", "pos")[i % 2]) for i in range(60)]
    (tmp_path / "d.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.tsv"))
    assert text in texts(data)
    assert data.labels == ("neg", "pos")


def test_a_sentence_in_quotes_keeps_them_beside_one_with_a_lone_quote(tmp_path: Path) -> None:
    lines = [f'"Sentence {i}"\ta' if i % 2 else f'"Open {i}\tb' for i in range(60)]
    (tmp_path / "d.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    assert {'"Sentence 7"', '"Open 8'} <= texts(load_dataset(str(tmp_path / "d.tsv")))


COLUMNS = {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ("text", "label")}
DOCUMENTS: dict[str, Any] = {
    "records": ROWS,
    "columns": COLUMNS,
    "index": {str(i): row for i, row in enumerate(ROWS)},
    "split": {"columns": ["text", "label"], "index": list(range(60)), "data": [list(row.values()) for row in ROWS]},
    "table": {
        "schema": {"fields": [{"name": "index"}, {"name": "text"}]},
        "data": [{"index": 1, **row} for row in ROWS],
    },
    "list": {name: [row[name] for row in ROWS] for name in ("text", "label")},
    "data": {"version": "1", "data": ROWS},
    "examples": {"meta": {"a": 1}, "examples": ROWS},
}


@pytest.mark.parametrize("orient", DOCUMENTS)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_documents(tmp_path: Path, orient: str, indent: int | None, suffix: str) -> None:
    path = tmp_path / f"d{suffix}"
    path.write_text(json.dumps(DOCUMENTS[orient], indent=indent), encoding="utf-8")
    assert same_rows(load_dataset(str(path)))


def test_a_document_with_a_list_a_split(tmp_path: Path) -> None:
    parts = {"train": ROWS[:30], "validation": ROWS[30:45], "test": ROWS[45:]}
    (tmp_path / "d.json").write_text(json.dumps(parts), encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.json"))
    assert same_rows(data)
    assert {part: len(split.texts) for part, split in data.splits.items()} == {"train": 30, "dev": 15, "test": 15}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1, "b": [2], **{f"key {i}": "long " * 1000 for i in range(99)}}, r"one object with the keys 'a', 'b', "),
        ([["text", "label"], ["a", "b"]], r"line 1: list, expected an object"),
        ("text", r"str, expected a list of objects"),
    ],
)
def test_other_documents_are_refused_in_a_line(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "d.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(tmp_path / "d.json"))
    assert len(str(caught.value)) < 600


def test_half_an_emoji_is_replaced_and_said(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": f"text {i} \ud83d" if i % 10 == 5 else f"text {i}", "label": i % 2}) for i in range(60)
    ]
    lines[0] = r'{"text": "whole \ud83d\ude00", "label": 0}'
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.jsonl"))
    assert {"text 5 \ufffd", "whole \U0001f600"} <= texts(data)
    for text in texts(data):
        text.encode()
    assert any(note.startswith("6 texts of") and "the first in line 6" in note for note in data.notes)


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
    features = datasets.Features({"text": datasets.Value("string"), "labels": names})
    rows = [{"text": f"text {i}", "labels": [[0], [1, 2], []][i % 3]} for i in range(60)]
    whole = datasets.Dataset.from_list(rows, features=features)
    if written == "disk":
        whole.save_to_disk(tmp_path / "d")
    else:
        whole.to_parquet(tmp_path / "d" / "train.parquet")
    data = load_dataset(str(tmp_path / "d"))
    assert (data.task, data.labels) == ("multi_label", ("joy", "fear", "anger"))


@pytest.mark.parametrize("kind", ["parquet", "disk"])
def test_classes_that_the_file_numbers_keep_their_order(tmp_path: Path, kind: str) -> None:
    """A head without names was trained with these numbers: LABEL_0 is the first class, not the first by name."""
    import datasets

    names = datasets.ClassLabel(names=["World", "Sports", "Business", "Sci/Tech", "never"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    rows = [{"text": f"text {i}", "label": i % 4} for i in range(80)]
    whole = datasets.Dataset.from_list(rows, features=features)
    if kind == "disk":
        whole.save_to_disk(tmp_path / "d")
    else:
        whole.to_parquet(tmp_path / "d" / "train.parquet")
    data = load_dataset(str(tmp_path / "d"))
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


def test_data_is_read_without_torch(tmp_path: Path) -> None:
    """Which takes seconds to import, and memory."""
    (tmp_path / "d.csv").write_text(table(), encoding="utf-8")
    program = f"import sys; from optimizer.data import load_dataset; load_dataset({str(tmp_path / 'd.csv')!r}); "
    found = subprocess.run([sys.executable, "-c", program + "print('torch' in sys.modules)"], capture_output=True)
    assert found.stdout.strip() == b"False", found.stderr


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


EXPORTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "doccano": lambda i: {"id": i, "data": ROWS[i]["text"], "label": [ROWS[i]["label"]]},
    "doccano 1.8": lambda i: {"id": i, "text": ROWS[i]["text"], "label": [ROWS[i]["label"]], "Comments": []},
    "Label Studio": lambda i: {
        "id": i,
        "data": {"text": ROWS[i]["text"]},
        "annotations": [
            {"result": [{"value": {"choices": [ROWS[i]["label"]]}, "from_name": "mood", "type": "choices"}]},
        ],
    },
    "Label Studio JSON-MIN": lambda i: {
        "text": ROWS[i]["text"],
        "id": i,
        "sentiment": ROWS[i]["label"],
        "annotator": 1,
    },
    "Prodigy": lambda i: {
        "text": ROWS[i]["text"],
        "options": [{"id": "spam"}, {"id": "ham"}],
        "accept": [ROWS[i]["label"]],
        "answer": "accept",
    },
    "Prodigy, one label": lambda i: {"text": ROWS[i]["text"], "label": ROWS[i]["label"], "answer": "accept"},
}


@pytest.mark.parametrize("tool", EXPORTS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_exports_of_annotation_tools(tmp_path: Path, tool: str, suffix: str) -> None:
    rows = [EXPORTS[tool](i) for i in range(60)]
    written = json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / f"d{suffix}").write_text(written, encoding="utf-8")
    data = load_dataset(str(tmp_path / f"d{suffix}"))
    assert data.task == "single_label"
    assert same_rows(data)


def test_what_annotators_skipped_is_left_out_and_what_they_disagree_on_refused(tmp_path: Path) -> None:
    tasks = [EXPORTS["Label Studio"](i) for i in range(60)]
    tasks += [{"id": 60, "data": {"text": "open"}, "annotations": []}]
    (tmp_path / "d.json").write_text(json.dumps(tasks), encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.json"))
    assert same_rows(data)
    assert any("1 of 61 rows" in note and "have no annotation" in note for note in data.notes)
    tasks[3]["annotations"] += EXPORTS["Label Studio"](1 if ROWS[3]["label"] == "spam" else 0)["annotations"]
    (tmp_path / "d.json").write_text(json.dumps(tasks), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 4: the annotators of a task disagree"):
        load_dataset(str(tmp_path / "d.json"))
    rows = [{**EXPORTS["Prodigy"](i), "answer": "accept" if i else "ignore"} for i in range(60)]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert any("were rejected or ignored" in note for note in load_dataset(str(tmp_path / "e.jsonl")).notes)


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
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"no label column .*\n.*--label-column 'lable'; --label-column '' says that"):
        load_dataset(str(tmp_path / "d.jsonl"))
    assert not load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(label="")).labelled
    assert load_dataset(str(tmp_path / "d.jsonl"), columns=Columns(label="lable")).labels == ("a", "b")
