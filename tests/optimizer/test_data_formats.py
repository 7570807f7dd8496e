"""Tables as they lie around: spreadsheets' encodings and delimiters, compressed files, headers, quotes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bantam.errors import DataError
from optimizer.data import Columns, load_dataset
from tests.optimizer.data_files import ROWS, same_rows, table, texts


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


def test_data_is_read_without_torch(tmp_path: Path) -> None:
    """Which takes seconds to import, and memory."""
    (tmp_path / "d.csv").write_text(table(), encoding="utf-8")
    program = f"import sys; from optimizer.data import load_dataset; load_dataset({str(tmp_path / 'd.csv')!r}); "
    found = subprocess.run([sys.executable, "-c", program + "print('torch' in sys.modules)"], capture_output=True)
    assert found.stdout.strip() == b"False", found.stderr
