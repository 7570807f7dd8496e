"""One address in front of several servers, as a cluster's service is: what connects goes to the first that is ready."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Sequence
from typing import Self

WAIT_S = 10.0
"""How long what connects waits for a server; on a busy machine, one may be late and say that it is not ready."""


def is_ready(watch_address: str) -> bool:
    """Whether a server's watch says so."""
    host, port = watch_address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Balancer:
    """Listens on loopback while it is open. ``servers``: where each answers, and its watch."""

    def __init__(self, servers: Sequence[tuple[str, str]]) -> None:
        self._servers = servers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        deadline = time.monotonic() + WAIT_S
        while not (address := self._ready()) and time.monotonic() < deadline:
            time.sleep(0.1)
        host, _, port = address.partition(":")
        with contextlib.suppress(OSError, ValueError), socket.create_connection((host, int(port))) as server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()
        client.close()

    def _ready(self) -> str:
        return next((address for address, watch in self._servers if is_ready(watch)), "")


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Until one of them ends; then both do."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
