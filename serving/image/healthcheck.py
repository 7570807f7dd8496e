"""Says by its exit code whether the server in this container answers: what the image's HEALTHCHECK runs.

Standard library only, and little of it: it runs every few seconds.
"""

from __future__ import annotations

import os
import socket
import sys

PORT_VARIABLE = "BANTAM_WATCH_PORT"
PORT = 8003
TIMEOUT_S = 4.0


def is_ready(port: int, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether ``/ready`` on this machine answers 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if is_ready(int(os.environ.get(PORT_VARIABLE) or PORT)) else 1)
