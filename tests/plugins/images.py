"""The image of the server, built once a session from a base that needs no registry, and containers of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.container import Container
from serving.image import build
from tests.plugins.needs import ROOT

TAG, BASE = "bantam-cpu:test", "bantam-test-base"
PLANTED = "planted-4711"
"""In pip's configuration for the build, as the address of an index with a password would be."""


def base_image() -> str:
    """A Debian 12 to start from; empty for the one that the Dockerfile names, which has to be pulled then."""
    docker = build.client()
    if subprocess.run([docker, "image", "inspect", BASE], capture_output=True).returncode == 0:
        return BASE
    if os.geteuid() == 0 and shutil.which("debootstrap"):
        subprocess.run([ROOT / "docker/base.sh", BASE], check=True, env={**os.environ, "DOCKER": docker})
        return BASE
    return ""


@pytest.fixture(scope="session")
def server_image() -> str:
    """Name of the image, with both engines and without a model."""
    with planted() as secrets:
        build.build("cpu", TAG, secrets, arguments=build.arguments_of("cpu", base=base_image()))
    return TAG


@contextmanager
def planted() -> Iterator[build.Secrets]:
    """Where packages come from here, with one more index: a folder that is not there, so that nobody waits for it."""
    with build.pips_own() as secrets, tempfile.TemporaryDirectory() as private:
        conf = ConfigParser(interpolation=None)
        conf.read([secrets.pip] if secrets.pip else [])
        conf.setdefault("global", {})
        known = conf["global"].get("extra-index-url", "")
        conf["global"]["extra-index-url"] = f"{known} file:///{PLANTED}/simple".strip()
        path = Path(private, "pip.conf")
        with path.open("w", encoding="utf-8") as file:
            conf.write(file)
        yield replace(secrets, pip=path)


def readable(root: Path) -> Path:
    """The same repository, for the image's own user too: the folders of tests are private."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return root


@contextmanager
def contained(root: Path, image: str, *, begin: bool = True, **options: Any) -> Iterator[Container]:
    """A container that serves a repository of the tests; ``begin``: started already."""
    container = Container(readable(root), image=image, **options)
    try:
        yield container.start() if begin else container
    finally:
        container.stop()
