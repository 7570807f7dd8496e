"""What an operator asks of a server beside its models: TLS, a cache, traces, limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from bantam import TLS, Classifier
from bantam.artifact import Artifact
from bantam.commands.serve_options import ServeOptions
from bantam.errors import InvalidInputError, UnavailableError, UserError
from serving import counted
from serving.probe import ProbeError, greet
from serving.repository import publish
from serving.server import Server
from serving.settings import Settings, size_in_bytes
from serving.watch import Watch

SECONDS = 60.0
ISOLATED = pytest.mark.parametrize("isolated", [False, True], ids=["inline", "isolated"])


@pytest.fixture(scope="module")
def root(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository of a model of texts and one of pairs."""
    folder = tmp_path_factory.mktemp("repository")
    publish(tiny_artifact, folder, "tiny", thresholds=None)
    publish(make_artifact(pair=True), folder, "pairs", thresholds=None)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("100MB", 100_000_000), ("64mb", 64_000_000), ("2k", 2000), ("1GB", 10**9), ("512B", 512), (" 7 ", 7)],
)
def test_sizes(text: str, expected: int) -> None:
    assert size_in_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "a lot", "1.5GB", "-1", "100 MiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"Got the size .*, expected a number of bytes.*100MB"):
        size_in_bytes(text)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("no certificate")
    with pytest.raises(UserError, match="Got only some of a certificate, its key"):
        Settings(cert=other)
    with pytest.raises(UserError, match="Got only some of a certificate, its key"):
        Settings(client_ca=other)
    with pytest.raises(UserError, match=r"nowhere\.pem cannot be read"):
        Settings(cert=tmp_path / "nowhere.pem", key=other)
    with pytest.raises(UserError, match=r"other\.txt is not a PEM file"):
        Settings(cert=other, key=other)
    for endpoint in ("localhost:4318", "http://a,rate=1", "file:///tmp/traces"):
        with pytest.raises(UserError, match="expected a URL: http"):
            Settings(trace_endpoint=endpoint)


def test_a_server_is_plain_unless_asked_otherwise() -> None:
    assert ServeOptions().settings() == Settings(request_bytes=64_000_000)
    assert Settings().options() == []
    assert Settings(drain_s=5).options() == ["--grpc-max-connection-age=2500"]


def test_each_option_reaches_the_server(tmp_path: Path) -> None:
    cert, key, authority = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    for path in (cert, key, authority):
        path.write_text("-----BEGIN WHATEVER-----\n", encoding="utf-8")
    asked = ServeOptions(
        drain_seconds=7.0,
        cache="3MB",
        max_request="5kB",
        tls_cert=cert,
        tls_key=key,
        tls_client_ca=authority,
        trace_endpoint="http://localhost:4318/v1/traces",
        trace_rate=9,
    ).settings()
    assert asked == Settings(
        cert=cert,
        key=key,
        client_ca=authority,
        cache_bytes=3_000_000,
        request_bytes=5000,
        trace_endpoint="http://localhost:4318/v1/traces",
        trace_rate=9,
        drain_s=7.0,
    )
    assert asked.options() == [
        "--grpc-max-connection-age=3500",
        f"--grpc-server-cert={cert}",
        f"--grpc-server-key={key}",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-root-cert={authority}",
        "--trace-config=mode=opentelemetry",
        "--trace-config=opentelemetry,url=http://localhost:4318/v1/traces",
        "--trace-config=rate=9",
        "--trace-config=level=TIMESTAMPS",
    ]
    assert asked.environment(tmp_path, "a secret") == {
        "BANTAM_WATCH": "a secret",
        "BANTAM_COUNTS": str(tmp_path),
        "BANTAM_CACHE_BYTES": "3000000",
        "BANTAM_REQUEST_BYTES": "5000",
    }
    assert "--grpc-use-ssl=true" in Settings(cert=cert, key=key).options()


@pytest.mark.triton
@pytest.mark.openssl
def test_grpc_over_tls(root: Path, pem: Path) -> None:
    encrypted = Settings(cert=pem / "server.pem", key=pem / "server.key")
    with Server(root, models=["tiny"], settings=encrypted) as server:
        greet(server.grpc_address, encrypted)
        assert "andshake" not in server.log.read_text()
        with Classifier(server.grpc_address, "tiny", tls=TLS(ca=pem / "ca.pem"), token="t") as classify:
            assert classify("i love it").scores.keys() == {"joy", "anger", "fear"}
        for tls in (False, TLS(ca=pem / "stranger.pem")):
            with (
                Classifier(server.grpc_address, "tiny", tls=tls, retries=0) as refused,
                pytest.raises(UnavailableError, match="port speaks this protocol"),
            ):
                refused("i love it")
        with pytest.raises(ProbeError, match="gRPC closed the connection, or does not speak as it should"):
            greet(server.grpc_address, Settings())


