"""``bantam serve`` as it is run: what it writes, whom it speaks with, how it ends, and what it leaves."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from bantam.errors import ClientError
from benchmarks.serving_process import SECONDS, bantam_serve, starting
from serving import tritonserver
from serving.repository import publish
from tests.plugins.connections import Connections, is_here

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(
        not tritonserver.serving_python().exists(), reason=f"no serving environment at {tritonserver.serving_python()}"
    ),
]
SECRET = "unmistakable"
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def root(tiny_artifact: Artifact, tmp_path: Path) -> Path:
    """A repository of one model."""
    publish(tiny_artifact, tmp_path / "repository", "tiny", thresholds=None)
    return tmp_path / "repository"


@pytest.mark.parametrize("victim", ["Triton", "its supervisor"])
def test_what_died_is_started_again_and_sigterm_ends_it_all(
    root: Path, victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "tmp"
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))
    with bantam_serve(root) as running, Classifier(running.grpc, "tiny", timeout=SECONDS, retries=1000) as client:
        running.until(ready=True)
        expected = client.probabilities(["i love it"]).tolist()
        names = {path.name for path in own.iterdir()}
        triton = running.triton()
        (triton if victim == "Triton" else triton.parent() or triton).kill()
        running.until(ready=True, restarts=1)
        assert client.probabilities(["i love it"]).tolist() == expected
        assert running.triton().pid != triton.pid
        names |= {path.name for path in own.iterdir()}
        running.process.send_signal(signal.SIGTERM)
        _, errors = running.process.communicate(timeout=SECONDS)
    assert running.process.returncode == 130
    how = "exit code -9" if victim == "Triton" else "and its supervisor with it"
    assert f"WARNING: Triton stopped by itself, {how}." in errors
    assert len(names) >= 2
    assert list(own.iterdir()) == []
    assert not [path for path in SHARED_MEMORY.iterdir() if path.name.startswith(tuple(names))]


@pytest.mark.slow
def test_a_server_that_does_not_come_back_ends_with_a_message_and_exit_code_1(root: Path) -> None:
    with bantam_serve(root) as running:
        (root / "tiny" / "1" / "model.onnx").write_bytes(b"not a model")
        running.triton().kill()
        _, errors = running.process.communicate(timeout=3 * SECONDS)
    assert running.process.returncode == 1
    assert "error: Triton has been started 5 times in a row and did not stay: the watch gives up." in errors
    assert "tiny, version 1, is not as it was published" in errors


def test_a_server_that_does_not_start_says_so_in_json_too(root: Path) -> None:
    (root / "tiny" / "1" / "model.onnx").write_bytes(b"not a model")
    with starting(root, ["--log-format", "json"]) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    last = json.loads(errors.splitlines()[-1])
    assert (last["level"], last["source"]) == ("error", "bantam")
    assert "tiny, version 1, is not as it was published" in last["message"]


def ask_badly(address: str, http_address: str) -> None:
    """Requests of all kinds that fail, and whose texts must not be in a log."""
    with grpcclient.InferenceServerClient(address) as client:
        for texts in ([[f"{SECRET} \xff".encode("latin-1")]], [[SECRET.encode(), SECRET.encode()]]):
            tensor = grpcclient.InferInput("TEXT", [1, len(texts[0])], "BYTES")
            tensor.set_data_from_numpy(np.array(texts, dtype=np.object_))
            with pytest.raises(grpcclient.InferenceServerException):
                client.infer("tiny", [tensor])
    host, port = http_address.split(":")
    for body in (f'{{"inputs": [{{"name": "{SECRET}"}}]}}', f'{{"{SECRET}"'):
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
            connection.request("POST", "/v2/models/tiny/infer", body)
            assert connection.getresponse().status >= 400


@pytest.mark.parametrize("options", [(), ("--isolated",)], ids=["inline", "isolated"])
def test_logs_are_json_of_triton_too_and_hold_no_text(root: Path, options: tuple[str, ...]) -> None:
    with bantam_serve(root, ["--log-format", "json", "--max-request", "1kB", *options]) as running:
        with Classifier(running.grpc, "tiny") as client:
            client.probabilities([SECRET])
            with pytest.raises(ClientError, match="expected at most 1,000"):
                client.probabilities([SECRET * 100])
        ask_badly(running.grpc, running.announced["http"])
        running.triton().kill()
        running.until(ready=True, restarts=1)
        running.process.send_signal(signal.SIGTERM)
        _, errors = running.process.communicate(timeout=SECONDS)
    lines = [json.loads(line) for line in errors.splitlines()]
    assert all(set(line) == {"time", "level", "source", "message"} for line in lines)
    assert {line["source"] for line in lines} == {"bantam", "triton"}
    tritons = [line["message"] for line in lines if line["source"] == "triton"]
    assert sum("Started GRPCInferenceService" in message for message in tritons) == 2
    assert "Waiting for in-flight requests to complete." in tritons, tritons[-9:]  # said when it was told to end
    assert any(line["level"] == "warning" and "stopped by itself" in line["message"] for line in lines)
    assert SECRET not in errors


def test_nothing_phones_home(root: Path) -> None:
    seen = Connections(every_s=0.02)
    with starting(root, ["--cache", "1MB"]) as process, seen.of(process.pid):
        assert process.stdout is not None
        announced = json.loads(process.stdout.readline())
        with Classifier(announced["grpc"], "tiny") as client:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                client.probabilities(["i love it", "hate"])
                time.sleep(0.01)
    assert seen.looks > 10
    assert any(name.startswith("tritonserver") for name in seen.here)
    assert seen.elsewhere == set()


def test_what_listens_is_on_loopback(root: Path) -> None:
    with bantam_serve(root) as running:
        listening = [
            connection.laddr
            for each in running.tree()
            for connection in each.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) == 4  # gRPC, HTTP, Triton's metrics, and the watch
        assert all(is_here(address.ip) for address in listening)
