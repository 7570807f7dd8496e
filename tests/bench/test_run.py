"""The whole bench on the tiny classifier: real processes and environments, and every way in which a peer can fail."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bantam.artifact import Artifact
from bantam.errors import StageError, UserError
from bantam.run.score import Scored
from benchmarks.bench import (
    environments,
    limits,
    ours,
    plot,
    prepared,
    quality,
    results,
    run,
    servers,
    table,
    witness,
    workloads,
)
from benchmarks.bench.clients import CLIENTS
from benchmarks.bench.contenders import BASELINE, OURS, Contender
from benchmarks.bench.contenders import CONTENDERS as ALL
from benchmarks.bench.driver import Job
from benchmarks.bench.ours import Ours
from benchmarks.bench.process import PeerFailed, environment
from benchmarks.bench.results import ContenderQuality, Figures, HeadToHead, Results, Row
from benchmarks.bench.state import BenchRun, Settings
from optimizer.data import Dataset, Split
from optimizer.recipe import ServingConfig
from serving.backend.engine import Engine
from tests.conftest import WORDS

PEER = str(Path(__file__).with_name("tiny_peer"))
LABELS = ("joy", "anger", "fear")
LONG = 9
"""Tokens of the longer texts; what is longer than the model takes is left out."""


def contender(name: str, fault: str | None = None, **more: Any) -> Contender:
    """A row with the tiny peer."""
    options = {"fault": fault} if fault else {}
    return Contender(name, PEER, more.pop("environment", OURS), ("numpy",), "copy", options, **more)


CONTENDERS = (
    contender(BASELINE),
    contender("no environment", environment="absent"),
    *(contender(fault, fault) for fault in ("prepare", "load", "shape", "values", "other weights")),
    contender("server", kind="server", protocol="json"),
    contender("other server", "other weights", kind="server", protocol="json"),
    contender("int8 server", kind="server", protocol="json", precision="int8"),
    contender("no server", "serve", kind="server", protocol="json"),
)


@pytest.fixture(scope="module")
def tiny(tiny_artifact: Artifact) -> Ours:
    """The tiny classifier as checkpoint, and as Bantam's one variant, which is not served here."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(180)]
    engine = Engine(tiny_artifact.folder)
    scores = engine.probabilities(texts)
    targets = (scores > np.median(scores, axis=0)).astype(np.uint8)
    parts = {"train": slice(0, 60), "dev": slice(60, 120), "test": slice(120, 180)}
    splits = {name: Split(tuple(texts[part]), targets[part]) for name, part in parts.items()}
    labels = tiny_artifact.manifest.signature.labels
    data = Dataset("tiny", "multi_label", labels, splits, "0" * 64, "none", "none", ())
    thresholds = tuple(np.median(scores, axis=0).tolist())
    scored = Scored(tiny_artifact, scores[parts["dev"]], thresholds, scores[parts["test"]])
    return Ours(data, tiny_artifact, scored, {}, ServingConfig())


@pytest.fixture
def start(tiny: Ours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Results, list[str]]]:
    """Runs the bench; returns the results and what it said."""
    monkeypatch.setattr(ours, "make", lambda *_: tiny)
    monkeypatch.setattr(run, "CONTENDERS", CONTENDERS)
    monkeypatch.setattr(quality, "KNOWN_TEXTS", 20)
    monkeypatch.setattr(workloads, "LENGTHS", (LONG, 100_000))
    monkeypatch.setattr(workloads, "LONG_TEXTS", 3)
    monkeypatch.setattr(workloads, "known_scores", lambda folder, texts, _: Engine(folder).probabilities(texts))
    monkeypatch.setattr(limits, "TRY_S", 0.01)
    monkeypatch.setattr(limits, "SQUARE", 256)
    monkeypatch.setattr(limits, "COPY_BYTES", 2**24)

    def begin(**more: Any) -> tuple[Results, list[str]]:
        said: list[str] = []
        settings = Settings(rounds=2, texts=10, seconds=0.2, build=tmp_path, **more)
        return run.bench(settings, said.append), said

    return begin


