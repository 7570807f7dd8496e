"""What ``bantam serve`` can be asked beside which models it serves and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

if TYPE_CHECKING:
    from serving.settings import Settings


@dataclass(frozen=True)
class ServeOptions:
    """Options of the container, of the watch, of what is kept, written and refused, and of TLS."""

    container: Annotated[
        bool | None,
        Option(
            "--container/--no-container",
            help="Serve from the image that `make image` builds; if left out, where Triton cannot run by itself.",
            show_default=False,
        ),
    ] = None
    target: Annotated[
        Literal["cpu", "gpu"],
        Option(
            help="gpu: models that were made for it run on the first NVIDIA GPU; the others, and all with cpu, do not."
        ),
    ] = "cpu"
    watch_host: Annotated[str, Option(help="Address for /live, /ready and /metrics of the watch.")] = "127.0.0.1"
    watch_port: Annotated[int, Option(help="Port for them.", min=0, max=65535)] = 8003
    drain_seconds: Annotated[
        float,
        Option(
            help="So long it still answers when it is told to stop, while /ready says no, and within so long gRPC "
            "clients connect anew, so that a load balancer can send them elsewhere.",
            min=0,
        ),
    ] = 0.0
    log_format: Annotated[
        Literal["text", "json"], Option(help="json: a document a line on standard error, Triton's log too.")
    ] = "text"
    cache: Annotated[
        str, Option(help="Keep so much of each model's answers, such as 100MB: same text, same version, same answer.")
    ] = "0"
    max_request: Annotated[
        str, Option(help="Refuse a request whose texts are larger; 0: no limit. gRPC itself takes 2 GB.")
    ] = "64MB"
    tls_cert: Annotated[
        Path | None, Option(help="PEM file of the server's certificate with its chain: encrypts gRPC.")
    ] = None
    tls_key: Annotated[Path | None, Option(help="PEM file of the certificate's key.")] = None
    tls_client_ca: Annotated[
        Path | None, Option(help="PEM file of who signs clients' certificates; clients without one are refused.")
    ] = None
    trace_endpoint: Annotated[
        str | None, Option(help="Send OpenTelemetry traces, without texts, there: http://HOST:4318/v1/traces.")
    ] = None
    trace_rate: Annotated[int, Option(help="Trace one of so many requests.", min=1)] = 1000

    def settings(self) -> Settings:
        """As the server takes them. Raises :class:`UserError`."""
        from serving.settings import Settings, size_in_bytes

        return Settings(
            cert=self.tls_cert,
            key=self.tls_key,
            client_ca=self.tls_client_ca,
            cache_bytes=size_in_bytes(self.cache),
            request_bytes=size_in_bytes(self.max_request),
            trace_endpoint=self.trace_endpoint,
            trace_rate=self.trace_rate,
            drain_s=self.drain_seconds,
            target=self.target,
        )
