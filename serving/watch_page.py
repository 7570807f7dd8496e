"""What the watch tells others over HTTP: ``/live``, ``/ready`` and ``/metrics``; nothing can be done to it there."""

from __future__ import annotations

import json
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import NamedTuple

from bantam.errors import ServerError
from serving.metrics import CONTENT_TYPE

TIMEOUT_S = 10.0
"""How long a client may take to ask."""


class Reply(NamedTuple):
    """To a request."""

    status: HTTPStatus
    body: str
    content_type: str = CONTENT_TYPE


def as_json(good: bool, document: Mapping[str, object]) -> Reply:
    """200 or 503, with the reasons."""
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return Reply(status, json.dumps(document) + "\n", "application/json")


class WatchPage:
    """Listens from the moment that it is made until :meth:`close`.

    ``pages``: what answers a path. ``log`` is told what is wrong with one. Raises :class:`ServerError` if the port
    cannot be used; 0 takes a free one.
    """

    def __init__(
        self, host: str, port: int, pages: Mapping[str, Callable[[], Reply]], log: Callable[[str], None]
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = TIMEOUT_S
            server_version = "bantam"
            sys_version = ""

            def do_GET(self) -> None:
                make = pages.get(self.path.partition("?")[0])
                answer = make() if make else Reply(HTTPStatus.NOT_FOUND, f"Expected {', '.join(pages)}.\n")
                body = answer.body.encode()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                """Who asked is nothing for the log."""

        class Listener(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True
            block_on_close = False

            def server_bind(self) -> None:
                TCPServer.server_bind(self)  # HTTPServer's own asks the network for this machine's name
                self.server_name, self.server_port = host, self.server_address[1]

            def handle_error(self, *_: object) -> None:
                if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # somebody hung up
                    log(f"WARNING: The watch could not answer a request:\n{traceback.format_exc()}")

        try:
            self._listener = Listener((host, port), Handler)
        except (OSError, OverflowError) as exc:
            raise ServerError(
                f"Port {port} on {host}, wanted for the watch, cannot be used ({exc}). Stop what uses it, or choose "
                "another port with --watch-port; 0 takes a free one."
            ) from exc
        self.address = f"{host}:{self._listener.server_port}"
        """``host:port``."""
        threading.Thread(target=self._listener.serve_forever, name="watch-page", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._listener.shutdown()
        self._listener.server_close()
