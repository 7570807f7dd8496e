"""``bantam serve``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from bantam.commands.app import Json, command
from bantam.commands.serve_options import ServeOptions
from bantam.commands.terminal import log, stop_on_sigterm
from bantam.errors import BantamError
from bantam.run.request import REPOSITORY, Digests, RepositoryAddress

if TYPE_CHECKING:
    from serving.watch import Watch


@command(examples="Examples:  bantam serve   |   bantam serve minilm --grpc-port 9001")
def serve(
    options: ServeOptions,
    models: Annotated[list[str] | None, Argument(help="Published names; all if left out.")] = None,
    repository: RepositoryAddress = str(REPOSITORY),
    digest: Digests = None,
    host: Annotated[
        str, Option(help="Address to listen on for gRPC. The default can be reached from this machine only.")
    ] = "127.0.0.1",
    http_host: Annotated[
        str, Option(help="Address to listen on for HTTP and metrics; what clients need of a model, gRPC has.")
    ] = "127.0.0.1",
    grpc_port: Annotated[int, Option(help="Port for gRPC.", min=0, max=65535)] = 8001,
    http_port: Annotated[int, Option(help="Port for HTTP.", min=0, max=65535)] = 8000,
    isolated: Annotated[
        bool,
        Option(
            "--isolated",
            help="Run each model in a process of its own: one that crashes leaves the others alone, but each request "
            "takes some tenths of a millisecond more.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve models until Ctrl-C or SIGTERM; takes what is promoted meanwhile, starts again what dies or hangs."""
    from bantam.commands import json_log
    from bantam.commands.announce import announce
    from bantam.commands.container import is_needed, serve_in_container
    from serving import gpu
    from serving.mirror import local
    from serving.server import START_TIMEOUT_S, Server
    from serving.watch import Watch

    stop_on_sigterm()
    as_documents = options.log_format == "json"
    say = json_log.log if as_documents else log
    with _errors(as_documents), local(repository, models or (), digest or (), say) as folder:
        where: dict[str, Any] = {"host": host, "http_host": http_host, "grpc_port": grpc_port, "http_port": http_port}
        if is_needed() if options.container is None else options.container:
            serve_in_container(folder, models or (), options, isolated, as_json, say, **where)
        server = Server(
            folder,
            models=models or None,
            follow=True,
            isolated=isolated,
            settings=options.settings(),
            timeout_s=START_TIMEOUT_S if options.target == "cpu" else gpu.START_TIMEOUT_S,
            **where,
        )
        watch = Watch(server, options.watch_host, options.watch_port, say, json_log.triton if as_documents else None)
        _run(watch, options.drain_seconds, lambda: announce(server, watch.address, as_json, say))


def _run(watch: Watch, drain_seconds: float, when_ready: Callable[[], None]) -> None:
    """Until it is told to stop, or gives up."""
    with watch:
        watch.start()
        when_ready()
        try:
            watch.run()
        except KeyboardInterrupt:
            watch.drain(drain_seconds)
            raise


@contextmanager
def _errors(as_documents: bool) -> Iterator[None]:
    """Errors inside are documents where the log is of these."""
    from bantam.commands import json_log

    try:
        yield
    except BantamError as exc:
        if not as_documents:
            raise
        json_log.error(str(exc))
        raise Exit(exc.exit_code) from exc
