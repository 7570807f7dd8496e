"""Starting and stopping a real Triton: ready when it says so, clear when it fails, nothing left behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient

from bantam.artifact import Artifact, seal
from bantam.client.classifier import Classifier
from bantam.errors import ServerError
from serving import tritonserver
from serving.backend.engine import Engine
from serving.ports import free_ports
from serving.repository import promote, publish, published, stage
from serving.server import Server

pytestmark = pytest.mark.triton
ODD_LABELS = ("a\nb\r\n", "q\"u'o:t\\n", "<b>größe</b>\u2028😀")
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def root(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository of three models: ONNX, OpenVINO, and one whose model file is broken."""
    folder = tmp_path_factory.mktemp("repository")
    publish(tiny_artifact, folder, "tiny", thresholds=[0.5, 0.5, 0.5])
    odd = make_artifact(layout="openvino", task="single_label", labels=ODD_LABELS)
    publish(odd, folder, "tiny.ov", thresholds=None, threads=1)
    broken = make_artifact(details={"broken": True})
    (broken.folder / "model.onnx").write_bytes(b"not a model")
    publish(Artifact(broken.folder, seal(broken.folder, broken.manifest)), folder, "broken", thresholds=None)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["inline", "isolated"])
def server(root: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(root, models=["tiny", "tiny.ov"], isolated=request.param) as running:
        assert running.backend.isolated == request.param, running.backend.reason
        yield running


def scores(server: Server, model: str, text: str, class_count: int = 0) -> np.ndarray:
    """``[1, labels]``; with ``class_count`` as many rows ``score:number:label`` of the classification extension."""
    tensor = grpcclient.InferInput("TEXT", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
    output = grpcclient.InferRequestedOutput("SCORES", class_count=class_count)
    with grpcclient.InferenceServerClient(server.grpc_address) as client:
        result: np.ndarray = client.infer(model, [tensor], outputs=[output]).as_numpy("SCORES")
        return result


def classes(server: Server, model: str) -> dict[int, str]:
    """Number and label of each class, as the classification extension writes it."""
    rows = scores(server, model, "i love it", class_count=3)[0]
    return {int(number): label for _, number, label in (row.decode().split(":", 2) for row in rows)}


def get(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    host, port = address.split(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()


@pytest.mark.parametrize("model", ["tiny", "tiny.ov"])
def test_served_scores_are_those_in_process(server: Server, root: Path, model: str) -> None:
    engine = Engine(root / model / "1", threads=1)
    np.testing.assert_allclose(scores(server, model, "i love it"), engine.probabilities(["i love it"]), atol=1e-6)


def test_labels_come_with_the_classification_extension(server: Server) -> None:
    assert sorted(classes(server, "tiny").values()) == ["anger", "fear", "joy"]


def test_a_label_with_a_line_break_is_one_line_of_the_classification_extension(server: Server) -> None:
    assert classes(server, "tiny.ov") == {0: r"a\nb\r\n", 1: r"""q"u'o:t\\n""", 2: ODD_LABELS[2]}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_labels_of_any_characters_reach_the_client(server: Server, protocol: Literal["grpc", "http"]) -> None:
    address = server.grpc_address if protocol == "grpc" else server.http_address
    with Classifier(address, "tiny.ov", protocol=protocol) as classify:
        assert classify.describe().labels == ODD_LABELS
        assert tuple(classify("i love it").scores) == ODD_LABELS


def test_all_endpoints_are_on_loopback_only(server: Server) -> None:
    assert server.pid is not None
    listening = {
        connection.laddr
        for connection in psutil.Process(server.pid).net_connections("tcp")
        if connection.status == "LISTEN"
    }
    ports = {int(a.split(":")[1]) for a in (server.grpc_address, server.http_address, server.metrics_address)}
    assert {address.port for address in listening} == ports
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert get(server.metrics_address, "/metrics")[0] == 200


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v2/repository/index", "POST"),
        ("/v2/repository/models/tiny/unload", "POST"),
        ("/v2/systemsharedmemory/status", "GET"),
        ("/v2/trace/setting", "GET"),
        ("/v2/logging", "GET"),
    ],
)
def test_administration_is_closed_over_http(server: Server, path: str, method: str) -> None:
    status, body = get(server.http_address, path, method)
    assert status == 403
    assert "restricted" in body


def test_administration_is_closed_over_grpc(server: Server) -> None:
    with grpcclient.InferenceServerClient(server.grpc_address) as client:
        for call in (
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
            lambda: client.unload_model("tiny"),
        ):
            with pytest.raises(grpcclient.InferenceServerException, match="restricted"):
                call()


def test_memory_is_given_by_role(server: Server) -> None:
    memory = server.memory()
    assert set(memory) == {"tritonserver", *(("tiny", "tiny.ov") if server.backend.isolated else ())}
    for used in memory.values():
        assert 1 < used.rss <= used.peak < 1000
    assert server.model_memory("tiny") == memory["tiny" if server.backend.isolated else "tritonserver"]


def test_a_port_in_use_is_named(root: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} on 127.0.0.1, wanted for HTTP, cannot be used"):
            Server(root, models=["tiny"], http_port=port).start()


def test_free_ports_differ() -> None:
    ports = free_ports("127.0.0.1", {"gRPC": 0, "HTTP": 0, "metrics": 0})
    assert len(set(ports.values())) == 3
    assert all(port > 0 for port in ports.values())


def test_a_model_that_does_not_load_says_why_and_leaves_nothing(root: Path) -> None:
    server = Server(root, models=["tiny", "broken"])
    with pytest.raises(ServerError, match=r"could not load broken\.\n") as caught:
        server.start()
    assert f"Load model from {root / 'broken' / '1' / 'model.onnx'} failed" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2  # said once, without its stack
    assert server.pid is None


@pytest.mark.parametrize("isolated", [False, True], ids=["inline", "isolated"])
def test_a_staged_version_answers_for_its_check_while_another_is_published(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path, isolated: bool
) -> None:
    publish(tiny_artifact, tmp_path, "tiny", thresholds=None)
    staged = stage(make_artifact(labels=("a", "b", "c", "d")), tmp_path, "tiny", thresholds=None)
    with Server(tmp_path, staged=[staged], isolated=isolated) as server:
        assert server.models == ("tiny",)
        assert scores(server, "tiny", "i love it").shape == (1, 4)
        assert set(server.memory()) == {"tritonserver", *(["tiny"] if isolated else [])}
        promote(staged)
    now = published(tmp_path, "tiny")
    assert now is not None
    assert now.number == staged.number


def test_unknown_and_missing_models_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"has no model 'huge'\. Published: broken, tiny, tiny.ov"):
        Server(root, models=["huge"]).start()
    with pytest.raises(ServerError, match="no model is published"):
        Server(tmp_path).start()


def test_no_serving_environment_says_what_to_do(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"no serving environment at .*python.*make setup"):
        Server(root, models=["tiny"], python=tmp_path / "python").start()


def test_an_environment_without_triton_says_what_to_do(root: Path) -> None:
    with pytest.raises(ServerError, match="no Triton for Python"):
        Server(root, models=["tiny"], python=Path(sys.executable)).start()


@pytest.mark.skipif(int(np.__version__.split(".")[0]) < 2, reason="this environment has numpy < 2")
def test_numpy_2_in_the_backend_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Our own environment has it; Triton's Python backend takes the environment of the first python3 on PATH.
    usual = tritonserver.environment
    ours = {"PATH": f"{Path(sys.prefix, 'bin')}{os.pathsep}{os.environ['PATH']}"}
    monkeypatch.setattr(tritonserver, "environment", lambda installation: {**usual(installation), **ours})
    with pytest.raises(ServerError, match=r"Got numpy 2\..*needs numpy < 2"):
        Server(root, models=["tiny"]).start()


def test_reasons_leave_out_what_every_start_says() -> None:
    log = """\
E1120 13:51:08.631749 18556 server.cc:241] "CudaDriverHelper has not been initialized."
I1120 13:51:08.632834 18556 model_lifecycle.cc:472] "loading: p:1"
E1120 13:51:09.1 18556 model_lifecycle.cc:642] "failed to load 'p' version 1: Internal: bad\\n\\nAt:\\n  engine.py(1)"
I1120 13:51:09.2 18556 model_lifecycle.cc:777] "failed to load 'p'"
Error: Failed to initialize NVML
error: creating server: Internal - failed to load all models
"""
    assert tritonserver.reasons(log) == ["bad", "creating server: Internal - failed to load all models"]


def test_other_systems_are_sent_to_the_container(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(ServerError, match=r"Triton runs on Linux x86-64; this is Darwin .*container"):
        Server(root, models=["tiny"]).start()


def test_a_paused_server_answers_when_it_is_resumed(root: Path) -> None:
    late = pytest.raises(grpcclient.InferenceServerException, match="Deadline Exceeded")
    with Server(root, models=["tiny"]) as server, grpcclient.InferenceServerClient(server.grpc_address) as client:
        server.pause()
        with late:
            client.is_server_ready(client_timeout=0.5)
        with server.resumed():
            assert client.is_server_ready(client_timeout=10)
        with late:
            client.is_server_ready(client_timeout=0.5)


def test_wait_reports_a_triton_that_ends_by_itself(root: Path) -> None:
    with Server(root, models=["tiny"]) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match="stopped by itself, exit code -9"):
            server.wait()
        server.pause()  # what it was asked meanwhile has failed, and tells why


def test_an_exception_in_the_block_stops_triton(root: Path) -> None:
    server = Server(root, models=["tiny"])
    triton = []

    def serve() -> None:
        with server:
            triton.append(psutil.Process(server.pid))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve()
    assert psutil.wait_procs(triton, timeout=1)[1] == []  # stop() has waited for it
    server.stop()  # again: nothing to do
