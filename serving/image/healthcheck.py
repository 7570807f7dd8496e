"""Says by its exit code whether the server in this container answers: what the image's HEALTHCHECK runs.

Where the watch listens, the container's first process was told: its options may follow the image's name, and with the
host's network two containers may not listen in the same place. Standard library only, and little of it: it runs every
few seconds.
"""

from __future__ import annotations

import socket
import sys

FIRST_PROCESS = "/proc/1/cmdline"
HOST, PORT = "127.0.0.1", 8003
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what is asked where it listens on all addresses
TIMEOUT_S = 4.0


def watch_of(command_line: bytes) -> tuple[str, int]:
    """Where the watch of a ``bantam serve`` can be asked, by its command line in /proc. The last option counts."""
    words = command_line.decode("utf-8", "replace").split("\0")
    found = {"--watch-host": HOST, "--watch-port": str(PORT)}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in found:
            found[name] = value if equals else following
    host, port = found.values()
    return EVERYWHERE.get(host, host), int(port)


def is_ready(host: str, port: int, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether ``/ready`` there answers 200."""
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


if __name__ == "__main__":
    with open(FIRST_PROCESS, "rb") as file:  # without pathlib, which takes longer to import than all of this
        sys.exit(0 if is_ready(*watch_of(file.read())) else 1)
