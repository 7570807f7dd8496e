"""Asks a running Triton as its clients do: a text of the watch's own through a model, and a greeting over gRPC.

Over HTTP, on a connection of its own each time: Triton waits for connections that are kept open when it is told to end,
and over gRPC it may ask for a certificate that the watch does not have.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
import threading
import time
from typing import Any

from serving.health import Probed

TIMEOUT_S = 120.0
"""By then something has been done about a probe that is not answered; the connection is closed in any case."""
GREETING_S = 5.0
PAUSE_S = 0.25
"""Between two probes of a model that answers fast."""
SHARE = 20
"""A model that answers slowly is asked less often, so that probes take no more than the 20th part of its time."""
LONGEST_PAUSE_S = 2.0
"""And not less often than that."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a connection over HTTP/2 begins (RFC 9113, 3.4), with empty settings; the server answers with its own."""


class ProbeError(Exception):
    """What was answered in place of scores, or why nothing was."""


def infer(address: str, model: str, text: str, columns: int) -> str:
    """Have a text scored, or ``columns`` times the same for a model of pairs; returns the version that did it.

    Raises :class:`ProbeError`.
    """
    tensor = {"name": "TEXT", "shape": [1, columns], "datatype": "BYTES", "data": [text] * columns}
    answer = _ask(address, "POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}))
    try:
        scores = answer["outputs"][0]["data"]
        if scores and all(isinstance(score, int | float) for score in scores):
            return str(answer["model_version"])
    except (KeyError, IndexError, TypeError):
        pass
    raise ProbeError(f"{model} answered without scores")


def columns_of(address: str, model: str) -> int:
    """How many texts belong to one answer: 2 for a model of pairs. Raises :class:`ProbeError`."""
    try:
        return int(_ask(address, "GET", f"/v2/models/{model}/config")["input"][0]["dims"][0])
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise ProbeError(f"{model} has no configuration of a classifier of texts") from exc


def greet(address: str, encrypted: bool) -> None:
    """See that gRPC answers on its port, as far as can be seen ``encrypted``. Raises :class:`ProbeError`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=GREETING_S) as connection:
            if not encrypted:
                connection.sendall(PREFACE)
                if not connection.recv(9):
                    raise ProbeError("gRPC closed the connection")
    except OSError as exc:
        raise ProbeError(f"gRPC does not answer ({exc})") from exc


def _ask(address: str, method: str, path: str, body: str | None = None) -> Any:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, {"Connection": "close"})
        response = connection.getresponse()
        content = response.read()
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

    def __init__(self, model: str, http_address: str, grpc_address: str, encrypted: bool) -> None:
        super().__init__(name=f"probe-{model}", daemon=True)
        self.model = model
        self._http, self._grpc, self._encrypted = http_address, grpc_address, encrypted
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
            began = seen.asked = time.monotonic()
            try:
                version = self._probe()
            except ProbeError as exc:
                seen.failed(str(exc), began)
                self._columns = 0  # another version may read another number
                pause = PAUSE_S
            else:
                seconds = time.monotonic() - began
                seen.answered(version, seconds)
                pause = min(max(PAUSE_S, SHARE * seconds), LONGEST_PAUSE_S)

    def _probe(self) -> str:
        self._columns = self._columns or columns_of(self._http, self.model)
        # Another text each time, so that no cache answers for the model.
        version = infer(self._http, self.model, f"bantam watch {next(self._numbers)}", self._columns)
        greet(self._grpc, self._encrypted)
        return version
