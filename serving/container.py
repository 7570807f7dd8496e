"""Runs ``bantam serve`` in a container, where Triton cannot run by itself: macOS, Windows, and wherever one is wanted.

::

    with Container(Path("model_repo")) as container:
        print(container.grpc_address)

The container may do next to nothing: no user of this machine, a file system that is read only, no capabilities; its
ports are published on loopback unless asked otherwise.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bantam.errors import ContainerError
from serving.docker_engine import engine, translated
from serving.ports import free_ports
from serving.repository import models as published_models

if TYPE_CHECKING:
    from docker import DockerClient

IMAGE_VARIABLE = "BANTAM_IMAGE"
IMAGE = "bantam-cpu"
LABEL = "bantam.serves"
"""Set on containers that are started here; its value is the name that :func:`take_down` looks for."""
STOP_LABEL = "bantam.stop-seconds"
"""How long the container may take to end, for who stops it later."""
LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104  # only where it is asked for
PORTS = {"grpc": 8001, "http": 8000, "watch": 8003}
"""Inside the container."""
HOST_OPTIONS = {"grpc": "--host", "http": "--http-host", "watch": "--watch-host"}
GRACE_S = 40
"""How long it may take to end after it has drained: it answers what it has begun, and Triton unloads its models."""
START_TIMEOUT_S = 120.0
POLL_S = 0.1
RESTRICTED = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "shm_size": "256m",  # for --isolated
    "tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=256m"},  # noqa: S108  # the container's
}
"""What a container of ours does without."""


def image_name() -> str:
    """The image to run: named in BANTAM_IMAGE, else what ``make image`` builds."""
    return os.environ.get(IMAGE_VARIABLE) or IMAGE


def what_arm_lacks() -> str:
    """What is to be said of this processor; empty on x86-64."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return ""
    return (
        f"This is {platform.machine()}: nvidia-pytriton, which carries Triton, has builds for x86-64 alone, so Docker "
        "emulates it. It is several times slower, and its figures say nothing about a server."
    )


