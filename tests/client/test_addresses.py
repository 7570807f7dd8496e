"""Several servers behind one client: requests are shared, those that die are left out, and found again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bantam import AsyncClassifier, Classifier
from bantam.client import addresses
from bantam.client.addresses import grpc_target
from bantam.errors import TimeoutExceeded, UnavailableError, UserError
from tests.client.fake_kserve import Fake, Script

PATIENT: dict[str, Any] = {"timeout": 30, "retries": 50}


@pytest.fixture
def pair() -> Iterator[tuple[Fake, Fake]]:
    one, other = Fake("grpc", Script()), Fake("grpc", Script())
    yield one, other
    one.stop()
    other.stop()


def until(found: Callable[[], bool], ask: Callable[[], object]) -> None:
    """Asks until something is so."""
    deadline = time.monotonic() + 30
    while not found():
        ask()
        assert time.monotonic() < deadline


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_requests_are_shared(pair: tuple[Fake, Fake], host: str) -> None:
    one, other = pair
    with Classifier(f"{host}:{one.port},{host}:{other.port}", "fake", **PATIENT) as classify:
        until(lambda: min(one.script.requests, other.script.requests) > 0, lambda: classify("12345"))
        before = one.script.requests, other.script.requests
        for _ in range(20):
            assert classify("12345").scores == {"short": 0.5, "long": 0.5}
        assert (one.script.requests, other.script.requests) == (before[0] + 10, before[1] + 10)


def test_requests_are_shared_on_asyncio(pair: tuple[Fake, Fake]) -> None:
    async def run() -> None:
        async with AsyncClassifier(f"{pair[0].address},{pair[1].address}", "fake", **PATIENT) as classify:
            deadline = time.monotonic() + 30
            while not all(server.script.requests for server in pair) and time.monotonic() < deadline:
                assert (await classify("12345")).labels == ["short", "long"]
        assert all(server.script.requests for server in pair)

    asyncio.run(run())


def test_one_that_dies_is_left_out_and_found_again(pair: tuple[Fake, Fake]) -> None:
    one, other = pair
    with Classifier(f"{one.address},{other.address}", "fake", **PATIENT) as classify, ThreadPoolExecutor(4) as pool:
        until(lambda: min(one.script.requests, other.script.requests) > 0, lambda: classify("12345"))
        answers = [pool.submit(classify, "1234567890") for _ in range(100)]
        one.stop()
        answers += [pool.submit(classify, "1234567890") for _ in range(300)]
        assert [answer.result().labels for answer in answers] == [["long"]] * 400
        again = Fake("grpc", Script(), one.port)
        until(lambda: again.script.requests > 0, lambda: classify("12345"))
    again.stop()


class Silent:
    """In front of a server; when told to, it passes nothing on any more, as a machine that has gone."""

    def __init__(self, server: Fake) -> None:
        self._server = server
        self._passing = threading.Event()
        self._passing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def pause(self, seconds: float) -> None:
        self._passing.clear()
        threading.Timer(seconds, self._passing.set).start()

    def vanish(self) -> None:
        self._listener.close()
        self._passing.clear()

    def close(self) -> None:
        self._passing.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server.port))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=ends, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passing.wait()
                target.sendall(data)
        for end in (source, target):
            end.close()


def test_one_that_vanishes_without_a_word_is_left_out(pair: tuple[Fake, Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "KEEPALIVE_S", 1.0)
    one, other = pair
    silent = Silent(one)
    with Classifier(f"{silent.address},{other.address}", "fake", timeout=1.5, retries=5) as classify:

        def answered() -> bool:
            with contextlib.suppress(TimeoutExceeded, UnavailableError):
                return classify("12345").labels == ["short", "long"]
            return False

        until(lambda: min(one.script.requests, other.script.requests) > 0, answered)
        silent.vanish()
        in_a_row = 0
        for _ in range(200):
            in_a_row = in_a_row + 1 if answered() else 0
            if in_a_row == 20:
                break
        assert in_a_row == 20
    silent.close()


def test_a_connection_may_take_its_time(pair: tuple[Fake, Fake]) -> None:
    far = Silent(pair[0])
    far.pause(0.4)
    with Classifier(far.address, "fake", retries=0) as classify:
        assert classify("12345").labels == ["short", "long"]
    far.close()


def test_what_grpc_is_told() -> None:
    assert grpc_target("localhost:8001") == ("localhost:8001", ())
    assert grpc_target("127.0.0.1:8001") == ("127.0.0.1:8001", ())
    target, options = grpc_target("bantam-headless.texts.svc:8001")
    assert target == "bantam-headless.texts.svc:8001"
    assert "round_robin" in dict(options)["grpc.service_config"]  # type: ignore[operator]
    assert grpc_target("127.0.0.1:1,10.0.0.2:2")[0] == "ipv4:127.0.0.1:1,10.0.0.2:2"
    assert grpc_target("127.0.0.1:1,[fd00::2]:2")[0] == "ipv6:[::ffff:127.0.0.1]:1,[fd00::2]:2"
    with pytest.raises(UserError, match=r"Got 'no\.such\.invalid' among several addresses, and no such host is known"):
        grpc_target("127.0.0.1:1,no.such.invalid:2")


@pytest.mark.parametrize(
    ("address", "options", "words"),
    [
        ("127.0.0.1:1,", {}, "Got address '127.0.0.1:1,', expected host:port"),
        ("127.0.0.1:1, 127.0.0.1:2", {}, "expected host:port"),
        ("127.0.0.1:1,127.0.0.1:2", {"protocol": "http"}, "for HTTP, expected one; several can be given for gRPC"),
        ("127.0.0.1:1,127.0.0.1:2", {"tls": True}, "with TLS.* Give one name that stands for all of them in DNS"),
        ("127.0.0.1:1,10.0.0.2:2", {"token": "t"}, "Got a token for 10.0.0.2 without TLS"),
    ],
)
def test_what_cannot_be_is_refused(address: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Classifier(address, "fake", **options)
