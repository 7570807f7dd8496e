"""What an operator may ask of a server, beside which models it serves and where it listens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bantam.errors import UserError
from serving.view import Target

SIZE = re.compile(r"(?P<number>\d+)(?P<unit>|k|M|G)B?", re.IGNORECASE)
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def size_in_bytes(text: str) -> int:
    """``100MB`` as bytes. Raises :class:`UserError`."""
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise UserError(f"Got the size {text!r}, expected a number of bytes, or one of kB, MB or GB, such as 100MB.")
    return int(found["number"]) * UNITS[found["unit"].lower()]


@dataclass(frozen=True)
class Settings:
    """How a server answers; by default on the CPU, without TLS, cache, traces or limits."""

    cert: Path | None = None
    """PEM file of the certificate with its chain: gRPC is encrypted."""
    key: Path | None = None
    """PEM file of the certificate's private key."""
    client_ca: Path | None = None
    """PEM file of the authorities that sign clients' certificates: who has none is refused."""
    cache_bytes: int = 0
    """How much of its answers each model keeps; 0: none."""
    request_bytes: int = 0
    """The most that the texts of one request may have; 0: no limit."""
    trace_endpoint: str | None = None
    """Where OpenTelemetry's traces go, in OTLP over HTTP."""
    trace_rate: int = 1000
    """One of so many requests is traced."""
    drain_s: float = 0.0
    """How long the server still answers when it was told to stop. Half of it is the longest age of gRPC's connections:
    Triton unloads its models before it closes any, and who has one by then is told that there is no such model.
    """

    target: Target = "cpu"
    """Where models run that were made for it; the others run on the CPU."""

    def __post_init__(self) -> None:
        """Refuse (:class:`UserError`) what would make a Triton that does not start, or one without TLS."""
        if (self.cert is None) != (self.key is None) or (self.client_ca is not None and self.cert is None):
            raise UserError(
                "Got only some of a certificate, its key and an authority for clients. TLS takes a certificate and its "
                "key; an authority besides asks clients for certificates too."
            )
        for path in (self.cert, self.key, self.client_ca):
            if path is not None:
                _check(path)
        if self.trace_endpoint is not None and not re.match(r"https?://[^\s,]+$", self.trace_endpoint):
            raise UserError(
                f"Got the trace endpoint {self.trace_endpoint!r}, expected a URL: http://localhost:4318/v1/traces."
            )

    def options(self) -> list[str]:
        """Triton's options."""
        found = [f"--grpc-max-connection-age={max(int(self.drain_s * 500), 1)}"] if self.drain_s > 0 else []
        if self.cert is not None and self.key is not None:
            found += [f"--grpc-server-cert={self.cert.resolve()}", f"--grpc-server-key={self.key.resolve()}"]
            if self.client_ca is None:
                found.append("--grpc-use-ssl=true")
            else:
                found += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={self.client_ca.resolve()}"]
        if self.trace_endpoint is not None:
            found += [
                "--trace-config=mode=opentelemetry",
                f"--trace-config=opentelemetry,url={self.trace_endpoint}",
                f"--trace-config=rate={self.trace_rate}",
                "--trace-config=level=TIMESTAMPS",  # times, and no tensors: these are somebody's texts
            ]
        return found

    def environment(self, counts: Path, token: str) -> dict[str, str]:
        """What models read, in Triton's process or in one of their own; they count into the folder ``counts``.

        ``token``: what a request of the watch's says, which is not refused however many others wait.
        """
        return {
            "BANTAM_WATCH": token,
            "BANTAM_COUNTS": str(counts),
            "BANTAM_CACHE_BYTES": str(self.cache_bytes),
            "BANTAM_REQUEST_BYTES": str(self.request_bytes),
        }


def _check(path: Path) -> None:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise UserError(f"{path} cannot be read ({exc.strerror}); expected a PEM file for TLS.") from exc
    if b"-----BEGIN " not in content:
        raise UserError(f"{path} is not a PEM file, which TLS takes: it has no line that starts with -----BEGIN.")
