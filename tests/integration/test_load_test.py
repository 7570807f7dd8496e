"""``bantam load-test``, whole: against the served toy, and what a user can get wrong."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.server import Server
from tests.client.fake_kserve import Fake, Protocol, Script
from tests.integration.conftest import Toy, make_toy

FAILURE, USERS_MISTAKE = 1, 2


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake("grpc", Script())
    yield server
    server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A folder with a file of texts; nothing is published in it."""
    toy = make_toy(tmp_path_factory.mktemp("load-test"))
    (toy.folder / "texts.txt").write_text("one two three\nfour\n", encoding="utf-8")
    return toy


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_served_model_is_measured_from_both_sides(toy: Toy, tmp_path: Path, protocol: Protocol) -> None:
    with Server(toy.folder / "model_repo") as server:
        address = server.grpc_address if protocol == "grpc" else server.http_address
        options = ["--address", address, "--protocol", protocol, "--data", "moods.csv", "--seconds", "1"]
        done = toy.bantam("load-test", "tiny", *options, "--slo", "p90=5s", "--output", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "load-test.json").read_text())
    closed, opened, capacity = report["tests"]
    assert (closed["kind"], opened["kind"], capacity["clients"]) == ("closed", "open", 16)
    for test in report["tests"]:
        assert test["errors"] == {}
        # Triton counts a request after it has answered it.
        assert test["server"]["compute_infer_ms"] > 0
        assert 0 < test["server"]["compute_infer_ms"] < test["latency"][-1]["ms"]
        assert test["server"]["cores"] > 0
        assert test["server"]["peak_rss_mb"] > 50
        assert [found["percent"] for found in test["latency"]] == [50, 75, 90, 95, 99, 99.9]
    assert report["limit"]["rate"] > 0
    assert report["limit"]["steps"][0]["met"] is True
    assert "p90=5000ms" in (tmp_path / "load-test.html").read_text()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_is_no_triton(folder: Toy, tmp_path: Path, protocol: Protocol) -> None:
    script = Script()
    script.counts, script.inputs = False, [{"name": "sentence", "datatype": "BYTES", "shape": [-1]}]
    server = Fake(protocol, script)
    options = ["--protocol", protocol, "--data", "texts.txt", "--words", "6", "--seconds", "1", "--rate", "20"]
    done = folder.bantam(
        "load-test", "m", "--address", server.address, *options, "--arrivals", "constant", "--output", str(tmp_path)
    )
    server.stop()
    assert done.returncode == 0, done.stderr
    assert "gives no statistics" in done.stdout
    rows = (tmp_path / "load-test.csv").read_text().splitlines()
    assert rows[2].startswith('"open loop, 20/s",20.0,,20,')


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--slo", "50ms"], USERS_MISTAKE, "expected a percentile between 0 and 100 and a time, such as p99=50ms"),
        (["--rate", "0"], USERS_MISTAKE, "0.1"),
        (["--rate", "-5"], USERS_MISTAKE, "0.1"),
        (["--seconds", "0"], USERS_MISTAKE, "--seconds"),
        (["--clients", "0"], USERS_MISTAKE, "--clients"),
        (["--words", "0"], USERS_MISTAKE, "--words"),
        (["--processes", "many"], USERS_MISTAKE, "expected auto or a number"),
        (["--processes", "0"], USERS_MISTAKE, "expected auto or a number"),
        (["--arrivals", "uniform"], USERS_MISTAKE, "poisson"),
        (["--data", "empty.txt"], USERS_MISTAKE, "has no text in it"),
        (["--data", "nowhere.csv"], USERS_MISTAKE, "nowhere.csv"),
        (["--address", "http://localhost:8001"], USERS_MISTAKE, "expected host:port without a scheme"),
        (["--address", "localhost:8001,localhost:8002"], USERS_MISTAKE, "expected one: what is measured is one server"),
        (["--input", "other"], USERS_MISTAKE, "TEXT BYTES"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(
    folder: Toy, fake: Fake, options: list[str], code: int, message: str
) -> None:
    (folder.folder / "empty.txt").write_text("\n \n")
    given = ["--address", fake.address, "--data", "texts.txt", *options]
    done = folder.bantam("load-test", "m", *given)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert fake.script.requests == 0
    assert not (folder.folder / "build").exists()


def test_without_a_server_it_says_how_to_find_one(folder: Toy) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    done = folder.bantam("load-test", "m", "--address", f"127.0.0.1:{port}", "--data", "texts.txt", "--timeout", "1")
    assert done.returncode == FAILURE
    assert f"127.0.0.1:{port} is unavailable" in done.stderr
    assert "Check that the server runs there" in done.stderr


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_model_that_the_server_does_not_have(toy: Toy, protocol: Protocol) -> None:
    with Server(toy.folder / "model_repo") as server:
        address = server.grpc_address if protocol == "grpc" else server.http_address
        done = toy.bantam("load-test", "nope", "--address", address, "--protocol", protocol, "--data", "moods.csv")
    assert done.returncode == FAILURE
    assert "No model 'nope'" in done.stderr
    assert "Check the name" in done.stderr


def test_help_shows_examples(folder: Toy) -> None:
    done = folder.bantam("load-test", "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.replace("│", " ").split())
    for part in ("bantam load-test minilm --slo p99=50ms", "--processes", "--arrivals", "p99=50ms"):
        assert part in text
