"""Where a server listens: TCP ports that are wanted, or free ones, and who can reach them."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from bantam.errors import ServerError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    return host in ("localhost", "::1") or host.startswith("127.")


def free_ports(host: str | Mapping[str, str], wanted: Mapping[str, int]) -> dict[str, int]:
    """The ports wanted, each checked to be free, and free ones instead of 0. Raises :class:`ServerError`."""
    sockets = []
    try:
        for protocol, port in wanted.items():
            address = host if isinstance(host, str) else host[protocol]
            listener = socket.socket()
            sockets.append(listener)  # all are held until all are found, so that no two are the same
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections are no bar
            try:
                listener.bind((address, port))
                listener.listen()
            except (OSError, OverflowError) as exc:
                raise ServerError(
                    f"Port {port} on {address}, wanted for {protocol}, cannot be used ({exc}). Stop what uses it, or "
                    "choose another port; 0 takes a free one."
                ) from exc
        return {protocol: s.getsockname()[1] for protocol, s in zip(wanted, sockets, strict=True)}
    finally:
        for listener in sockets:
            listener.close()
