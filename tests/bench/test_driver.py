"""The driver's protocol, with a real peer in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam.artifact import Artifact
from benchmarks.bench.process import PeerFailed, PeerProcess, command, pause, resume
from serving.backend.engine import Engine

PEER = Path(__file__).with_name("tiny_peer.py")
TEXTS = ["I love it!", "you hate this day", "so much fear", "not a day"] * 20


@pytest.fixture
def start(tiny_artifact: Artifact, tmp_path: Path) -> Any:
    """Starts the driver for a job on the tiny classifier, with options."""

    def begin(job: str, *more: str, threads: int = 1, **options: Any) -> PeerProcess:
        labels = list(tiny_artifact.manifest.signature.labels)
        file = tmp_path / "job.json"
        file.write_text(json.dumps({"threads": threads, "labels": labels, "options": options}))
        python, folder = Path(sys.executable), tmp_path / "out" if job == "prepare" else tiny_artifact.folder
        return PeerProcess(command(python, job, PEER, folder, file, *more), tmp_path / "log")

    return begin


def test_a_peer_prepares_and_says_what_ships(start: Any, tiny_artifact: Artifact, tmp_path: Path) -> None:
    with start("prepare", "--checkpoint", str(tiny_artifact.folder)) as process:
        answer = process.answer("prepare")
    assert answer["deployable"] == {
        name: (tiny_artifact.folder / name).stat().st_size for name in ("model.onnx", "tokenizer.json")
    }
    assert (tmp_path / "out/model.onnx").exists()
    assert answer["seconds"] > 0
    assert "libraries print what they like" in (tmp_path / "log").read_text()


def test_a_running_peer_answers_scores_times_and_memory(start: Any, tiny_artifact: Artifact) -> None:
    expected = Engine(tiny_artifact.folder).probabilities(TEXTS)
    with start("run") as process:
        assert process.answer("load")["load_s"] > 0
        np.testing.assert_allclose(process.ask("scores", "scores", TEXTS), expected, atol=1e-6)
        latencies_ms = process.ask("latency", "latencies_ms", TEXTS)
        assert len(latencies_ms) == len(TEXTS)
        assert 0 < min(latencies_ms) <= max(latencies_ms) < 1e3
        assert process.ask("latency", "texts_per_s", TEXTS) > 10
        assert 10 < process.ask("latency", "peak_rss_mb") < 2000
        pause(process.pid)
        resume(process.pid)
        assert len(process.ask("scores", "scores", TEXTS[:1])) == 1


def test_threads_are_set_before_the_peer_is_imported(start: Any) -> None:
    with start("run", threads=3, fault="environment") as process:
        process.answer("load")
        assert np.allclose(process.ask("scores", "scores", TEXTS[:2]), 0.3)


@pytest.mark.parametrize(
    ("fault", "stage", "reason"),
    [
        ("load", "load", "its process was killed (signal 9): usually a lack of memory"),
        ("shape", "scores", "ValueError: scores wrong: got shape [80, 2], expected [80, 3] [texts, labels]"),
        ("values", "scores", "ValueError: scores wrong: got nan to nan, expected probabilities from 0 to 1"),
    ],
)
def test_what_goes_wrong_says_where_and_why(start: Any, fault: str, stage: str, reason: str) -> None:
    def run() -> None:
        with start("run", fault=fault) as process:
            process.answer("load")
            process.ask("scores", "scores", TEXTS)

    with pytest.raises(PeerFailed) as failed:
        run()
    assert (failed.value.stage, failed.value.reason) == (stage, reason)


def test_a_peer_that_hangs_is_given_up(start: Any, tiny_artifact: Artifact, tmp_path: Path) -> None:
    with PeerProcess(["sleep", "60"], tmp_path / "log", timeout_s=0.2) as process:
        with pytest.raises(PeerFailed, match="no answer within 0 s"):
            process.answer("load")
        assert process.poll() is not None


def test_it_can_be_tried_by_hand(tiny_artifact: Artifact) -> None:
    driver = Path(__file__).parents[2] / "benchmarks/bench/driver.py"
    done = subprocess.run(
        [sys.executable, str(driver), "try", str(PEER), "--folder", str(tiny_artifact.folder)],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": ""},
    )  # fmt: skip
    assert np.shape(json.loads(done.stdout)["answer"]["scores"]) == (3, 3)


def test_a_peer_whose_program_nobody_has_installed_says_so(
    tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    peer = Path(__file__).parents[2] / "benchmarks/bench/peers/text_embeddings_inference.py"
    arguments = command(
        Path(sys.executable), "prepare", peer, tmp_path / "out", tmp_path / "no-job",
        "--checkpoint", str(tiny_artifact.folder),
    )  # fmt: skip
    (tmp_path / "no-job").write_text("{}", encoding="ascii")
    with (
        PeerProcess(arguments, tmp_path / "log") as process,
        pytest.raises(PeerFailed, match="text-embeddings-router is not on the PATH"),
    ):
        process.answer("prepare")