def test_who_fails_is_a_row_and_the_others_go_on(start: Any, tmp_path: Path) -> None:
    found, said = start()
    rows = {row.name: row for row in found.rows}
    failures = {name: (row.failures[0].stage, row.failures[0].reason) for name, row in rows.items() if row.failures}
    for name in ("other weights", "other server"):
        stage, reason = failures.pop(name)
        assert (stage, reason.split(":")[0]) == ("scores", f"texts of {LONG} tokens")
        assert rows[name].longer == {}
    assert failures == {
        "no environment": ("install", "environments/absent.txt is not there"),
        "prepare": ("prepare", "RuntimeError: No converter for TinyModel"),
        "load": ("load", "its process was killed (signal 9): usually a lack of memory"),
        "shape": ("scores", "ValueError: scores wrong: got shape [20, 2], expected [20, 3] [texts, labels]"),
        "values": ("scores", "ValueError: scores wrong: got nan to nan, expected probabilities from 0 to 1"),
        "no server": ("serve", "OSError: address family not supported"),
    }
    good = rows[BASELINE]
    assert good.quality is not None
    assert good.quality.max_score_difference < 1e-6
    assert good.in_process is not None
    assert good.in_process.samples == 2 * 10
    assert 0 < good.in_process.p50_ms <= good.in_process.p99_ms
    assert list(good.longer) == [LONG]
    assert good.longer[LONG]["in_process"].samples == 2 * 3
    assert good.longer[LONG]["in_process"].texts_per_s > 1
    assert good.limit is not None
    assert good.limit["macs"] == 48
    _served_as_the_scores_allow(rows, good.quality, tmp_path)
    assert "does not compute what PyTorch does" in rows["other weights"].notes[0]
    assert rows["other weights"].in_process is not None
    assert set(found.steps_s) == {"checkpoint and Bantam's variants", *run.STEPS}
    _same_figures_in_json_and_table(found, tmp_path)
    assert not [each for each in psutil.Process().children(recursive=True) if PEER in " ".join(each.cmdline())]

    again, said = start()
    prepared_again = {line.split(" is prepared")[0].strip() for line in said if "is prepared" in line}
    assert prepared_again == {"prepare"}
    scored_again = {line.split(" is scored")[0].strip() for line in said if "is scored" in line}
    assert scored_again == {"load-sample", "shape-sample", "values-sample"}
    assert {row.name: row.quality for row in again.rows} == {row.name: row.quality for row in found.rows}


def _served_as_the_scores_allow(rows: dict[str, Row], base: ContenderQuality, folder: Path) -> None:
    """Only what is in fp32 and answers as PyTorch does is asked some texts instead of all."""
    same, other, int8 = rows["server"], rows["other server"], rows["int8 server"]
    assert same.in_process is None
    assert same.served is not None
    assert same.served.samples == 20
    assert same.longer[LONG]["served"].samples == 2 * 3
    assert same.served.texts_per_s > 1
    assert same.served.peak_rss_mb is not None
    assert same.served.peak_rss_mb > 10
    assert same.quality is not None
    assert same.quality.max_score_difference < 1e-6
    assert same.quality == dataclasses.replace(base, max_score_difference=same.quality.max_score_difference, same_on=20)
    assert not same.notes
    assert other.quality is not None
    assert other.quality.same_on is None
    assert "does not compute what PyTorch does" in other.notes[0]
    assert int8.quality is not None
    assert int8.quality.same_on is None
    kept = sorted(each.name for each in (folder / "bench/scores").iterdir() if "server" in each.name)
    assert kept == [
        "int8-server-dev-served", "int8-server-test-served", "other-server-sample-served",
        "other-server-test-served", "server-sample-served",
    ]  # fmt: skip


