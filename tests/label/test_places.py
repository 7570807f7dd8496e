"""Corpora in a bucket, on a cluster, from the command line and in the serving environment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bantam.errors import DataError, RepositoryError, UserError
from bantam.label.progress import duration
from bantam.label.state import Ledger
from serving.remote import Remote
from serving.repository import Version, take
from tests.label.conftest import sentences, write_corpus
from tests.label.test_label import assert_labelled, expected, label, read
from tests.label.test_resume import ROOT, command, interrupted


def put(path: Path, address: str) -> str:
    """The address of a copy in a bucket."""
    import s3fs

    s3fs.S3FileSystem(use_listings_cache=False).put_file(str(path), f"{address}/{path.name}")
    return f"{address}/{path.name}"


def names(address: str) -> list[str]:
    import s3fs

    found = s3fs.S3FileSystem(use_listings_cache=False).find(address)
    return sorted(str(path).partition("/")[2] for path in found)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_in_a_bucket(
    kind: str, bucket: str, published: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    texts = sentences(450)
    here = write_corpus(tmp_path / f"in.{kind}", [{"id": i, "text": text} for i, text in enumerate(texts)])
    source, target = put(here, bucket), f"{bucket}/deep/out.{kind}"
    interrupted(monkeypatch, Ledger, "add", 2, source, target, published)
    state = f"deep/out.{kind}.parts/state.json"
    assert names(bucket) == sorted([f"in.{kind}", state, *(f"{Path(state).parent}/part-0000000{n}" for n in (0, 1))])
    done = label(source, target, published)
    assert (done.rows, done.resumed_rows) == (450, 200)
    assert names(bucket) == [f"deep/out.{kind}", f"in.{kind}"]
    s3fs.S3FileSystem(use_listings_cache=False).get_file(target, str(tmp_path / f"out.{kind}"))
    assert_labelled(read(tmp_path / f"out.{kind}"), expected(published, texts))
    label(here, tmp_path / f"local.{kind}", published)
    assert (tmp_path / f"out.{kind}").read_bytes() == (tmp_path / f"local.{kind}").read_bytes()
    with pytest.raises(DataError, match="is there already"):
        label(source, target, published)
    with pytest.raises(DataError, match="There is no file"):
        label(f"{bucket}/none.csv", target, published, overwrite=True)
    with pytest.raises(RepositoryError, match="Expected a bucket that can be reached"):
        label(source, f"s3://no-such-bucket/out.{kind}", published)


def test_nothing_is_put_in_a_bucket_that_is_not_whole(
    bucket: str, published: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bantam.label import output

    source = write_corpus(tmp_path / "in.csv", [{"text": text} for text in sentences(50)])

    def half(parts: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(output.Output, "put_together", lambda self, parts, file: half(parts, file))
        with pytest.raises(KeyboardInterrupt):
            label(source, f"{bucket}/out.csv", published)
    assert "out.csv" not in names(bucket)
    assert label(source, f"{bucket}/out.csv", published).resumed_rows == 50


def test_a_model_in_a_bucket(bucket: str, published: Version, tmp_path: Path) -> None:
    remote = Remote(f"{bucket}/models")
    remote.upload(take(published.folder, tmp_path / "staged", "tiny"))
    remote.promote("tiny", 1)
    texts = sentences(30)
    source = write_corpus(tmp_path / "in.csv", [{"text": text} for text in texts])
    done = label(source, tmp_path / "out.csv", published, repository=remote.url)
    assert done.model == "tiny, version 1"
    assert_labelled(read(tmp_path / "out.csv"), expected(published, texts))


@pytest.mark.slow
def test_on_a_ray_cluster(published: Version, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is in no environment of the tests: pip install '.[ray]'")
    texts = sentences(1000)
    source = write_corpus(tmp_path / "in.csv", [{"text": text} for text in texts])
    label(source, tmp_path / "here.csv", published)
    done = label(source, tmp_path / "out.csv", published, ray="local")
    assert done.rows == 1000
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_without_ray_it_says_what_to_install(
    published: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    source = write_corpus(tmp_path / "in.csv", [{"text": "hate"}])
    with pytest.raises(UserError, match=r"pip install '\.\[ray\]'"):
        label(source, tmp_path / "out.csv", published, ray="local")


def test_without_pyarrow_it_says_what_to_install(
    published: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_corpus(tmp_path / "in.csv", [{"text": "hate"}])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install '\.\[parquet\]'"):
        label(source, tmp_path / "out.parquet", published)


def test_the_command(published: Version, publish_as: Callable[..., Version], tmp_path: Path) -> None:
    rows = [{"body": text, "id": i} for i, text in enumerate(["i love it", "", "hate"])]
    source = write_corpus(tmp_path / "in.csv", rows)

    def ran(*more: str) -> subprocess.CompletedProcess[str]:
        words = command(source, tmp_path / "out.jsonl", published, *more)
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)

    found = ran("--json", "--text", "id")
    assert (found.returncode, json.loads(found.stdout)["labelled"]) == (0, 3)
    found = ran("--text-column", "none", "--json", "--overwrite")
    assert found.returncode == 2
    assert json.loads(found.stdout)["error"]["type"] == "DataError"
    assert "has no column 'none'. Columns: body, id; --text-column names one." in found.stderr
    found = ran("--text", "body", "--overwrite")
    assert (found.returncode, found.stdout) == (0, "")
    assert "3 of 3 rows, " in found.stderr
    assert "rows without text, which have no labels and scores: 1\n" in found.stderr
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == ["0", "1", "2"]


@pytest.mark.triton
def test_the_serving_environment_is_enough(published: Version, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.csv", [{"text": text} for text in sentences(50)])
    words = command(source, tmp_path / "out.jsonl", published)
    python = ROOT / ".venv-serving" / "bin" / "python"
    found = subprocess.run([str(python), *words[1:]], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert found.returncode == 0, found.stderr
    assert_labelled(read(tmp_path / "out.jsonl"), expected(published, sentences(50)))


def test_durations() -> None:
    assert [duration(seconds) for seconds in (5.4, 150, 7500)] == ["5 s", "2 min", "2 h 5 min"]