@pytest.mark.triton
@pytest.mark.openssl
def test_grpc_over_mutual_tls_and_its_watch(root: Path, pem: Path) -> None:
    mutual = Settings(cert=pem / "server.pem", key=pem / "server.key", client_ca=pem / "ca.pem")
    certified = TLS(ca=pem / "ca.pem", cert=pem / "client.pem", key=pem / "client.key")
    server = Server(root, models=["tiny"], follow=True, settings=mutual)
    with Watch(server, "127.0.0.1", 0) as watch:
        watch.start()
        deadline = time.monotonic() + SECONDS
        while not watch.status().ready:
            assert time.monotonic() < deadline, watch.ready().body
            time.sleep(0.05)
        assert "andshake" not in server.log.read_text()  # the watch leaves no complaint behind each time
        assert watch.status().probed["tiny"].count >= 1
        with Classifier(server.grpc_address, "tiny", tls=certified, token="t") as classify:
            assert classify("i love it").scores.keys() == {"joy", "anger", "fear"}
        for tls in (False, TLS(ca=pem / "ca.pem"), TLS(ca=pem / "stranger.pem")):
            with (
                Classifier(server.grpc_address, "tiny", tls=tls, retries=0) as refused,
                pytest.raises(UnavailableError, match="port speaks this protocol"),
            ):
                refused("i love it")
        assert "Handshake failed" in server.log.read_text()  # which clients that are refused do


@pytest.mark.triton
@ISOLATED
def test_a_request_that_is_too_large_is_refused(root: Path, isolated: bool) -> None:
    with (
        Server(root, isolated=isolated, settings=Settings(request_bytes=1000)) as server,
        Classifier(server.grpc_address, "tiny") as texts,
        Classifier(server.grpc_address, "pairs") as pairs,
    ):
        assert texts.probabilities(["a" * 500, "ä" * 250]).shape == (2, 3)
        with pytest.raises(InvalidInputError, match=r"have 1,001 bytes, expected at most 1,000. Send fewer at a time"):
            texts.probabilities(["a" * 501, "ä" * 250])
        assert pairs.probabilities([("a" * 500, "b" * 500)]).shape == (1, 3)
        with pytest.raises(InvalidInputError, match="have 1,001 bytes"):
            pairs.probabilities([("a" * 500, "b" * 501)])


@pytest.mark.triton
@ISOLATED
def test_a_cache_gives_the_same_answers_and_counts_what_it_was_asked(root: Path, isolated: bool) -> None:
    texts = ["i love it", "hate", "", "i love it"]
    pairs = [("i love", "you"), ("you", "i love")]
    with (
        Server(root, isolated=isolated, settings=Settings(cache_bytes=10**6)) as server,
        Classifier(server.grpc_address, "tiny") as classify,
        Classifier(server.grpc_address, "pairs") as of_pairs,
    ):
        first, second = classify.probabilities(texts), classify.probabilities(texts)
        assert first.tolist() == second.tolist()
        assert of_pairs.probabilities(pairs).tolist() == of_pairs.probabilities(pairs).tolist()
        found = {(each.model, each.version): each.values for each in counted.read(server.counts)}
    with Server(root, models=["tiny"], isolated=isolated) as plain, Classifier(plain.grpc_address, "tiny") as classify:
        np.testing.assert_allclose(classify.probabilities(texts), first, atol=1e-6)
        (without,) = counted.read(plain.counts)
    # The warm-up of Triton has asked for the empty text.
    assert (found["tiny", "1"]["cache_hits"], found["tiny", "1"]["cache_misses"]) == (1 + 1 + 4, 1 + 2)
    assert found["tiny", "1"]["texts"] == 3
    assert (found["pairs", "1"]["cache_hits"], found["pairs", "1"]["cache_misses"]) == (2, 1 + 2)
    assert (without.values["cache_hits"], without.values["cache_misses"]) == (0, 0)
    assert without.values["texts"] == 1 + 4


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """What takes traces, as an OpenTelemetry collector does: its endpoint, and what it was sent."""
    sent: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}/v1/traces", sent
        listener.shutdown()


@pytest.mark.triton
def test_traces_go_where_they_are_asked_for_and_hold_no_text(root: Path) -> None:
    with collector() as (endpoint, sent):
        settings = Settings(trace_endpoint=endpoint, trace_rate=1)
        with Server(root, models=["tiny"], settings=settings) as server:
            with Classifier(server.grpc_address, "tiny") as classify:
                classify.probabilities(["unmistakable"])
            deadline = time.monotonic() + SECONDS
            while not sent:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    traces = b"".join(sent)
    assert b"resourceSpans" in traces
    assert b"tiny" in traces
    assert b"unmistakable" not in traces
