"""What was killed goes on: each row once, the same bytes as undisturbed; what has changed meanwhile is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bantam.errors import BantamError, DataError, UserError
from bantam.label import run as label_run
from bantam.label.place import place
from bantam.label.state import Ledger
from serving.repository import Version
from tests.label.conftest import sentences, write_corpus
from tests.label.test_label import label, read

ROOT = Path(__file__).parents[2]
ROWS, SHARD = 3_000, 20


def command(source: Path | str, target: Path | str, version: Version, *more: str) -> list[str]:
    where = ["--model", version.name, "--repository", str(version.root), "--workers", "2"]
    return [sys.executable, "-m", "bantam", "label", str(source), str(target), *where, *more]


def start(*words: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )


def parts_done(target: Path) -> int:
    path = target.with_name(f"{target.name}.parts") / "state.json"
    return json.loads(path.read_text(encoding="utf-8"))["parts"] if path.is_file() else -1


def wait(until: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """For at most a minute."""
    began = time.monotonic()
    while not until():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() - began < 60
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_killed_again_and_again(kind: str, published: Version, tmp_path: Path) -> None:
    rows = [{"id": i, "text": text} for i, text in enumerate(sentences(ROWS))]
    source, target = write_corpus(tmp_path / f"in.{kind}", rows), tmp_path / f"out.{kind}"
    label(source, tmp_path / f"undisturbed.{kind}", published, shard_rows=SHARD)
    for more in (0, 3, 40):
        before = max(0, parts_done(target))
        process = start(source, target, published, "--shard-rows", str(SHARD), "--json")
        wait(lambda before=before, more=more: parts_done(target) >= before + more, process)  # type: ignore[misc]
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        target.with_name(f"{target.name}.tmp-{process.pid}").write_text("half", encoding="utf-8")  # had it got so far
        assert not target.exists()
        assert psutil.wait_procs(workers, timeout=20)[1] == [], "nobody is left behind"
    kept = parts_done(target)
    assert 43 <= kept < ROWS / SHARD
    process = start(source, target, published, "--shard-rows", str(SHARD), "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    done = json.loads(out)
    assert (done["rows"], done["resumed_rows"]) == (ROWS, kept * SHARD)
    assert f"{kept * SHARD:,} of {ROWS:,} rows are labelled already" in err
    assert [int(row["id"]) for row in read(target)] == list(range(ROWS))
    assert target.read_bytes() == (tmp_path / f"undisturbed.{kind}").read_bytes()
    here = [f"in.{kind}", f"out.{kind}", f"undisturbed.{kind}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == here
    undisturbed = label(source, tmp_path / f"again.{kind}", published, shard_rows=SHARD)
    assert done["labels"] == undisturbed.labels, "counted over all runs"


class Interrupted(Exception):
    """As if killed there."""


def interrupted(patch: pytest.MonkeyPatch, kind: Any, method: str, calls: int, *words: Any, **options: Any) -> None:
    """Label, but end before a method is called again after so many times."""
    left, real = [calls], getattr(kind, method)

    def counted(*given: Any, **more: Any) -> Any:
        if not left[0]:
            raise Interrupted
        left[0] -= 1
        return real(*given, **more)

    with patch.context() as context:
        context.setattr(kind, method, counted)
        with pytest.raises(Interrupted):
            label(*words, **options)


@pytest.mark.parametrize(
    ("method", "calls"),
    [("_save", 0), ("_save", 1), ("_save", 3), ("add", 2), ("parts", 0), ("finish", 0), ("clear", 0)],
)
def test_wherever_it_ends_it_goes_on(
    method: str, calls: int, published: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_corpus(tmp_path / "in.csv", [{"text": text} for text in sentences(500)])
    label(source, tmp_path / "undisturbed.csv", published)
    interrupted(monkeypatch, Ledger, method, calls, source, tmp_path / "out.csv", published)
    label(source, tmp_path / "out.csv", published)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv", "undisturbed.csv"]


def test_what_has_changed_is_refused(
    published: Version, publish_as: Callable[..., Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = sentences(500)
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    write_corpus(source, [{"text": text, "title": text} for text in texts])
    interrupted(monkeypatch, Ledger, "add", 2, source, target, published, text_column="text")

    def refused(words: str, kind: type[BantamError] = DataError, version: Version = published, **options: Any) -> None:
        with pytest.raises(kind, match=words):
            label(source, target, version, **{"text_column": "text", **options})

    refused(r"out\.csv\.parts was begun with another text column", text_column="title")
    refused(r"begun with another model \(digest", thresholds="0.9")
    refused(r"begun with another model \(digest", version=publish_as())
    refused(r"begun with another --shard-rows \(rows: 100; now 7\)", shard_rows=7)
    content = source.read_bytes()
    source.write_bytes(content.replace(b"i", b"a", 1))
    refused(r"begun with another input \(sha256: .*; now .*\)\. Bring that back to go on, or remove the folder")
    source.write_bytes(content + b"love,love\n")
    refused(r"begun with another input \(rows: 500; now 501\)")
    source.write_bytes(content)
    with Ledger(place(str(target))).locked():
        refused(r"Another process is writing .*out\.csv", UserError)
    (tmp_path / "out.csv.parts" / "state.json").write_text("{", encoding="utf-8")
    refused(r"state\.json is damaged .*Remove .*out\.csv\.parts to begin anew")


def test_a_file_that_shrinks_meanwhile_is_said(
    published: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_corpus(tmp_path / "in.csv", [{"text": text} for text in sentences(50)])
    real = label_run._pool

    def shrinking(*given: Any) -> Any:
        source.write_text("text\nhate\n", encoding="utf-8")
        return real(*given)

    monkeypatch.setattr(label_run, "_pool", shrinking)
    with pytest.raises(DataError, match="had 50 rows when it was looked through, and 1 now"):
        label(source, tmp_path / "out.csv", published)
    assert not (tmp_path / "out.csv").exists()


def test_a_dead_worker_is_an_error_and_the_rest_goes_on(
    published: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write_corpus(tmp_path / "in.csv", [{"text": t} for t in sentences(ROWS)]), tmp_path / "out.csv"
    process = start(source, target, published, "--shard-rows", str(SHARD))
    wait(lambda: parts_done(target) >= 2, process)
    for worker in psutil.Process(process.pid).children():
        if "spawn_main" in " ".join(worker.cmdline()):
            worker.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended with exit code -9" in err
    done = label(source, target, published, shard_rows=SHARD)
    assert done.resumed_rows >= 2 * SHARD
    assert len(read(target)) == ROWS


def test_sigterm_ends_it_in_order(published: Version, tmp_path: Path) -> None:
    source, target = write_corpus(tmp_path / "in.csv", [{"text": t} for t in sentences(ROWS)]), tmp_path / "out.csv"
    process = start(source, target, published, "--shard-rows", str(SHARD))
    wait(lambda: parts_done(target) >= 2, process)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert label(source, target, published, shard_rows=SHARD).resumed_rows >= 2 * SHARD


MEASURED = """
import sys
from rich.console import Console
from bantam.label.request import LabelRequest
from bantam.label.run import label
from bantam.memory import peak_rss_mb

if __name__ == "__main__":
    source, target, root = sys.argv[1:]
    request = LabelRequest(source, target, "tiny", root, workers=1, shard_rows=2000)
    label(request, Console(quiet=True), lambda line: None)
    print(peak_rss_mb())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "out"), [("csv", "jsonl"), ("jsonl", "parquet"), ("parquet", "csv")])
def test_memory_does_not_follow_the_size(kind: str, out: str, published: Version, tmp_path: Path) -> None:
    (tmp_path / "measured.py").write_text(MEASURED, encoding="utf-8")
    texts = sentences(10_000)
    peaks = []
    for times in (1, 12):
        source = write_corpus(tmp_path / f"in-{times}.{kind}", [{"text": f"{t} {'x' * 500}"} for t in texts * times])
        words = [sys.executable, "measured.py", str(source), f"out-{times}.{out}", str(published.root)]
        found = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert found.returncode == 0, found.stderr
        peaks.append(float(found.stdout))
    assert peaks[1] < peaks[0] + 40, "60 MB more of texts, of which none stays"
