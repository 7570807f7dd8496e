"""The doctor's look at Docker, where there is an engine, none, or one that may not be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bantam.doctor import containers
from bantam.doctor.check import Check
from bantam.errors import ContainerError
from serving import container, docker_engine
from serving.image import build


class Engine:
    """What of docker's client is asked."""

    def __init__(self, *tags: str) -> None:
        self.tags = tags
        self.images = self

    def close(self) -> None:
        """Nothing is open."""

    def list(self) -> Any:
        """The images."""
        return [self]

    def version(self) -> dict[str, str]:
        """Of the engine."""
        return {"Version": "28.2.2", "Os": "linux", "Arch": "amd64"}


def looked(monkeypatch: pytest.MonkeyPatch, engine: Engine | ContainerError, machine: str = "x86_64") -> list[Check]:
    def given() -> Engine:
        if isinstance(engine, ContainerError):
            raise engine
        return engine

    monkeypatch.setattr(docker_engine, "engine", given)
    monkeypatch.setattr(build, "client", lambda: "/usr/bin/docker")
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.delenv(container.IMAGE_VARIABLE, raising=False)
    return containers.docker_engine(Path())


def test_an_engine_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked(monkeypatch, Engine("bantam-cpu:latest", "other:1"))
    assert found == [
        Check("Docker", "ok", "engine 28.2.2 for linux/amd64"),
        Check("image build", "ok", "/usr/bin/docker"),
        Check("image", "ok", "bantam-cpu:latest"),
    ]


def test_an_engine_without_the_image_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    docker, _, image = looked(monkeypatch, Engine())
    assert docker.status == "ok"
    assert (image.status, image.found) == ("missing", "no image bantam-cpu:latest")
    assert "make image" in image.advice


def test_on_arm_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    docker, *_ = looked(monkeypatch, Engine(), "arm64")
    assert docker.status == "warning"
    assert "nvidia-pytriton" in docker.advice


def test_a_docker_that_cannot_build_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER", "docker")
    found = containers._builder()
    assert (found.name, found.status) == ("image build", "missing")
    assert found.found == "Got no docker on the PATH, expected Docker with its plugin buildx"
    assert "docker-buildx" in found.advice


@pytest.mark.parametrize(
    ("why", "advice"),
    [("Permission denied", "usermod -aG docker"), ("Connection refused", "Docker")],
)
def test_an_engine_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, why: str, advice: str) -> None:
    (found,) = looked(monkeypatch, ContainerError(f"No Docker engine answers ({why}). Start it."))
    assert (found.status, found.found) == ("missing", f"No Docker engine answers ({why})")
    assert advice in found.advice


def test_before_the_set_up_the_command_line_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = ContainerError("The Python package 'docker' is missing.")
    missing.__cause__ = ImportError()
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = looked(monkeypatch, missing)
    assert found.found == "no docker command"
    script = tmp_path / "docker"
    script.write_text("#!/bin/sh\necho 28.2.2\n")
    script.chmod(0o755)
    assert looked(monkeypatch, missing) == [Check("Docker", "ok", "engine 28.2.2")]
    script.write_text("#!/bin/sh\nexit 1\n")
    (found,) = looked(monkeypatch, missing)
    assert found.found == "a client, but no daemon that answers"