def _same_figures_in_json_and_table(found: Results, folder: Path) -> None:
    results.write(found, folder / "bench.json")
    raw = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    text = table.markdown(found)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    longer = [line for line in cells if len(line) == 4 and line[1].replace(".", "").isdigit()]
    for row in raw["rows"]:
        for where, place in (("in_process", 3), ("served", 3)):
            if row[where]:
                p50, p99 = row[where]["p50_ms"], row[where]["p99_ms"]
                lines = [line for line in cells if line[0] == row["name"] and line[place] == f"{p50:.2f} / {p99:.2f}"]
                assert len(lines) == 1, row["name"]
                assert lines[0][1] == f"{row['quality']['macro_f1']:.3f}"
                assert f"{row[where]['texts_per_s']:.0f}" in lines[0]
        for tokens, figures in row["longer"].items():
            assert [line[1] for line in longer if line[0] == row["name"]] == [
                f"{figures[where]['p50_ms']:.2f}" for where in figures
            ]
            assert tokens == str(LONG)
        for failure in row["failures"]:
            assert f"{row['name']}: FAILED at {failure['stage']}: {failure['reason']}" in text
    assert [path.name for path in plot.draw(found, folder)] == ["bench.svg", "bench.png"]
    assert (folder / "bench.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize(("shift", "notes"), [(0.0, 0), (0.01, 1)])
def test_a_server_of_bantam_that_answers_otherwise_than_in_process_is_named(
    tiny: Ours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float, notes: int
) -> None:
    """What was scored in process may be kept from other code than what serves."""
    each = contender("ours", protocol="triton-grpc")
    own = environments.make(OURS, tmp_path, print)
    ready = prepared.own(each, own, tiny.checkpoint, Job(), tmp_path)
    nothing_yet = Results("", "", "quick", "tiny", "tiny", "", {}, threads=2, rounds=1, texts=1, tokens=1)
    bench = BenchRun(Settings(build=tmp_path), print, tiny, nothing_yet)
    bench.rows["ours"], bench.ready["ours"] = _row("ours", 1.0, mine=True), ready
    bench.test_scores["ours"] = tiny.baseline.on("test")
    monkeypatch.setattr(servers, "scored", lambda _, texts: tiny.baseline.on("test")[: len(texts)] + shift)
    quality.judge_served(bench, "ours", servers.Running(0, 0, "triton-grpc", LABELS))
    assert len(bench.rows["ours"].notes) == notes
    assert all(
        "served scores differ from those in process by up to 1.0e-02" in note for note in bench.rows["ours"].notes
    )


def test_an_unknown_name_is_refused_before_any_work(start: Any) -> None:
    with pytest.raises(UserError, match=r"Got --only 'nobody', no part of any contender's name"):
        start(only=("nobody",))


def test_only_some_take_part(start: Any) -> None:
    found, _ = start(only=("pytorch",))
    assert [row.name for row in found.rows] == [BASELINE]


def _prepare(root: Path, artifact: Artifact, options: dict[str, Any]) -> prepared.Prepared:
    environment = environments.make(OURS, root / "env", print)
    peer = dataclasses.replace(contender("tiny"), options=options)
    return prepared.prepare(peer, environment, artifact, Job(labels=list(LABELS)), root, print)


def _prepare_and_be_killed(root: Path, artifact: Artifact) -> None:
    _prepare(root, artifact, {"fault": "bench killed", "bench": os.getpid()})


def test_a_bench_killed_while_a_peer_is_prepared_goes_on(tiny_artifact: Artifact, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_prepare_and_be_killed, args=(tmp_path, tiny_artifact))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "prepared/tiny").exists()
    assert list(tmp_path.glob("prepared/tiny.tmp-*"))
    prepared.discard(tmp_path)
    assert not list(tmp_path.glob("prepared/*"))
    done = _prepare(tmp_path, tiny_artifact, {})
    assert (done.folder / "model.onnx").exists()
    (done.folder / "model.onnx").write_bytes(b"damaged")
    assert (_prepare(tmp_path, tiny_artifact, {}).folder / "model.onnx").stat().st_size > 100


SERVE_AND_WAIT = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from benchmarks.bench import process, servers
from benchmarks.bench.guardian import Guardian
from tests.bench.test_run import LABELS, _prepare, contender
import dataclasses
from bantam.artifact import Artifact
with Guardian() as guardian, ExitStack() as stack:
    done = _prepare(Path(sys.argv[1]), Artifact.load(Path(sys.argv[2])), {})
    done = dataclasses.replace(done, contender=contender("tiny", protocol="json"))
    running, _ = servers.start(done, LABELS, Path(sys.argv[1]), stack, guardian)
    process.pause(running.pid)
    print(running.pid, flush=True)
    time.sleep(60)
