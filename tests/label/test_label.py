"""Corpora of each format, labelled by a real tiny model in worker processes."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bantam.artifact import Artifact
from bantam.client.prediction import Prediction
from bantam.errors import BantamError, DataError, ModelError, RecipeError, RepositoryError
from bantam.label.model import Labeller
from bantam.label.request import LabelRequest
from bantam.label.run import Labelled
from bantam.label.run import label as run
from serving.repository import Version
from tests.label.conftest import THRESHOLDS, sentences, write_corpus

LABELS = ("joy", "anger", "fear")
FORMATS = ("csv", "jsonl", "parquet")
QUIET = Console(quiet=True)


def label(source: Path | str, target: Path | str, version: Version, **options: Any) -> Labelled:
    """With two workers, the published model, and shards of few rows."""
    asked = {"model": version.name, "repository": str(version.root), "workers": 2, "shard_rows": 100, **options}
    return run(LabelRequest(str(source), str(target), **asked), QUIET, print)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an output; lists and numbers in CSV as the other formats have them."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return found
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        for name in row:
            if name.startswith("score_"):
                row[name] = float(row[name]) if row[name] else None
        if row.get("score_joy") is None:
            row["predicted"] = None
        elif row["predicted"] is not None:
            row["predicted"] = row["predicted"].split("|") if row["predicted"] else []
    return rows


def expected(version: Version, texts: list[Any]) -> list[Prediction]:
    """What the engine says, one text at a time."""
    labeller = Labeller(version.folder)
    return [labeller([text])[0] for text in texts]


def assert_labelled(rows: list[dict[str, Any]], said: list[Prediction]) -> None:
    assert len(rows) == len(said)
    for row, each in zip(rows, said, strict=True):
        assert row["predicted"] == each.labels
        assert [row[f"score_{name}"] for name in LABELS] == pytest.approx([each.scores[n] for n in LABELS], rel=1e-5)
        assert row["predicted_version"] == "1"


@pytest.mark.parametrize("out", FORMATS)
@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_to_each_other(kind: str, out: str, published: Version, tmp_path: Path) -> None:
    texts = sentences(250)
    source = write_corpus(tmp_path / f"in.{kind}", [{"id": i, "text": text} for i, text in enumerate(texts)])
    done = label(source, tmp_path / f"out.{out}", published)
    rows = read(tmp_path / f"out.{out}")
    said = expected(published, texts)
    assert_labelled(rows, said)
    assert [str(row["id"]) for row in rows] == [str(i) for i in range(250)]
    assert [row["text"] for row in rows] == texts
    assert (done.rows, done.labelled, done.without_text, done.resumed_rows) == (250, 250, 0, 0)
    assert (done.model, done.version) == ("tiny, version 1", "1")
    assert done.labels == {name: n for name in LABELS if (n := sum(name in each.labels for each in said))}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"in.{kind}", f"out.{out}"])


def test_thresholds_of_the_version_decide_unless_others_are_given(published: Version, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.jsonl", [{"text": text} for text in sentences(100)])
    label(source, tmp_path / "out.jsonl", published)
    found = read(tmp_path / "out.jsonl")
    for row in found:
        names = [name for name, cut in zip(LABELS, THRESHOLDS, strict=True) if row[f"score_{name}"] >= cut]
        assert row["predicted"] == names
    assert len({len(row["predicted"]) for row in found}) > 1
    label(source, tmp_path / "none.jsonl", published, thresholds="1.0")
    assert all(row["predicted"] == [] for row in read(tmp_path / "none.jsonl"))
    with pytest.raises(RecipeError, match="expected a number from 0 to 1"):
        label(source, tmp_path / "bad.jsonl", published, thresholds="7")


def test_pairs(publish_as: Callable[..., Version], published: Version, tmp_path: Path) -> None:
    version = publish_as(pair=True)
    pairs = list(zip(sentences(50), sentences(50, seed=1), strict=True))
    rows: list[dict[str, Any]] = [{"premise": a, "hypothesis": b} for a, b in pairs]
    source = write_corpus(tmp_path / "in.csv", [*rows, {"premise": "i", "hypothesis": ""}])
    done = label(source, tmp_path / "out.csv", version)
    found = read(tmp_path / "out.csv")
    assert_labelled(found[:-1], expected(version, pairs))
    assert (found[-1]["predicted"], done.without_text) == (None, 1)
    label(source, tmp_path / "other.csv", version, text_column="hypothesis", text_pair_column="premise")
    assert_labelled(read(tmp_path / "other.csv")[:-1], expected(version, [(b, a) for a, b in pairs]))
    with pytest.raises(DataError, match=r"reads pairs of texts, and .* only 'premise' was found.*--text-pair-column"):
        label(source, tmp_path / "one.csv", version, text_column="premise")
    with pytest.raises(DataError, match=r"reads single texts, and .* two columns of them, 'premise' and 'hypothesis'"):
        label(source, tmp_path / "single.csv", published)
    assert_labelled(
        read_after(label(source, tmp_path / "named.csv", published, text_column="premise"))[:-1],
        expected(published, [a for a, _ in pairs]),
    )


def read_after(done: Labelled) -> list[dict[str, Any]]:
    return read(Path(done.output))


@pytest.mark.parametrize("out", FORMATS)
def test_one_label_and_numbers(out: str, publish_as: Callable[..., Version], tmp_path: Path) -> None:
    texts = sentences(20)
    source = write_corpus(tmp_path / "in.csv", [{"text": text} for text in texts])
    single = publish_as(task="single_label")
    label(source, tmp_path / f"single.{out}", single)
    found = read(tmp_path / f"single.{out}")
    names = [each.labels[0] for each in expected(single, texts)]
    assert [row["predicted"] for row in found] == ([[name] for name in names] if out == "csv" else names)
    regression = publish_as(task="regression", labels=("stars",))
    done = label(source, tmp_path / f"numbers.{out}", regression)
    rows = read(tmp_path / f"numbers.{out}")
    assert list(rows[0]) == ["text", "predicted", "predicted_version"]
    if out != "csv":
        scores = [each.scores["stars"] for each in expected(regression, texts)]
        assert [row["predicted"] for row in rows] == pytest.approx(scores, rel=1e-5)
    assert done.labels == {}


def test_rows_without_text_keep_their_place(published: Version, tmp_path: Path) -> None:
    cells = ["i love it", "", "  \t", None, "hate"]
    for kind in FORMATS:
        source = write_corpus(tmp_path / f"in.{kind}", [{"n": i, "text": cell} for i, cell in enumerate(cells)])
        done = label(source, tmp_path / f"out.{kind}", published)
        found = read(tmp_path / f"out.{kind}")
        assert [row["predicted"] is None for row in found] == [False, True, True, True, False]
        assert [row["score_joy"] is None for row in found] == [False, True, True, True, False]
        assert (done.rows, done.labelled, done.without_text) == (5, 2, 3)


def test_what_fields_have_in_them_stays(published: Version, tmp_path: Path) -> None:
    cells = ['say "hate"', "a,b", "two\nlines", "mac\rline", "=1+1", "straße 日本 🙂", "x" * 200_000]
    source = tmp_path / "in.csv"
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";", quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "", "Text"], *([i, "?", cell] for i, cell in enumerate(cells))])
    source.write_bytes(text.getvalue().encode("utf-16"))
    label(source, tmp_path / "out.csv", published, shard_rows=3)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][:4] == ["id", "", "Text", "predicted"]
    assert [row[2] for row in rows[1:]] == cells
    label(source, tmp_path / "out.jsonl", published)
    assert [row["Text"] for row in read(tmp_path / "out.jsonl")] == cells


def test_a_line_of_json_stays_as_it_is(published: Version, tmp_path: Path) -> None:
    lines = ['{"id": 1.50, "text": "i love it" }', '{"big":12345678901234567890123,"text":"hate \\ud83d"}', "", "{}"]
    (tmp_path / "in.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    done = label(tmp_path / "in.jsonl", tmp_path / "out.jsonl", published)
    found = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert found[0].startswith('{"id": 1.50, "text": "i love it", "predicted": [')
    assert found[1].startswith('{"big":12345678901234567890123,"text":"hate \\ud83d", "predicted": [')
    assert found[2].startswith('{"predicted": null, ')
    assert (done.rows, done.without_text) == (3, 1)
    label(tmp_path / "in.jsonl", tmp_path / "out.parquet", published)
    first, second, third = read(tmp_path / "out.parquet")
    assert (first["id"], second["big"], second["text"]) == (1.5, "12345678901234567890123", "hate \ufffd")
    assert (third["id"], third["predicted"]) == (None, None)


def test_json_of_mixed_kinds_becomes_columns(published: Version, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "hate", "n": 1, "tags": ["a"], "ok": True, "mixed": 1},
        {"text": "love", "n": 2.5, "late": None, "mixed": "1"},
    ]
    source = write_corpus(tmp_path / "in.jsonl", rows)
    label(source, tmp_path / "out.parquet", published)
    first, second = read(tmp_path / "out.parquet")
    assert [first[name] for name in ("n", "tags", "ok", "mixed", "late")] == [1.0, '["a"]', True, "1", None]
    assert [second[name] for name in ("n", "tags", "ok", "mixed", "late")] == [2.5, None, None, '"1"', None]
    label(source, tmp_path / "out.csv", published)
    assert list(read(tmp_path / "out.csv")[0])[:6] == ["text", "n", "tags", "ok", "mixed", "late"]


def test_parquet_keeps_its_types(published: Version, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    when = [datetime.datetime(2026, 11, 28, 1, 2, 3, tzinfo=datetime.UTC)] * 300
    table = pa.table(
        {
            "text": pa.array(sentences(300)).dictionary_encode(),
            "when": pa.array(when, pa.timestamp("ns", "UTC")),
            "raw": [b"\x00\xff"] * 300,
            "nested": [{"a": [1, 2]}] * 300,
        },
        metadata={"mine": "kept"},
    )
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=77)
    label(tmp_path / "in.parquet", tmp_path / "out.parquet", published)
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names).to_pylist() == table.to_pylist()
    assert [found.schema.field(name).type for name in ("when", "raw", "nested")] == [
        table.schema.field(name).type for name in ("when", "raw", "nested")
    ]
    assert found.schema.metadata[b"mine"] == b"kept"
    assert found.schema.field("score_joy").type == pa.float32()
    label(tmp_path / "in.parquet", tmp_path / "out.jsonl", published)
    row = read(tmp_path / "out.jsonl")[0]
    assert (row["raw"], row["nested"]) == ("AP8=", {"a": [1, 2]})
    assert row["when"].startswith("2026-11-28T01:02:03")


def test_packed_files(published: Version, tmp_path: Path) -> None:
    texts = sentences(250)
    plain = write_corpus(tmp_path / "in.csv", [{"text": text} for text in texts])
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    label(tmp_path / "in.csv.gz", tmp_path / "out.csv.gz", published)
    label(plain, tmp_path / "out.csv", published)
    assert gzip.decompress((tmp_path / "out.csv.gz").read_bytes()) == (tmp_path / "out.csv").read_bytes()


def test_columns_of_an_earlier_labelling_are_replaced(published: Version, tmp_path: Path) -> None:
    said: list[str] = []
    for kind in FORMATS:
        row = {"text": "i love it", "predicted": "old", "predicted_version": "0"}
        source = write_corpus(tmp_path / f"in.{kind}", [row] * 3)
        request = LabelRequest(str(source), str(tmp_path / f"out.{kind}"), "tiny", str(published.root), workers=1)
        done = run(request, QUIET, said.append)
        assert done.replaced_columns == ("predicted", "predicted_version")
        assert [row["predicted_version"] for row in read(tmp_path / f"out.{kind}")] == ["1"] * 3
    assert sum("that are replaced by the model's: predicted, predicted_version" in line for line in said) == 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.csv", "id,body_of_it\n1,hate\n", r"no text column that Bantam knows\. Columns: id, body_of_it"),
        ("in.csv", "text\n" + "hate\n" * 400 + '"open\n', r"line 402: .*Is a quote left open"),
        ("in.csv", "id,text\n" + "1,hate\n" * 400 + "1,a,b\n", r"line 402: 3 fields, but the header has 2"),
        ("in.csv", "text\n" + "hate\n" * 400 + "caf\udce9\n", r"line 402: not UTF-8"),
        ("in.csv", "text,text\na,b\n", "two columns have the same name"),
        ("in.csv", "text\n", "has no rows"),
        ("in.csv", "", "is empty"),
        ("in.jsonl", '{"text": "hate"}\n' * 400 + "{broken\n", r"line 401: not JSON"),
        ("in.jsonl", '{"text": "hate"}\n' * 400 + "[1]\n", r"line 401: list, expected an object"),
        ("in.jsonl", '{"text": "hate"}\n' * 400 + '{"text": 7}\n', r"line 401: the text is int"),
        ("in.parquet", "nothing", "cannot be read as Parquet"),
        ("in.xlsx", "nothing", r"got '\.xlsx', expected one of \.csv, \.tsv, \.jsonl"),
        ("in.json", "[]", r"got '\.json', expected one of"),
    ],
)
def test_what_cannot_be_read_is_said_before_anything_is_labelled(
    name: str, content: str, said: str, published: Version, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError, match=said):
        label(tmp_path / name, tmp_path / "out.csv", published)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_cannot_be_asked(published: Version, make_artifact: Callable[..., Artifact], tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.csv", [{"text": "hate"}])

    def refused(kind: type[BantamError], words: str, target: str = "out.csv", **options: Any) -> None:
        with pytest.raises(kind, match=words):
            label(options.pop("source", source), tmp_path / target, published, **options)

    refused(DataError, "There is no file", source=tmp_path / "none.csv")
    refused(DataError, r"has no column 'body'\. Columns: text; --text-column", text_column="body")
    refused(DataError, "is both input and output", target="in.csv")
    refused(DataError, r"out\.xlsx: got '\.xlsx'", target="out.xlsx")
    refused(DataError, r"got 'no suffix'", target="out")
    refused(RepositoryError, "has no model 'huge', and there is no folder", model="huge")
    refused(DataError, r"out\.csv\.parts cannot be made", target="in.csv/out.csv")
    refused(ModelError, "no thresholds for it.*--thresholds 0.5", model=str(make_artifact().folder))
    (tmp_path / "out.csv").write_text("mine", encoding="utf-8")
    refused(DataError, "is there already.*--overwrite")
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "mine"
    label(source, tmp_path / "out.csv", published, overwrite=True)
    assert len(read(tmp_path / "out.csv")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_a_folder_of_a_version_or_a_variant(
    published: Version, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    texts = sentences(30)
    source = write_corpus(tmp_path / "in.csv", [{"text": text} for text in texts])
    label(source, tmp_path / "version.csv", published, model=str(published.folder))
    assert_labelled(read(tmp_path / "version.csv"), expected(published, texts))
    variant = make_artifact(task="single_label").folder
    done = label(source, tmp_path / "variant.jsonl", published, model=str(variant))
    assert (done.version, read(tmp_path / "variant.jsonl")[0]["predicted_version"]) == ("", None)
    openvino = make_artifact(task="single_label", layout="openvino").folder
    label(source, tmp_path / "openvino.jsonl", published, model=str(openvino))
    scores = [
        [[row[f"score_{name}"] for name in LABELS] for row in read(tmp_path / f"{kind}.jsonl")]
        for kind in ("variant", "openvino")
    ]
    assert np.abs(np.array(scores[0]) - np.array(scores[1])).max() < 1e-4


def test_a_changed_model_is_refused(publish_as: Callable[..., Version], tmp_path: Path) -> None:
    version = publish_as(task="single_label")
    path = version.folder / "model.onnx"
    path.write_bytes(path.read_bytes()[::-1])
    source = write_corpus(tmp_path / "in.csv", [{"text": "hate"}])
    with pytest.raises(RepositoryError, match=r"not as it was published: .*model\.onnx"):
        label(source, tmp_path / "out.csv", version)
