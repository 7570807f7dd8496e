"""A container that serves two models, one an engine, and how to run Python inside it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bantam.artifact import Artifact
from serving.container import Container
from serving.repository import publish
from tests.plugins.images import contained

Inside = Callable[[str], Any]


@pytest.fixture(scope="module")
def repository(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("contained")
    publish(tiny_artifact, root, "tiny", thresholds=[0.5, 0.5, 0.5])
    publish(make_artifact(layout="openvino"), root, "tiny.ov", thresholds=None, threads=1)
    return root


@pytest.fixture(scope="module")
def container(server_image: str, repository: Path) -> Iterator[Container]:
    with contained(repository, server_image) as running:
        yield running


@pytest.fixture(scope="module")
def inside(container: Container) -> Inside:
    """Runs Python code in the container; what it prints is JSON."""

    return functools.partial(inside_of, container)


def inside_of(container: Container, code: str) -> Any:
    done = container.container.exec_run(["/opt/bantam/bin/python", "-I", "-c", code])
    assert done.exit_code == 0, done.output.decode()
    return json.loads(done.output)