"""


def test_a_killed_bench_leaves_no_stopped_server_behind(tiny_artifact: Artifact, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    bench = subprocess.Popen(
        [sys.executable, "-c", SERVE_AND_WAIT, str(tmp_path), str(tiny_artifact.folder)],
        stdout=subprocess.PIPE, text=True, cwd=root,
    )  # fmt: skip
    assert bench.stdout is not None
    lines = iter(bench.stdout.readline, "")
    server = psutil.Process(int(next(line for line in lines if line.strip().isdigit())))
    assert server.status() == psutil.STATUS_STOPPED
    bench.kill()
    bench.wait()
    bench.stdout.close()
    server.wait(10)
    assert not server.is_running()


def _wheel(folder: Path) -> Path:
    """A package of one empty module."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny/__init__.py", "")
        file.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def test_an_environment_that_cannot_be_made_says_why_and_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = tmp_path / "broken.txt"
    pins.write_text(f"# for a test\nnothing @ file://{tmp_path}/nothing-1.0-py3-none-any.whl\n")
    with pytest.raises(PeerFailed, match=r"^install: ERROR: .*nothing-1.0") as failed:
        environments.make("broken", tmp_path / "env", print, pins)
    assert failed.value.stage == "install"
    assert not (tmp_path / "env/broken" / environments.STAMP).exists()
    pins.write_text(f"tiny @ file://{_wheel(tmp_path)}\n")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # of the user's shell; a peer would compile at each start
    said: list[str] = []
    made = environments.make("broken", tmp_path / "test/env", said.append, pins)
    assert made.versions["tiny"] == "1.0"
    assert list(made.python.parents[1].glob("lib/*/site-packages/tiny/__pycache__/*.pyc"))
    assert "PYTHONDONTWRITEBYTECODE" not in environment(made.python)
    assert environments.make("broken", tmp_path / "test/env", said.append, pins) == made
    assert len(said) == 1


def _row(name: str, p50: float, *, mine: bool = False, drop: float = 0.0, high: float = 0.0) -> Row:
    figures = Figures(p50, 2 * p50, 3 * p50, 10, 100.0, 1.0, 100.0)
    found = ContenderQuality(0.5, 0.6, drop, (-high, high), 0.0)
    return Row(name, mine, "fp32", OURS, {}, "steps", "json", quality=found, in_process=figures, served=figures)


def test_our_best_within_the_budget_meets_the_best_peer_within_the_same() -> None:
    rows = [
        _row("ours", 1.0, mine=True, drop=0.5, high=1.5),
        _row("ours, too lossy", 0.5, mine=True, drop=1.5, high=1.9),
        _row("peer", 2.9),
        _row("peer, perhaps too lossy", 1.5, drop=0.9, high=2.1),
    ]
    found = results.compare(rows)
    assert found["in_process"] == HeadToHead("ours", "peer", 1.0, 2.9, 2.9, 2.5, True)
    assert found["served"] == HeadToHead("ours", "peer", 1.0, 2.9, 2.9, 3.0, False)
    assert results.compare(rows[2:]) == {}


def test_recipes_that_start_from_different_checkpoints_are_refused(make_artifact: Callable[..., Artifact]) -> None:
    class OneRun:
        def __init__(self, artifact: Artifact) -> None:
            self.artifacts, self.folder = {"baseline": artifact}, artifact.folder

    runs: Any = [OneRun(make_artifact()), OneRun(make_artifact(labels=("joy", "anger")))]
    with pytest.raises(StageError, match=re.escape("expected one for all contenders")):
        ours.gather(runs)


@pytest.mark.parametrize("name", sorted({each.environment for each in ALL} - {OURS} | {witness.PINS}))
def test_every_environment_is_pinned_exactly(name: str) -> None:
    lines = (environments.PINS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin)] == []


def test_every_contender_has_its_file_and_a_client() -> None:
    assert len({each.slug for each in ALL}) == len({each.name for each in ALL}) == len(ALL)
    for each in ALL:
        assert each.file.exists(), each.name
        assert each.kind == "in-process" or each.protocol in CLIENTS, each.name
