"""The command line: what is typed is what a command is asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bantam.commands import application, main
from bantam.demo import run as demo
from bantam.demo.request import DemoRequest
from bantam.loadtest import run as loadtest
from bantam.loadtest.request import LoadTestRequest
from bantam.run import optimize
from bantam.run.request import OptimizeRequest

ROOT = Path(__file__).resolve().parents[2]
Asked = list[Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the commands ask for; none of them does anything."""
    found: Asked = []

    def stop(request: object, *_: object) -> None:
        found.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr(optimize, "optimize", stop)
    monkeypatch.setattr(loadtest, "run", stop)
    monkeypatch.setattr(demo, "run", stop)
    return found


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("optimize", OptimizeRequest()),
        (
            "optimize bert --target gpu --max-drop 0.5 --random-init --build there",
            OptimizeRequest(model="bert", target="gpu", max_drop=0.5, random_init=True, build=Path("there")),
        ),
        (
            "optimize --max-p99-ms 0.001 --max-size-mb 9 --max-slice-drop 3 --objective size",
            OptimizeRequest(max_p99_ms=0.001, max_size_mb=9.0, max_slice_drop=3.0, objective="size"),
        ),
        ("load-test", LoadTestRequest()),
        (
            "load-test sst2 --protocol http --rate 5 --input x",
            LoadTestRequest("sst2", protocol="http", rate=5, input="x"),
        ),
        ("demo", DemoRequest()),
        ("demo sst2 --data d.csv --port 0", DemoRequest("sst2", data="d.csv", port=0)),
    ],
)
def test_a_request_is_what_was_typed_and_its_own_defaults(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, line: str, request_: OptimizeRequest | LoadTestRequest | DemoRequest
) -> None:
    monkeypatch.setattr(sys, "argv", ["bantam", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    (found,) = asked
    assert type(found) is type(request_)
    for field in fields(request_):
        typed = f"bantam {line}" if field.name == "command" else getattr(request_, field.name)
        assert getattr(found, field.name) == typed, field.name


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("optimize --target tpu", "Invalid value for '--target'"),
        ("load-test --seconds 0", "Invalid value for '--seconds'"),
        ("demo --port 70000", "Invalid value for '--port'"),
    ],
)
def test_what_an_option_cannot_be_is_refused(asked: Asked, line: str, said: str) -> None:
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(application(), line.split())
    assert (done.exit_code, asked) == (2, [])
    assert said in done.output


def test_a_licence_is_accepted_by_option_or_environment(asked: Asked) -> None:
    for line, environment in (("--accept-licence Gemma,other", ""), ("", "gemma, other")):
        CliRunner(env={"BANTAM_ACCEPT_LICENCE": environment}).invoke(application(), ["optimize", *line.split()])
    assert [request.accepted for request in asked] == [("gemma", "other")] * 2
    assert OptimizeRequest().accepted == ()


def test_the_device_follows_from_the_target() -> None:
    assert [OptimizeRequest(target=target).device for target in ("cpu", "gpu")] == ["cpu", "cuda"]


def test_without_the_command_line_s_own_libraries_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from bantam.commands import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "serve"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "needs more than the client" in done.stderr
    assert len(done.stderr.splitlines()) == 1
