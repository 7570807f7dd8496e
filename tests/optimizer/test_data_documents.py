"""JSON documents of any shape, and exports of annotation tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bantam.errors import DataError
from optimizer.data import load_dataset
from tests.optimizer.data_files import ROWS, same_rows, texts, write_jsonl

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
    write_jsonl(tmp_path / "e.jsonl", rows)
    assert any("were rejected or ignored" in note for note in load_dataset(str(tmp_path / "e.jsonl")).notes)
