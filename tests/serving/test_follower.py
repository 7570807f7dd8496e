"""A server that runs takes what is promoted and rolled back: nobody who asks it meanwhile meets an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from bantam.artifact import Artifact, seal
from bantam.client.classifier import Classifier
from bantam.errors import ServerError
from benchmarks.serving_process import bantam_serve
from serving import tritonserver
from serving.repository import Version, discard, prune, publish, rollback, stage
from serving.repository import promote as make_served
from serving.server import Server

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(
        not tritonserver.serving_python().exists(), reason=f"no serving environment at {tritonserver.serving_python()}"
    ),
]
SECONDS = 60.0


class Asking:
    """A client that asks without a pause, and what it was answered: versions, in the order of their first answers."""

    def __init__(self, address: str) -> None:
        self.versions: list[tuple[int, int]] = []
        """Version and number of labels of the answer."""
        self.errors: list[str] = []
        self.answers = 0
        self._address = address
        self._stopped = threading.Event()

    def run(self) -> None:
        tensor = grpcclient.InferInput("TEXT", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[b"i love it"]], dtype=np.object_))
        with grpcclient.InferenceServerClient(self._address) as client:
            while not self._stopped.is_set():
                try:
                    answer = client.infer("tiny", [tensor])
                except grpcclient.InferenceServerException as exc:
                    self.errors.append(str(exc))
                    continue
                found = int(answer.get_response().model_version), answer.as_numpy("SCORES").shape[1]
                self.answers += 1
                if not self.versions or self.versions[-1] != found:
                    self.versions.append(found)

    def until(self, version: int) -> None:
        """Wait until that version answers."""
        deadline = time.monotonic() + SECONDS
        while not self.versions or self.versions[-1][0] != version:
            assert time.monotonic() < deadline, (version, self.versions, self.errors[:3])
            time.sleep(0.02)

    def stop(self) -> None:
        self._stopped.set()


@contextmanager
def following(root: Path, isolated: bool) -> Iterator[tuple[Server, Asking, list[str]]]:
    """A server in ``wait``, a client that asks it, and what the server says."""
    said: list[str] = []
    with Server(root, follow=True, isolated=isolated) as server:
        asking = Asking(server.grpc_address)

        def wait() -> None:
            try:
                server.wait(said.append)
            except ServerError as exc:
                said.append(f"ended: {exc}")

        threads = [threading.Thread(target=wait, daemon=True), threading.Thread(target=asking.run)]
        for thread in threads:
            thread.start()
        try:
            yield server, asking, said
        finally:
            asking.stop()
            threads[1].join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def loads(server: Server, version: int) -> int:
    """How often Triton has set out to load a version."""
    return server.log.read_text().count(f'] "loading: tiny:{version}"')


@pytest.mark.parametrize("isolated", [False, True], ids=["inline", "isolated"])
def test_promoted_and_rolled_back_under_a_running_client(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path, isolated: bool
) -> None:
    publish(tiny_artifact, tmp_path, "tiny", thresholds=None)
    with following(tmp_path, isolated) as (server, asking, said):
        asking.until(1)
        staged = stage(make_artifact(labels=("a", "b", "c", "d")), tmp_path, "tiny", thresholds=None)
        other = stage(make_artifact(labels=("a", "b")), tmp_path, "tiny", thresholds=None)
        discard(other)
        time.sleep(2.5)  # Triton has looked at its models twice
        assert loads(server, 1) == 1  # what is staged beside a served version does not disturb it
        make_served(staged)
        asking.until(2)
        rollback(tmp_path, "tiny")
        asking.until(1)
        rollback(tmp_path, "tiny")
        asking.until(2)
        prune(tmp_path, "tiny")
        until(lambda: len(said) == 3)
    assert asking.errors == []
    assert asking.versions == [(1, 3), (2, 4), (1, 3), (2, 4)]
    assert said[0] == "tiny: version 2 is served; before, 1 was."
    assert not list(tmp_path.rglob("__pycache__"))  # serving writes nothing into a published version


@pytest.mark.parametrize("isolated", [False, True], ids=["inline", "isolated"])
def test_a_promoted_version_that_cannot_be_loaded_leaves_the_one_before(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path, isolated: bool
) -> None:
    publish(tiny_artifact, tmp_path, "tiny", thresholds=None)
    with following(tmp_path, isolated) as (server, asking, said):
        asking.until(1)
        damaged = make_artifact(details={"broken": True})
        (damaged.folder / "model.onnx").write_bytes(b"not a model")
        damaged = Artifact(damaged.folder, seal(damaged.folder, damaged.manifest))
        broken = stage(damaged, tmp_path, "tiny", thresholds=None)
        make_served(broken)
        until(lambda: len(said) == 1)
        tried = loads(server, 2)
        before = asking.answers
        time.sleep(2.5)
        assert asking.answers > before
        assert loads(server, 2) <= tried + 1  # it is not tried again and again
        good = stage(make_artifact(labels=("a", "b")), tmp_path, "tiny", thresholds=None)
        make_served(good)
        asking.until(3)
        until(lambda: len(said) == 2)
    assert asking.errors == []
    assert asking.versions == [(1, 3), (3, 2)]
    assert said[0].startswith("tiny stays at version 1: 2 cannot be served.\n")
    assert f"Load model from {broken.folder / 'model.onnx'} failed" in said[0]


def test_a_version_that_ends_triton_is_not_tried_again(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    publish(tiny_artifact, tmp_path, "tiny", thresholds=None)
    deadly = stage(make_artifact(details={"deadly": True}), tmp_path, "tiny", thresholds=None)
    model = deadly.folder / "model.py"
    model.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    seal(deadly.folder, Artifact.described(deadly.folder).manifest)
    with Server(tmp_path, follow=True) as server:
        make_served(deadly)
        with pytest.raises(ServerError, match="tiny stays at version 1: 2 cannot be served, because Triton ended"):
            server.wait()
        server.stop()
        server.start()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.wait)
            time.sleep(2.5)
            with Classifier(server.grpc_address, "tiny") as classify:
                assert classify("i love it").version == "1"
            assert not waiting.done()
            server.stop()


def test_inline_models_are_replaced_before_triton_looks_by_itself(
    tiny_artifact: Artifact,
    make_artifact: Callable[..., Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tritonserver, "REPOSITORY_POLL_S", 3600)
    publish(tiny_artifact, tmp_path, "tiny", thresholds=None)
    with following(tmp_path, False) as (_, asking, said):
        asking.until(1)
        for number in (2, 3):
            make_served(stage(make_artifact(details={"number": number}), tmp_path, "tiny", thresholds=None))
            asking.until(number)
            until(lambda number=number: len(said) == number - 1)  # type: ignore[misc]
        rollback(tmp_path, "tiny")
        asking.until(2)
        until(lambda: len(said) == 3)
    assert asking.errors == []


def test_rollback_is_one_command_and_a_running_server_takes_it(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    publish(tiny_artifact, tmp_path, "tiny", thresholds=None)
    now: Version = publish(make_artifact(labels=("a", "b")), tmp_path, "tiny", thresholds=None)
    with bantam_serve(tmp_path) as running:
        asking = Asking(running.grpc)
        thread = threading.Thread(target=asking.run)
        thread.start()
        try:
            asking.until(now.number)
            done = subprocess.run(
                [sys.executable, "-m", "bantam", "rollback", "tiny", "--repository", str(tmp_path), "--json"],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                capture_output=True,
                text=True,
                check=False,
            )
            asking.until(1)
        finally:
            asking.stop()
            thread.join()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"model": "tiny", "version": 1, "before": 2}
    assert "The same command returns to 2" in done.stderr
    assert asking.errors == []
