"""``bantam up`` and ``bantam down``, and ``bantam serve --container``."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from typer import Argument, Option

from bantam.commands.app import Json, command
from bantam.commands.serve_options import ServeOptions
from bantam.commands.terminal import log
from bantam.errors import ContainerError
from bantam.run.request import REPOSITORY, Repository

if TYPE_CHECKING:
    from serving.container import Container

NAME = "bantam"
IN_FOREGROUND = "{}-serve-{}"
"""Names of containers of ``bantam serve``, so that ``bantam down`` finds what a killed one has left."""
DRAIN_S = 5.0
"""Of ``bantam up``: clients that are connected go elsewhere, or wait, in place of being told NOT_FOUND."""
OURS = ("container", "drain_seconds", "log_format", "watch_host", "watch_port")
"""What does not go on as it is, such as where the ports are published."""


@command(examples="Example:  bantam up minilm")
def up(
    models: Annotated[list[str] | None, Argument(help="Published names; all if left out.")] = None,
    repository: Repository = REPOSITORY,
    image: Annotated[str, Option(help="Image to run; that of `make image` if left out.")] = "",
    baked: Annotated[
        bool, Option("--baked", help="Serve what is baked into the image, in place of a repository.")
    ] = False,
    grpc_port: Annotated[int, Option(help="Port for gRPC.", min=0, max=65535)] = 8001,
    http_port: Annotated[int, Option(help="Port for HTTP.", min=0, max=65535)] = 8000,
    watch_port: Annotated[int, Option(help="Port for /live, /ready and /metrics.", min=0, max=65535)] = 8003,
    as_json: Json = False,
) -> None:
    """Serve published models in a container, on loopback, until `bantam down`."""
    from serving import container

    if container.is_up(NAME):
        raise ContainerError("It is up already, expected no such container. `bantam down` ends it.")
    _warn_of_arm(log)
    started = container.Container(
        None if baked else repository,
        image=image,
        models=models or (),
        grpc_port=grpc_port,
        http_port=http_port,
        watch_port=watch_port,
        name=NAME,
        drain_s=DRAIN_S,
        keeps=True,
    ).start()
    _announce(started, as_json, log)
    started.leave()
    log("It goes on until `bantam down` (make down); `docker logs -f bantam` shows what it writes.")


@command(examples="Example:  bantam down")
def down() -> None:
    """End what `bantam up` and `bantam serve --container` have started: it answers what it has begun and is removed."""
    from serving import container

    ended = container.take_down(NAME, IN_FOREGROUND.format(NAME, "*"))
    log(f"It is down: {', '.join(ended)}." if ended else "Nothing was up.")


def is_needed() -> bool:
    """Whether Triton cannot run here by itself."""
    return (platform.system(), platform.machine()) != ("Linux", "x86_64")


def serve_in_container(
    repository: Path,
    models: Sequence[str],
    options: ServeOptions,
    isolated: bool,
    as_json: bool,
    say: Callable[[str], None],
    **where: Any,
) -> NoReturn:
    """``bantam serve`` in a container, until it ends or is interrupted.

    ``say``: takes a line about it. ``where``: hosts and ports of gRPC and HTTP, as
    :class:`serving.container.Container` takes them. Raises :class:`ContainerError` if it ended by itself.
    """
    import secrets

    from serving.container import Container

    _warn_of_arm(say)
    with Container(
        repository,
        models=models,
        watch_host=options.watch_host,
        watch_port=options.watch_port,
        name=IN_FOREGROUND.format(NAME, secrets.token_hex(4)),
        options=[*as_arguments(options), *(["--isolated"] if isolated else [])],
        drain_s=options.drain_seconds,
        **where,
    ) as container:
        _announce(container, as_json, say)
        for line in container.lines():
            log(line)  # as it is: documents, if these were asked for
        raise ContainerError(f"The server in the container ended by itself, exit code {container.exit_code()}.")


def as_arguments(options: ServeOptions) -> list[str]:
    """What was asked for, for the ``bantam serve`` inside.

    Raises :class:`ContainerError` for what is not in there: files of this machine, and its GPU.
    """
    if options.target == "gpu":
        raise ContainerError(
            "Got --target gpu for a container, which is given no GPU; expected cpu. Build the image with "
            "`make image KIND=gpu` and run it with docker itself, `docker run --gpus all`: docs/gpu.md has the line."
        )
    found = ["--log-format", options.log_format]  # documents, if nothing is said
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Path):
            raise ContainerError(
                f"Got the file {value}, which is not in the container; expected none. Run the image with docker itself "
                "to mount it: docs/containers.md has the line."
            )
        if value != field.default and field.name not in OURS:
            found += [f"--{field.name.replace('_', '-')}", str(value)]
    return found


def _announce(container: Container, as_json: bool, say: Callable[[str], None]) -> None:
    from bantam.commands.announce import warn_of_http

    grpc, http, watch = container.grpc_address, container.http_address, container.watch_address
    if as_json:
        print(json.dumps({"grpc": grpc, "http": http, "watch": watch, "models": container.models}), flush=True)
    what = ", ".join(container.models) or "what is in it"
    warn_of_http(container.hosts["http"], http, say)
    say(f"Serving {what} from the image {container.image} on {grpc} (gRPC) and {http} (HTTP).")
    say(f"Its watch is on http://{watch}: /live, /ready, /metrics.")


def _warn_of_arm(say: Callable[[str], None]) -> None:
    from serving.container import what_arm_lacks

    if lacks := what_arm_lacks():
        say(f"WARNING: {lacks}")
