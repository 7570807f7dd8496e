"""The Docker engine of this machine, for what runs containers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bantam.errors import ContainerError

if TYPE_CHECKING:
    from docker import DockerClient

USUAL = "unix:///var/run/docker.sock"
TIMEOUT_S = 60


def engine() -> DockerClient:
    """A client of the engine, to be closed. Raises :class:`ContainerError` that says what to do if there is none."""
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as exc:
        raise ContainerError(
            "The Python package 'docker' is missing, which runs containers. Install it: pip install docker."
        ) from exc
    try:
        reach(os.environ.get("DOCKER_HOST") or USUAL)
        client = docker.from_env(timeout=TIMEOUT_S)
        client.ping()
    except (OSError, DockerException) as exc:
        raise ContainerError(
            f"No Docker engine answers ({exc}). Start it (Docker Desktop, or systemctl start docker), be allowed "
            "to use it (group docker), or name its address in DOCKER_HOST."
        ) from exc
    return client


@contextmanager
def translated(what: str) -> Iterator[None]:
    """What Docker refuses inside, or an engine that goes away, is a :class:`ContainerError` beginning with ``what``."""
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as exc:
        raise ContainerError(f"{what}: {exc.explanation or exc}.") from exc
    except (OSError, DockerException) as exc:  # those of requests, which docker asks through, are OSErrors
        raise ContainerError(f"{what}: {exc}. `make doctor` says whether the engine still answers.") from exc


def reach(address: str) -> None:
    """Raise ``OSError`` if nobody listens at a socket of this machine; says nothing of other addresses.

    First, because the package that is asked next leaves such a connection open, and speaks of it in many words.
    """
    path = address.removeprefix("unix://")
    if path != address and hasattr(socket, "AF_UNIX"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(path)
