"""A server whose Triton dies, hangs or loses a model's process: it says so at once, and answers again by itself."""

from __future__ import annotations

import errno
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path

import psutil
import pytest

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from bantam.errors import ServerError, UnavailableError
from serving import tritonserver
from serving.probe import ProbeError
from serving.repository import promote, publish, stage
from serving.server import Server
from serving.watch import Patience, Watch
from serving.watch_page import Reply, WatchPage

needs_triton = pytest.mark.skipif(
    not tritonserver.serving_python().exists(), reason=f"no serving environment at {tritonserver.serving_python()}"
)
SECONDS = 90.0
ISOLATED = pytest.mark.parametrize("isolated", [False, True], ids=["inline", "isolated"])


@pytest.fixture(scope="module")
def root(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository of two models, one of them of pairs."""
    folder = tmp_path_factory.mktemp("repository")
    publish(tiny_artifact, folder, "tiny", thresholds=None)
    publish(make_artifact(pair=True), folder, "pairs", thresholds=None)
    return folder


def wait_for(true: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Watched:
    """A watch in a thread, and what it says."""

    def __init__(self, watch: Watch, said: list[str]) -> None:
        self.watch, self.said = watch, said
        self.error: ServerError | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.watch.run()
        except ServerError as exc:
            self.error = exc

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        host, port = self.watch.address.split(":")
        with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def until(self, ready: bool, restarts: int = 0) -> dict[str, object]:
        """Wait until /ready says so, after at least so many restarts; returns what it says."""
        deadline = time.monotonic() + SECONDS
        while True:
            status, body = self.get("/ready")
            found: dict[str, object] = json.loads(body)
            assert (status == 200) == found["ready"]
            if found["ready"] == ready and self.watch.restarts >= restarts:
                return found
            assert time.monotonic() < deadline, (found, self.said)
            time.sleep(0.05)

    def lives(self, expected: bool) -> None:
        """Wait until /live says so."""
        wait_for(lambda: (self.get("/live")[0] == 200) == expected)

    def triton(self) -> psutil.Process:
        assert self.watch.server.pid is not None
        return psutil.Process(self.watch.server.pid)


@contextmanager
def watched(root: Path, *, isolated: bool = False, patience: Patience = Patience()) -> Iterator[Watched]:  # noqa: B008
    said: list[str] = []
    server = Server(root, follow=True, isolated=isolated)
    with Watch(server, "127.0.0.1", 0, said.append, patience=patience) as watch:
        running = Watched(watch, said)
        watch.start()
        running.thread.start()
        yield running
    running.thread.join(SECONDS)
    assert not running.thread.is_alive()


@needs_triton
@pytest.mark.triton
@ISOLATED
def test_a_killed_triton_is_told_and_started_again_on_the_same_ports(root: Path, isolated: bool) -> None:
    with watched(root, isolated=isolated) as running, Classifier(running.watch.server.grpc_address, "tiny") as client:
        running.until(ready=True)
        expected = client.probabilities(["i love it"])
        running.triton().send_signal(signal.SIGKILL)
        why = running.until(ready=False)
        assert running.get("/live")[0] == 200
        found = running.until(ready=True, restarts=1)
        assert why["models"] or why["state"] == "restarting"
        assert found["restarts"] == 1
        assert client.probabilities(["i love it"]).tolist() == expected.tolist()
        assert running.error is None
    assert any("stopped by itself, exit code -9" in line for line in running.said)


@needs_triton
@pytest.mark.triton
def test_a_server_that_answers_others_is_not_started_again_until_it_does_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.health.HANGS_S", 3.0)
    queue = threading.Event()

    def wait(*_: object) -> str:
        queue.wait(SECONDS)
        raise ProbeError("it never came to its turn")

    with watched(root) as running:
        running.until(ready=True)
        monkeypatch.setattr("serving.probe.infer", wait)
        address = running.watch.server.grpc_address
        with Classifier(address, "tiny") as texts, Classifier(address, "pairs") as pairs:
            running.until(ready=False)
            ends = time.monotonic() + 6
            while time.monotonic() < ends:
                texts.probabilities(["i love it"])
                pairs.probabilities([("i love", "it")])
                time.sleep(0.02)
        assert running.watch.restarts == 0
        wait_for(lambda: running.watch.restarts == 1)
        monkeypatch.undo()
        queue.set()
        running.until(ready=True, restarts=1)
    assert any("Triton did not serve" in line and "it has not answered for" in line for line in running.said)


@needs_triton
@pytest.mark.triton
def test_a_watch_that_cannot_kill_or_look_says_that_it_does_not_live(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.health.HANGS_S", 0.7)
    with watched(root) as running:
        running.until(ready=True)
        monkeypatch.setattr("serving.watch.ENDS_S", 2.0)
        killed, kill = threading.Event(), running.watch.server.kill
        monkeypatch.setattr(running.watch.server, "kill", killed.set)  # the system keeps it
        os.killpg(running.triton().pid, signal.SIGSTOP)
        assert killed.wait(SECONDS)
        assert running.get("/live")[0] == 200
        running.lives(False)
        kill()
        running.until(ready=True, restarts=1)
        assert running.get("/live") == (200, '{"live": true}\n')
        sees = threading.Event()
        monkeypatch.setattr(running.watch, "_look", lambda _: sees.wait(SECONDS))
        running.lives(False)
        assert running.get("/ready")[0] == 503
        monkeypatch.undo()
        sees.set()
        running.until(ready=True)
        assert running.get("/live")[0] == 200


@needs_triton
@pytest.mark.triton
def test_while_it_is_started_again_a_watch_that_has_killed_it_lives(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.health.HANGS_S", 0.7)
    with watched(root) as running:
        running.until(ready=True)
        begins, start = threading.Event(), running.watch.server.start

        def wait_and_start() -> Server:
            assert begins.wait(SECONDS)
            return start()

        monkeypatch.setattr(running.watch.server, "start", wait_and_start)
        os.killpg(running.triton().pid, signal.SIGSTOP)
        while json.loads(running.get("/ready")[1])["state"] != "restarting":
            time.sleep(0.05)
        monkeypatch.setattr("serving.watch.ENDS_S", 1e-9)
        wait_for(lambda: bool(running.said))  # it has begun to end it
        assert running.get("/live")[0] == 200
        monkeypatch.undo()
        begins.set()
        running.until(ready=True, restarts=1)


@needs_triton
@pytest.mark.triton
def test_a_full_disk_is_waited_for_and_a_look_that_fails_is_told_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with watched(root, patience=Patience(pauses_s=(0.0,))) as running:
        running.until(ready=True)
        failures, start = iter([full, full]), running.watch.server.start

        def fail_and_start() -> Server:
            for failure in failures:
                raise failure
            return start()

        monkeypatch.setattr(running.watch.server, "start", fail_and_start)
        running.triton().kill()
        running.until(ready=True, restarts=3)
        monkeypatch.setattr("serving.watch.judge", lambda *_, **__: 1 / 0)
        running.until(ready=False)
        wait_for(lambda: any("ZeroDivisionError" in line for line in running.said))
        monkeypatch.undo()
        running.until(ready=True)
    assert sum("No space left on device" in line for line in running.said) == 2
    assert sum("The watch could not look at the server" in line for line in running.said) == 1


def test_a_server_that_finds_no_room_at_its_first_start_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path, models=[])
    monkeypatch.setattr(server, "start", lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with (
        Watch(server, "127.0.0.1", 0) as watch,
        pytest.raises(ServerError, match=r"Triton could not be started: .*No space left"),
    ):
        watch.start()


def test_a_page_that_fails_is_told_and_who_hangs_up_is_not() -> None:
    said: list[str] = []

    def hang_up() -> Reply:
        raise BrokenPipeError

    page = WatchPage("127.0.0.1", 0, {"/bad": lambda: Reply(HTTPStatus(1 // 0), ""), "/gone": hang_up}, said.append)
    try:
        for path in ("/gone", "/bad"):
            with closing(http.client.HTTPConnection(page.address, timeout=30)) as connection:
                connection.request("GET", path)
                with pytest.raises(http.client.RemoteDisconnected):
                    connection.getresponse()
        wait_for(lambda: bool(said))
    finally:
        page.close()
    assert len(said) == 1
    assert "ZeroDivisionError" in said[0]


@needs_triton
@pytest.mark.triton
def test_a_triton_that_hangs_is_started_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.health.HANGS_S", 0.7)
    with watched(root) as running:
        running.until(ready=True)
        hanging = running.triton()
        os.killpg(hanging.pid, signal.SIGSTOP)
        running.until(ready=False)
        assert running.until(ready=True, restarts=1)["restarts"] == 1
        assert running.triton().pid != hanging.pid
    assert any("does nothing" in line for line in running.said)


@needs_triton
@pytest.mark.triton
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_model_whose_process_is_dead_or_hangs_comes_back(
    root: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.health.HANGS_S", 0.7)
    with watched(root, isolated=True) as running:
        running.until(ready=True)
        (stub,) = (each for each in running.triton().children() if "tiny" in Path(each.cmdline()[1]).parts)
        stub.send_signal(number)
        running.until(ready=False)
        assert running.until(ready=True, restarts=1)["restarts"] == 1
        with Classifier(running.watch.server.grpc_address, "tiny") as client:
            assert client.probabilities(["i love it"]).shape == (1, 3)


@needs_triton
@pytest.mark.triton
def test_what_could_not_be_loaded_is_not_served_after_a_restart_either(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    publish(tiny_artifact, tmp_path, "tiny", thresholds=None)
    with watched(tmp_path) as running:
        running.until(ready=True)
        broken = stage(make_artifact(details={"broken": True}), tmp_path, "tiny", thresholds=None)
        (broken.folder / "model.onnx").write_bytes(b"not a model")
        promote(broken)
        deadline = time.monotonic() + SECONDS
        while not any("stays at version 1" in line for line in running.said):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.triton().kill()
        running.until(ready=True, restarts=1)
        assert 'bantam_model_version{model="tiny",version="1"} 1' in running.get("/metrics")[1]


@needs_triton
@pytest.mark.triton
def test_a_server_that_cannot_be_started_again_is_given_up(tiny_artifact: Artifact, tmp_path: Path) -> None:
    version = publish(tiny_artifact, tmp_path, "tiny", thresholds=None)
    with watched(tmp_path, patience=Patience(most=2, pauses_s=(0.0,))) as running:
        running.until(ready=True)
        (version.folder / "model.onnx").write_bytes(b"not a model")
        running.triton().kill()
        running.thread.join(SECONDS)
        assert running.error is not None
        assert "started 2 times in a row and did not stay" in str(running.error)
        assert "tiny, version 1, is not as it was published" in str(running.error)
        assert running.get("/ready")[0] == 503
        with (
            Classifier(running.watch.server.grpc_address, "tiny", retries=0) as client,
            pytest.raises(UnavailableError),
        ):
            client.probabilities(["i love it"])


@needs_triton
@pytest.mark.triton
def test_a_server_that_is_drained_answers_and_says_that_it_is_not_ready(root: Path) -> None:
    with watched(root) as running, Classifier(running.watch.server.grpc_address, "tiny") as client:
        running.until(ready=True)
        thread = threading.Thread(target=running.watch.drain, args=(1.0,))
        thread.start()
        found = running.until(ready=False)
        assert found["state"] == "stopping"
        assert client.probabilities(["i love it"]).shape == (1, 3)
        thread.join()


@needs_triton
@pytest.mark.triton
def test_the_page_answers_what_it_knows_and_nothing_else(root: Path) -> None:
    with watched(root) as running:
        running.until(ready=True)
        assert running.get("/live") == (200, '{"live": true}\n')
        assert running.get("/ready?full=1")[0] == 200
        assert running.get("/metrics", "HEAD") == (200, "")
        assert running.get("/nothing") == (404, "Expected /live, /ready, /metrics.\n")
        assert running.get("/ready", "POST")[0] == 501


def test_it_says_that_it_is_not_ready_before_it_has_begun(tmp_path: Path) -> None:
    with Watch(Server(tmp_path, models=["none"], follow=True), "127.0.0.1", 0) as watch:
        running = Watched(watch, [])
        assert json.loads(running.get("/ready")[1]) == {
            "ready": False,
            "models": {},
            "state": "starting",
            "restarts": 0,
        }
        assert running.get("/live")[0] == 200
        assert "bantam_ready 0" in running.get("/metrics")[1]


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} on 127.0.0.1, wanted for the watch, cannot be used"):
            Watch(Server(tmp_path, models=[]), "127.0.0.1", port)
