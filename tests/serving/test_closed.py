"""Triton's administration is closed to all: also to who can read its command line, as each user of the machine can."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bantam.artifact import Artifact
from serving import tritonserver
from serving.repository import publish
from serving.server import Server

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(
        not tritonserver.serving_python().exists(), reason=f"no serving environment at {tritonserver.serving_python()}"
    ),
]
DATA, HEADERS, RESET, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4


@pytest.fixture(scope="module", params=[False, True], ids=["measured", "followed"])
def server(
    tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """As a run measures it, and as bantam serve starts it."""
    root = tmp_path_factory.mktemp("repository")
    publish(tiny_artifact, root, "tiny", thresholds=None)
    with Server(root, follow=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def key(server: Server) -> tuple[bytes, bytes]:
    """Name and value of the header that Triton wants, from its command line."""
    (option,) = (o for o in psutil.Process(server.pid).cmdline() if o.startswith("--grpc-restricted-protocol="))
    name, value = option.removeprefix("--grpc-restricted-protocol=").split(":")[1].split("=")
    return name.encode(), value.encode()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header in HPACK, not indexed and not compressed (RFC 7541, 6.2.2), whatever is in it."""
    assert len(name) < 127
    assert len(value) < 127
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def kinds(address: str, method: str, *headers: tuple[bytes, bytes]) -> list[int]:
    """Call a method of Triton's gRPC service with an empty request; the kinds of frames that answer it, up to the last.

    By hand, because gRPC's own clients refuse to send headers that are none.
    """
    host, port = address.split(":")
    path = f"/inference.GRPCInferenceService/{method}".encode()
    sent = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost")]
    sent += [(b"te", b"trailers"), (b"content-type", b"application/grpc"), *headers]
    found: list[int] = []
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        connection.sendall(frame(HEADERS, END_HEADERS, 1, b"".join(literal(*header) for header in sent)))
        connection.sendall(frame(DATA, END_STREAM, 1, struct.pack(">BI", 0, 0)))
        with connection.makefile("rb") as answer:
            while head := answer.read(9):
                size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
                stream = int.from_bytes(head[5:9])
                answer.read(size)
                found += [kind] if stream == 1 or kind == GOAWAY else []
                if kind in (RESET, GOAWAY) or (stream == 1 and flags & END_STREAM):
                    break
    return found


def test_an_open_method_answers(server: Server) -> None:
    assert DATA in kinds(server.grpc_address, "ServerLive")  # so this client does speak gRPC
    assert DATA in kinds(server.grpc_address, "ServerLive", (b"any", b"header"))


@pytest.mark.parametrize("method", ["RepositoryIndex", "SystemSharedMemoryStatus", "TraceSetting", "LogSettings"])
def test_the_key_from_the_command_line_opens_nothing_over_grpc(
    server: Server, key: tuple[bytes, bytes], method: str
) -> None:
    name, value = key
    for spelling in (lambda n: n, bytes.lower, lambda n: n.replace(b"\n", b" "), lambda n: n.replace(b"\n", b"")):
        assert DATA not in kinds(server.grpc_address, method, (b"triton-grpc-protocol-" + spelling(name), value))


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/repository/models/tiny/unload"])
def test_the_key_from_the_command_line_opens_nothing_over_http(
    server: Server, key: tuple[bytes, bytes], path: str
) -> None:
    host, port = server.http_address.split(":")
    name, value = key
    for line in (name + b": " + value, name.replace(b"\n", b"\r\n ") + b": " + value):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            answer = b""
            with contextlib.suppress(ConnectionError):  # a header that is none may end the connection
                connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + line)
                connection.sendall(b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                while received := connection.recv(4096):
                    answer += received
        assert b"200 OK" not in answer
        assert b"READY" not in answer


def test_http_and_metrics_stay_on_loopback_when_grpc_is_open_to_others(
    server: Server, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    publish(make_artifact(), tmp_path, "tiny", thresholds=None)
    with Server(tmp_path, host="0.0.0.0") as opened:  # noqa: S104
        assert opened.pid is not None
        ports = [int(a.split(":")[1]) for a in (opened.grpc_address, opened.http_address, opened.metrics_address)]
        listening: dict[int, str] = {}
        deadline = time.monotonic() + 10
        # The system's table changes while it is read, by other connections, and entries are missed.
        while not {*ports} <= listening.keys() and time.monotonic() < deadline:
            listening |= {
                c.laddr.port: c.laddr.ip.removeprefix("::ffff:")
                for c in psutil.Process(opened.pid).net_connections("tcp")
                if c.status == "LISTEN"
            }
        assert listening[ports[0]] in ("0.0.0.0", "::")  # noqa: S104
        assert [listening[port] for port in ports[1:]] == ["127.0.0.1", "127.0.0.1"]
        connection = http.client.HTTPConnection(opened.metrics_address, timeout=10)
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200
        connection.close()
