"""Probes against servers that are wedged in one way or another."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.probe import PREFACE, ProbeError, Prober, greet
from serving.settings import Settings

SECONDS = 60.0


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of what listens, and deals with each connection in this way before it closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as connection, contextlib.suppress(OSError):
                        answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def say_nothing(connection: socket.socket) -> None:
    while connection.recv(1000):
        pass


def hang_up(connection: socket.socket) -> None:
    connection.recv(1)


def speak_http_1(connection: socket.socket) -> None:
    connection.recv(len(PREFACE))
    connection.sendall(b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n")


@pytest.fixture(params=["plain", "TLS", "mutual TLS"])
def settings(request: pytest.FixtureRequest, pem: Path) -> Settings:
    if request.param == "plain":
        return Settings()
    authority = pem / "ca.pem" if request.param == "mutual TLS" else None
    return Settings(cert=pem / "server.pem", key=pem / "server.key", client_ca=authority)


@pytest.mark.openssl
@pytest.mark.parametrize("answer", [say_nothing, hang_up])
def test_a_front_that_takes_connections_and_does_not_greet_is_found(
    settings: Settings, answer: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.probe.GREETING_S", 0.5)
    with listener(answer) as address, pytest.raises(ProbeError, match=r"gRPC (does not answer|closed the connection)"):
        greet(address, settings)


def test_what_does_not_speak_http_2_is_found() -> None:
    with listener(speak_http_1) as address, pytest.raises(ProbeError, match="does not speak as it should"):
        greet(address, Settings())


@pytest.mark.openssl
def test_a_front_of_which_tls_alone_answers_is_found(pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.probe.GREETING_S", 0.5)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem / "server.pem", pem / "server.key")

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            say_nothing(encrypted)

    settings = Settings(cert=pem / "server.pem", key=pem / "server.key")
    with listener(answer) as address, pytest.raises(ProbeError, match="gRPC does not answer"):
        greet(address, settings)


def test_what_is_late_is_awaited_since_it_was_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.probe.TIMEOUT_S", 0.1)
    asked = threading.Semaphore(0)

    def answer(connection: socket.socket) -> None:
        asked.release()
        say_nothing(connection)

    with listener(answer) as address:
        prober = Prober("tiny", address, address, Settings(), "token")
        prober.start()
        try:
            assert asked.acquire(timeout=SECONDS)
            first = prober.seen.asked
            for _ in range(2):
                assert asked.acquire(timeout=SECONDS)
            assert first is not None
            assert prober.seen.asked == first
            assert prober.seen.failing_since is None
        finally:
            prober.stop()
            prober.join()
