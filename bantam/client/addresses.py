"""Where servers are: ``host:port``, or several with commas between, and how gRPC is told to share calls among them."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from bantam.client.security import is_loopback
from bantam.errors import UserError

KEEPALIVE_S = 10.0
"""A server that was silent for so long while it was asked something has to answer a ping within as long."""

Options = tuple[tuple[str, str | int], ...]


class Address(NamedTuple):
    """Of one server, or of one name that may stand for several."""

    host: str
    port: int


def parse(address: str) -> list[Address]:
    """The servers of an address. Raises :class:`UserError`."""
    return [_parse(one, address) for one in address.split(",")]


def _parse(one: str, whole: str) -> Address:
    try:
        parts = urlsplit(f"//{one}")
        if parts.hostname and parts.port and parts.netloc == one and not re.search(r"[@\s]", one):
            return Address(parts.hostname, parts.port)
    except ValueError:  # a port that is no number, a broken IPv6 address
        pass
    raise UserError(
        f"Got address {whole!r}, expected host:port without a scheme, such as 'localhost:8001', or for gRPC several of "
        "them with commas between."
    )


def shared() -> Options:
    """Options of a channel to several servers: it connects to all that there are and goes round those that answer.

    One whose machine has gone never says so: its share of requests would wait in vain for a quarter of an hour, until
    the kernel gives its connection up.
    """
    return (
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
        ("grpc.keepalive_time_ms", int(1000 * KEEPALIVE_S)),
        ("grpc.keepalive_timeout_ms", int(1000 * KEEPALIVE_S)),
        # Of the pings by which gRPC measures a connection's speed: none is sent to keep it alive while one is out.
        ("grpc.http2.ping_timeout_ms", int(1000 * KEEPALIVE_S)),
    )


def grpc_target(address: str) -> tuple[str, Options]:
    """What gRPC calls the servers of a checked address, and the options of a channel to them.

    gRPC looks one name up by itself, again whenever a connection is lost, and takes all addresses that it stands for.
    It has no resolver for several names: they are looked up here, once.
    """
    servers = parse(address)
    if len(servers) == 1:
        # localhost may stand for 127.0.0.1 and ::1, where one server listens on both, or nobody on one.
        return address, () if is_loopback(servers[0].host) else shared()
    found = [(_look_up(server.host), server.port) for server in servers]
    if all(ip.version == 4 for ip, _ in found):
        return "ipv4:" + ",".join(f"{ip}:{port}" for ip, port in found), shared()
    six = [(ip if ip.version == 6 else f"::ffff:{ip}", port) for ip, port in found]
    return "ipv6:" + ",".join(f"[{ip}]:{port}" for ip, port in six), shared()


def _look_up(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of a host, of IPv4 if it has one. Raises :class:`UserError`."""
    with suppress(ValueError):
        return ipaddress.ip_address(host)
    try:
        found = {family: str(where[0]) for family, _, _, _, where in socket.getaddrinfo(host, None)}
    except OSError as exc:
        raise UserError(
            f"Got {host!r} among several addresses, and no such host is known ({exc}). They are looked up when the "
            "client is made; one name that stands for all servers is looked up anew."
        ) from exc
    return ipaddress.ip_address(found.get(socket.AF_INET) or found[socket.AF_INET6])