class Container:
    """A container that serves the models of a repository from ``start`` (or ``with``) to ``stop``.

    ``repository``: mounted read only; None for the models that are baked into the image. ``models``: names; all if
    empty. ``host``, ``http_host``, ``watch_host``: where each port is published, as outside of a container; port 0
    takes a free one. ``network``: ``host`` for a server on this machine's own network, as fast as one outside a
    container; the ports are then those that it listens on. ``name``: of the container. ``options``: more for
    ``bantam serve``. ``drain_s``: so long it still answers when it is told to stop. ``keeps``: it outlives this
    process, and starts again with the engine.
    """

    def __init__(
        self,
        repository: Path | None,
        *,
        image: str = "",
        models: Sequence[str] = (),
        host: str = LOOPBACK,
        http_host: str = LOOPBACK,
        watch_host: str = LOOPBACK,
        grpc_port: int = 0,
        http_port: int = 0,
        watch_port: int = 0,
        network: str = "bridge",
        name: str = "",
        options: Sequence[str] = (),
        drain_s: float = 0.0,
        keeps: bool = False,
        timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._repository = repository
        self.image = image or image_name()
        self.models = tuple(models or (published_models(repository) if repository else ()))
        self.hosts = {"grpc": host, "http": http_host, "watch": watch_host}
        self._network, self._name, self._options, self._drain_s = network, name, tuple(options), drain_s
        self._wanted = {"grpc": grpc_port, "http": http_port, "watch": watch_port}
        self._keeps, self._timeout_s = keeps, timeout_s
        self._ports: dict[str, int] = {}
        self._client: DockerClient | None = None
        self.container: Any = None
        """docker's own object while it runs."""

    @property
    def grpc_address(self) -> str:
        """``host:port``."""
        return self._address("grpc")

    @property
    def http_address(self) -> str:
        """``host:port``."""
        return self._address("http")

    @property
    def watch_address(self) -> str:
        """``host:port`` of ``/live``, ``/ready`` and ``/metrics``."""
        return self._address("watch")

    def start(self) -> Self:
        """Start the container and wait until all its models answer.

        Raises :class:`ContainerError` if there is no engine or image, a port is in use, or the server does not come up;
        the message then has the last lines that it wrote.
        """
        if self._repository is not None and not self._repository.is_dir():
            raise ContainerError(f"{self._repository}: no such folder, expected a model repository.")
        self._client = engine()
        try:
            if self._network == "host":
                self._wanted = free_ports(self.hosts, self._wanted)
            with translated("The container was not started"):
                self.container = self._create(self._client)
                self.container.start()
                self._ports = self._published()
                self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Have it end in order, by force after its time to do so, and remove it. Does nothing if it is not there."""
        container, self.container = self.container, None
        if container is not None:
            _remove(container)
        self.leave()

    def leave(self) -> None:
        """Have no more to do with it: it goes on by itself."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def lines(self) -> Iterator[str]:
        """What the server writes, as it comes, until it ends."""
        with translated("What the container writes cannot be read"):
            for line in self.container.logs(stream=True, follow=True):
                yield line.decode("utf-8", "replace").rstrip("\n")

    def exit_code(self) -> int:
        """Wait for its end; the exit code of ``bantam serve``."""
        with translated("How the container ended cannot be known"):
            return int(self.container.wait()["StatusCode"])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _create(self, client: DockerClient) -> Any:
        from docker.errors import ImageNotFound

        try:
            # Not `run`, which pulls what is not there: the name may be somebody else's on Docker Hub.
            return client.containers.create(self.image, self._arguments(), **self._run_options())
        except ImageNotFound as exc:
            raise ContainerError(
                f"No image {self.image!r} on this machine. Build it with 'make image', pull it with docker pull, or "
                f"name another in {IMAGE_VARIABLE}."
            ) from exc

    def _arguments(self) -> list[str]:
        """For ``bantam serve``, after those in the image, which listens for all that its network lets in."""
        found = [*self.models, "--http-host", EVERYWHERE]  # of the container: published where it was asked for
        if self._network == "host":
            found = [
                *self.models,
                *(word for name, option in HOST_OPTIONS.items() for word in (option, self.hosts[name])),
            ]
            found += [word for name, port in self._wanted.items() for word in (f"--{name}-port", str(port))]
        drain = ["--drain-seconds", f"{self._drain_s:g}"] if self._drain_s else []
        return [*found, *drain, *self._options]

    def _run_options(self) -> dict[str, Any]:
        folder = str(self._repository.resolve()) if self._repository else ""
        inside = self._network == "host"
        return {
            **RESTRICTED,
            "platform": "linux/amd64",
            "labels": {LABEL: self._name or "one", STOP_LABEL: str(math.ceil(self._drain_s + GRACE_S))},
            **({"network_mode": "host"} if inside else {"ports": self._publish()}),
            **({"name": self._name} if self._name else {}),
            **({"volumes": {folder: {"bind": "/models", "mode": "ro"}}} if folder else {}),
            # The image's own user has no right to a private folder. Root's is not taken over.
            **({"user": f"{os.getuid()}:{os.getgid()}"} if folder and os.name == "posix" and os.getuid() else {}),
            **({"restart_policy": {"Name": "unless-stopped"}} if self._keeps else {}),
        }

    def _publish(self) -> dict[str, tuple[str, int | None]]:
        return {f"{PORTS[name]}/tcp": (self.hosts[name], port or None) for name, port in self._wanted.items()}

    def _published(self) -> dict[str, int]:
        if self._network == "host":
            return dict(self._wanted)
        self.container.reload()
        ports = self.container.attrs["NetworkSettings"]["Ports"]
        return {name: int(ports[f"{inside}/tcp"][0]["HostPort"]) for name, inside in PORTS.items() if ports}

    def _address(self, name: str) -> str:
        if name not in self._ports:
            raise ContainerError("The container is not running, so it has no address. Call start() first.")
        return f"{self.hosts[name]}:{self._ports[name]}"

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not (self._ports and self._ready()):
            self.container.reload()
            if self.container.status not in ("created", "running"):
                raise ContainerError(f"The server in the container ended.{self._said()}")
            if time.monotonic() > deadline:
                raise ContainerError(f"The container was not ready after {self._timeout_s:.0f} s.{self._said()}")
            time.sleep(POLL_S)

    def _ready(self) -> bool:
        host = LOOPBACK if self.hosts["watch"] == EVERYWHERE else self.hosts["watch"]
        connection = http.client.HTTPConnection(host, self._ports["watch"], timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/ready")
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False  # not listening yet

    def _said(self, most: int = 15) -> str:
        text = self.container.logs(tail=most).decode("utf-8", "replace")
        return "".join(f"\n  {line}" for line in text.splitlines())


def is_up(name: str) -> bool:
    """Whether there is a container of this name that was started here. Raises :class:`ContainerError`."""
    with contextlib.closing(engine()) as client:
        return bool(_started(client, lambda value: value == name))


def take_down(*patterns: str) -> list[str]:
    """Stop in order and remove the containers that were started here with such names (``fnmatch``); returns these.

    Raises :class:`ContainerError`.
    """
    with contextlib.closing(engine()) as client:
        found = _started(client, lambda value: any(fnmatchcase(value, pattern) for pattern in patterns))
        for container in found:
            _remove(container)
        return [str(container.name) for container in found]


def _started(client: DockerClient, wanted: Callable[[str], bool]) -> list[Any]:
    with translated("Containers cannot be listed"):
        found = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        return [container for container in found if wanted(container.labels[LABEL])]


def _remove(container: Any) -> None:
    from docker.errors import APIError, NotFound

    with translated(f"The container {container.name} was not removed"), contextlib.suppress(NotFound):
        with contextlib.suppress(APIError):  # it has ended
            container.stop(timeout=int(container.labels.get(STOP_LABEL, GRACE_S)))
        try:
            container.remove(force=True)
        except APIError as exc:
            if exc.status_code != HTTPStatus.CONFLICT:  # somebody else removes it already
                raise
