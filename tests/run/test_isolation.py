"""Models that run in processes of their own, though nobody asked for it: the user is told why."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bantam.artifact import Artifact
from bantam.commands.announce import announce
from bantam.run.record import serving_notes
from bantam.run.state import Run
from serving.repository import publish
from serving.server import Server
from serving.settings import Settings
from serving.tritonserver import Backend

WHY = "there is no C compiler 'cc'"


def server(backend: Backend, http_host: str = "127.0.0.1", repository: Path = Path("nowhere")) -> Server:
    started = SimpleNamespace(
        grpc_address="host:1",
        http_address="host:2",
        http_host=http_host,
        models=("tiny",),
        backend=backend,
        repository=repository,
        settings=Settings(),
    )
    return cast(Server, started)


@pytest.mark.parametrize(("because", "notes"), [("", 0), (WHY, 1)])
def test_the_report_has_a_note(because: str, notes: int) -> None:
    found = serving_notes(cast(Run, SimpleNamespace(isolated_because=because)))
    assert len(found) == notes
    assert all(WHY in note for note in found)


def test_serve_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    announce(server(Backend(Path("folder"), isolated=True, reason=WHY)), "host:3", True, said.append)
    assert WHY in said[0]
    expected = {"grpc": "host:1", "http": "host:2", "watch": "host:3", "models": ["tiny"]}
    assert json.loads(capsys.readouterr().out) == expected


def test_serve_says_nothing_of_it_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    announce(server(Backend(Path("folder"), isolated=False, reason="")), "host:3", False, said.append)
    assert said[0].startswith("Serving tiny on host:1")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("10.0.0.5", True), ("127.0.0.1", False)])  # noqa: S104
def test_serve_warns_of_http_that_other_machines_reach(host: str, warned: bool) -> None:
    said: list[str] = []
    announce(server(Backend(Path("folder"), isolated=False, reason=""), host), "host:3", False, said.append)
    assert any("WARNING: other machines can reach HTTP on host:2" in line for line in said) == warned


def test_serve_says_what_is_refused(tiny_artifact: Artifact, tmp_path: Path) -> None:
    publish(tiny_artifact, tmp_path, "tiny", thresholds=None, limit_ms=300)
    for isolated, lines in (
        (False, ["tiny refuses what would wait longer than 0.15 s, half of its limit_ms."]),
        (True, []),
    ):
        said: list[str] = []
        backend = Backend(Path("folder"), isolated=isolated, reason="")
        announce(server(backend, repository=tmp_path), "host:3", False, said.append)
        assert [line for line in said if "limit_ms" in line] == lines
