"""Asks a running Triton as its clients do: a text of the watch's own through a model, and a greeting over gRPC.

The text goes over HTTP, on a connection of its own each time: Triton waits for connections that are kept open when it
is told to end, and over gRPC it may ask for a certificate that the watch does not have.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
import ssl
import threading
import time
from typing import Any

from serving.backend.counts import PROBE
from serving.health import Probed
from serving.settings import Settings

TIMEOUT_S = 120.0
"""Then another probe is sent, and the answer is awaited since the first: that is no failure, for it may be a queue."""
GREETING_S = 5.0
PAUSE_S = 0.25
"""Between two probes of a model that answers fast."""
SHARE = 20
"""A model that answers slowly is asked less often, so that probes take no more than the 20th part of its time."""
LONGEST_PAUSE_S = 2.0
"""And not less often than that."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a connection over HTTP/2 begins (RFC 9113, 3.4), with empty settings; the server answers with its own."""
FRAME_HEAD, FRAME_TYPE, SETTINGS = 9, 3, 4
"""Bytes before a frame's content, which of them says what it is, and what it says there (RFC 9113, 4.1 and 6.5)."""


class ProbeError(Exception):
    """What was answered in place of scores, or why nothing was."""


class LateError(Exception):
    """Nothing was answered yet."""


def infer(address: str, model: str, text: str, columns: int, token: str) -> str:
    """Have a text scored, or ``columns`` times the same for a model of pairs; returns the version that did it.

    An overloaded server does not refuse it, by the ``token`` that it was started with.

    Raises :class:`ProbeError` or :class:`LateError`.
    """
    tensor = {"name": "TEXT", "shape": [1, columns], "datatype": "BYTES", "data": [text] * columns}
    request = {"inputs": [tensor], "parameters": {"bantam_watch": token}}
    answer = _ask(address, "POST", f"/v2/models/{model}/infer", json.dumps(request))
    try:
        scores = answer["outputs"][0]["data"]
        if scores and all(isinstance(score, int | float) for score in scores):
            return str(answer["model_version"])
    except (KeyError, IndexError, TypeError):
        pass
    raise ProbeError(f"{model} answered without scores")


def columns_of(address: str, model: str) -> int:
    """How many texts belong to one answer: 2 for a model of pairs. Raises :class:`ProbeError` or :class:`LateError`."""
    try:
        return int(_ask(address, "GET", f"/v2/models/{model}/config")["input"][0]["dims"][0])
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise ProbeError(f"{model} has no configuration of a classifier of texts") from exc


def greet(address: str, settings: Settings) -> None:
    """See that gRPC greets back as HTTP/2 does, or where it asks for a certificate, TLS. Raises :class:`ProbeError`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=GREETING_S) as connection:
            if settings.cert is None:
                found = _settings_of(connection)
            elif settings.client_ca is None:
                with _tls().wrap_socket(connection) as encrypted:
                    found = _settings_of(encrypted)
            else:
                found = _hello_of(connection)
    except OSError as exc:
        raise ProbeError(f"gRPC does not answer ({exc})") from exc
    if not found:
        raise ProbeError("gRPC closed the connection, or does not speak as it should")


def _tls() -> ssl.SSLContext:
    """Speaks with whoever has a certificate: one that has run out is nothing that another start would mend."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def _settings_of(connection: socket.socket) -> bool:
    """Whether a server's settings are the first that it says to us over HTTP/2."""
    connection.sendall(PREFACE)
    head = b""
    while len(head) < FRAME_HEAD and (more := connection.recv(FRAME_HEAD - len(head))):
        head += more
    return len(head) == FRAME_HEAD and head[FRAME_TYPE] == SETTINGS


def _hello_of(connection: socket.socket) -> bool:
    """Whether a server answers the first words of TLS; the next would be a certificate of ours."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        _tls().wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    connection.sendall(outgoing.read())
    return len(connection.recv(1)) == 1


def _ask(address: str, method: str, path: str, body: str | None = None) -> Any:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, {"Connection": "close"})
        response = connection.getresponse()
        content = response.read()
    except TimeoutError as exc:
        raise LateError from exc
    except (OSError, http.client.HTTPException) as exc:
        raise ProbeError(f"HTTP does not answer ({type(exc).__name__}: {exc})") from exc
    finally:
        connection.close()
    with contextlib.suppress(ValueError):
        answer = json.loads(content)
        if response.status == http.HTTPStatus.OK:
            return answer
        raise ProbeError(str(answer.get("error", answer))[:200] if isinstance(answer, dict) else "no JSON object")
    raise ProbeError(f"status {response.status}, and no JSON")


class Prober(threading.Thread):
    """Asks one model again and again while Triton runs, and keeps what came of it in ``seen``."""

    def __init__(self, model: str, http_address: str, grpc_address: str, settings: Settings, token: str) -> None:
        super().__init__(name=f"probe-{model}", daemon=True)
        self.model = model
        self._http, self._grpc, self._settings = http_address, grpc_address, settings
        self._token = token
        self._columns = 0  # not known yet
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        self.seen = Probed()

    def forget(self) -> None:
        """What it has seen was another Triton's."""
        self.seen = Probed(count=self.seen.count)

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def run(self) -> None:
        """Until :meth:`stop`."""
        pause = 0.0
        while not self._stopped.wait(pause):
            seen = self.seen
            began = time.monotonic()
            seen.asked = seen.asked or began
            try:
                version = self._probe()
            except LateError:
                pause = PAUSE_S
            except ProbeError as exc:
                seen.failed(str(exc), time.monotonic())
                self._columns = 0  # another version may read another number
                pause = PAUSE_S
            else:
                seconds = time.monotonic() - began
                seen.answered(version, seconds)
                pause = min(max(PAUSE_S, SHARE * seconds), LONGEST_PAUSE_S)

    def _probe(self) -> str:
        self._columns = self._columns or columns_of(self._http, self.model)
        # Another text each time, so that no cache answers for the model.
        version = infer(self._http, self.model, f"{PROBE}{next(self._numbers)}", self._columns, self._token)
        greet(self._grpc, self._settings)
        return version
