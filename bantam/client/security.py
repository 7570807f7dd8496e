"""TLS, and who may be told a token."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bantam.errors import UserError

Token = str | Callable[[], str]
"""A bearer token, or what gives one: it is called for each request, so that tokens may expire."""

BEARER = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
"""The characters of a bearer token (RFC 6750, section 2.1)."""


@dataclass(frozen=True, slots=True)
class TLS:
    """How a connection is encrypted; paths of PEM files.

    ``TLS()`` is enough for a server whose certificate a public authority signed. ``UserError`` if a file cannot be
    read, or if one of ``cert`` and ``key`` is there without the other.
    """

    ca: Path | str | None = None
    """The authorities to trust; without it, those of the system over HTTP, and those that gRPC brings over gRPC."""
    cert: Path | str | None = None
    """The client's certificate with its chain, for servers that ask for one."""
    key: Path | str | None = None
    """The private key of ``cert``, without a passphrase."""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise UserError("Got one of TLS's cert and key without the other. Give both, or neither.")
        try:
            self.context()  # reads the files: a wrong one is told when the client is made, over both protocols alike
        except (OSError, ValueError) as exc:
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            raise UserError(
                f"TLS cannot use {files or 'the system certificates'}: {exc}. Expected PEM files that can be read, "
                "with the key that belongs to the certificate."
            ) from exc

    def context(self) -> ssl.SSLContext:
        """What Python's ssl makes of it."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key, password=_no_passphrase)
        return context

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """What the three files hold: authorities, key, certificate, in gRPC's order."""
        ca, key, cert = (None if path is None else Path(path).read_bytes() for path in (self.ca, self.key, self.cert))
        return ca, key, cert


def _no_passphrase() -> bytes:
    raise ValueError("the key has a passphrase")  # OpenSSL would ask for it on the terminal, and wait


def check_token(token: Token | None, host: str, tls: TLS | None) -> None:
    """Refuse (:class:`UserError`) a token that is none, or that would travel unencrypted to another machine."""
    if token is None:
        return
    if tls is None and not is_loopback(host):
        raise UserError(
            f"Got a token for {host} without TLS: all on the way could read it. Give tls=True, or TLS(ca=...)."
        )
    if isinstance(token, str):
        bearer(token)


def bearer(token: Token) -> str:
    """The value of the Authorization header. Raises :class:`UserError`, which does not tell the token."""
    value = token if isinstance(token, str) else token()
    if not isinstance(value, str) or not BEARER.fullmatch(value):
        raise UserError("Got a token that is not of a bearer token's characters (letters, digits, -._~+/=).")
    return f"Bearer {value}"


def is_loopback(host: str) -> bool:
    """Whether the host is this machine by its name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
