"""``bantam serve``."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from bantam.commands.app import Json, command
from bantam.commands.terminal import log, stop_on_sigterm
from bantam.run.request import REPOSITORY, Digests, RepositoryAddress


@command(examples="Examples:  bantam serve   |   bantam serve minilm --grpc-port 9001")
def serve(
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
    """Serve published models until Ctrl-C or SIGTERM; a version that is promoted meanwhile is taken."""
    from bantam.commands.announce import announce
    from serving.mirror import local
    from serving.server import Server

    stop_on_sigterm()
    with (
        local(repository, models or (), digest or (), log) as folder,
        Server(
            folder,
            models=models or None,
            follow=True,
            host=host,
            http_host=http_host,
            grpc_port=grpc_port,
            http_port=http_port,
            isolated=isolated,
        ) as server,
    ):
        announce(server, as_json, log)
        server.wait(log)
