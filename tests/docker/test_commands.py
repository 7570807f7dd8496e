"""``bantam up``, ``bantam down`` and ``bantam serve --container``, as they are typed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bantam.client.classifier import Classifier
from bantam.commands import application, container
from serving.container import IMAGE_VARIABLE, LABEL, Container, is_up
from serving.docker_engine import engine
from tests.plugins.images import readable

pytestmark = [pytest.mark.docker, pytest.mark.index, pytest.mark.slow]
ANY_PORT = ["--grpc-port", "0", "--http-port", "0", "--watch-port", "0"]


def asked_for(arguments: list[str]) -> str:
    """What a command prints to standard output."""
    done = CliRunner().invoke(application(), arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def ours() -> set[str]:
    """The containers that were started here."""
    with contextlib.closing(engine()) as client:
        return {str(found.id) for found in client.containers.list(all=True, filters={"label": LABEL})}


def test_up_and_down(server_image: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "NAME", "bantam-test")
    readable(repository)
    up = ["up", "tiny", "--repository", str(repository), "--image", server_image, "--json", *ANY_PORT]
    try:
        said = json.loads(asked_for(up))
        with Classifier(said["grpc"], "tiny") as classify:
            assert classify("i love it").scores
        again = CliRunner().invoke(application(), up)
        assert "It is up already" in str(again.exception)
        assert is_up("bantam-test")
        # As if a `bantam serve --container` had been killed.
        Container(repository, image=server_image, models=["tiny"], name="bantam-test-serve-1").start().leave()
    finally:
        ended = CliRunner().invoke(application(), ["down"])
    assert {*re.findall(r"bantam-test[\w-]*", ended.output)} == {"bantam-test", "bantam-test-serve-1"}
    assert not is_up("bantam-test")
    assert not is_up("bantam-test-serve-1")
    assert "Nothing was up" in CliRunner().invoke(application(), ["down"]).output


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP])
def test_serve_in_a_container_ends_with_it(server_image: str, repository: Path, told: signal.Signals) -> None:
    readable(repository)
    before = ours()
    command = [
        sys.executable,
        "-m",
        "bantam",
        "serve",
        "tiny",
        "--container",
        "--json",
        "--repository",
        str(repository),
    ]
    process = subprocess.Popen(
        [*command, *ANY_PORT],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, IMAGE_VARIABLE: server_image},
        # Under nohup SIGHUP is ignored, by what is started from here too.
        preexec_fn=lambda: signal.signal(told, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert said["models"] == ["tiny"]
        with Classifier(said["grpc"], "tiny") as classify:
            assert classify("i love it").scores
    finally:
        process.send_signal(told)
        process.communicate(timeout=120)
    assert ours() == before


def test_an_image_that_is_not_there_is_never_pulled(repository: Path) -> None:
    up = ["up", "--repository", str(repository), "--image", "bantam-no-such-image", *ANY_PORT]
    failed = CliRunner().invoke(application(), up)
    assert "No image 'bantam-no-such-image' on this machine. Build it with 'make image'" in str(failed.exception)
