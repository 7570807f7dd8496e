"""Each way in which data can be unusable, with the message that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bantam.errors import DataError
from optimizer.data import BUNDLED, load_dataset
from tests.optimizer.data_files import write_jsonl


def rows(n: int = 60) -> list[dict[str, Any]]:
    return [{"text": f"text number {i}", "label": ("spam", "ham", "ham")[i % 3]} for i in range(n)]


def test_unknown_name_lists_the_known_ones(no_hub: None) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset("goemotion")
    for name in BUNDLED:
        assert name in str(caught.value)
    assert "out of reach" in str(caught.value)


def test_missing_file_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(DataError, match=r"no data file 'reviews\.csv'"):
        load_dataset("reviews.csv")


BAD: dict[str, tuple[str, bytes, str]] = {
    "empty file": ("d.csv", b"", r"d\.csv is empty"),
    "header only": ("d.csv", b"text,label\n", r"has no rows, only the columns text, label"),
    "no label column": ("d.csv", b"text,mood\nhi,a\n", r"no label column that Bantam knows\. Columns: text, mood"),
    "no text column": ("d.csv", b"words,label\nhi,a\n", r"no text column that Bantam knows\. Columns: words, label"),
    "not UTF-8": ("d.csv", b"text,label\nhi,a\ncaf\xe9,b\n", r"line 3: not UTF-8 \(byte 0xe9\)"),
    "one class": ("d.csv", b"text,label\n" + b"".join(b"t%d,a\n" % i for i in range(9)), r"one label \('a'\)"),
    "no label in a row": (
        "d.csv",
        b"text,label\nhi,a\nho,\nhu,b\n",
        r"1 rows have no 'label': .*d\.csv, line 3\. Label or",
    ),
    "too many fields": ("d.csv", b"text,label\nhi, you,a\n", r"line 2: 3 fields, but the header has 2"),
    "open quote": ("d.csv", b'text,label\n"hi,a\n', r"line 2: .*Is a quote left open"),
    "same name twice": ("d.csv", b"text,text\nhi,a\n", r"two columns have the same name"),
    "unknown suffix": ("d.xlsx", b"PK", r"cannot read '\.xlsx'\. Save the sheet as CSV \(UTF-8\)"),
    "not JSON": ("d.jsonl", b'{"text": "a", "label": 1}\n{oops\n', r"line 2: not JSON"),
    "no object": ("d.jsonl", b"[1]\n[2]\n", r"line 1: list, expected an object"),
    "mixed labels": (
        "d.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n',
        r"mixes types.*line 2: 'x'",
    ),
    "number as text": ("d.jsonl", b'{"text": 7, "label": "x"}\n', r"line 1: the text is int \(7\)"),
    "object as label": ("d.jsonl", b'{"text": "a", "label": {"b": 1}}\n', r"line 1: the label is \{'b': 1\}"),
    "nothing as label": ("d.jsonl", b'{"text": "a", "labels": ["b", null]}\n', r"line 1: the label is \['b', None\]"),
    "no Parquet": ("d.parquet", b"PAR0", r"cannot be read as Parquet"),
    "some lists": (
        "d.csv",
        b'text,label\na,"[""x""]"\nb,"[y, ]"\n',
        r"mixes types.*line 2.*list.*line 3: '\[y, \]' \(str\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_file(tmp_path: Path, case: str) -> None:
    name, content, message = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(str(tmp_path / name))


def test_folder_without_train(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", rows(9))
    write_jsonl(tmp_path / "more.jsonl", rows(9))
    with pytest.raises(DataError, match=r"has no train file; data files found: more\.jsonl, test\.jsonl"):
        load_dataset(str(tmp_path))


def test_what_the_hub_library_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(hub_id: str, configuration: str | None) -> None:
        raise ValueError(f"Config name is missing. Please pick one: ['sst2', 'mrpc'] ({hub_id}, {configuration})")

    monkeypatch.setattr("optimizer.data.hub.require_hub", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"nyu-mll/glue cannot be loaded: .*pick one: \['sst2', 'mrpc'\]"):
        load_dataset("nyu-mll/glue")
