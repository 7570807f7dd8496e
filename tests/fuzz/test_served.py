"""A real Triton that is sent what hypothesis thinks of: it answers, blames who asked, and goes on."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from bantam.artifact import Artifact
from bantam.client import messages
from bantam.client.classifier import Classifier
from bantam.errors import InvalidInputError
from serving.backend.engine import Engine
from serving.repository import publish
from serving.server import Server
from serving.tritonserver import serving_python
from tests.fuzz.requests import (
    KNOWN,
    MODEL,
    Posted,
    any_bytes,
    any_text,
    grpc_requests,
    http_requests,
    tensor,
)

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not serving_python().exists(), reason=f"no serving environment at {serving_python()}"),
]
TIMEOUT_S = 60.0
ANSWERS = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
FRONT = (
    *("failed to parse the request JSON buffer", "Unable to parse", "Unable to set", "failed to get request params"),
    "Unsupported compression type",
)
"""With these Triton's HTTP says in a status of 500 or 501 that a request is no request; docs/production.md tells."""


def fuzz(examples: int) -> settings:
    """The same examples each time, and no file of what failed before."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )


class Subject:
    """A server, and the known text that it goes on answering."""

    def __init__(self, server: Server, engine: Engine) -> None:
        self.server, self.engine = server, engine
        channel = grpc.insecure_channel(server.grpc_address)
        self.close = channel.close
        self.infer_bytes = channel.unary_unary(messages.METHOD + "ModelInfer")
        self._known = service_pb2.ModelInferRequest(model_name=MODEL)
        self._known.inputs.add(name="TEXT", datatype="BYTES", shape=[1, 1])
        self._known.raw_input_contents.append(tensor([KNOWN.encode()]))
        self._scores = engine.probabilities([KNOWN])

    def infer(self, request: Any) -> Any:
        """The answer to a ModelInferRequest."""
        answer = self.infer_bytes(request.SerializeToString(), timeout=TIMEOUT_S)
        return service_pb2.ModelInferResponse.FromString(answer)

    def still_answers(self) -> bool:
        """Whether it does, with the scores that it has to give."""
        raw = self.infer(self._known).raw_output_contents[0]
        return np.allclose(np.frombuffer(raw, np.float32), self._scores[0], atol=1e-6)

    def post(self, posted: Posted) -> tuple[int, bytes]:
        """The status and the body of its answer."""
        host, port = self.server.http_address.split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)) as connection:
            connection.request("POST", f"/v2/models/{MODEL}/infer", posted.body, posted.headers)
            response = connection.getresponse()
            return response.status, response.read()


@pytest.fixture(scope="module", params=["inline", "isolated"])
def subject(
    request: pytest.FixtureRequest, tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    root = tmp_path_factory.mktemp("fuzz")
    publish(tiny_artifact, root, MODEL, thresholds=[0.5, 0.5, 0.5])
    with Server(root, isolated=request.param == "isolated") as server:
        found = Subject(server, Engine(tiny_artifact.folder, threads=1))
        yield found
        found.close()


@pytest.fixture
def examples(request: pytest.FixtureRequest) -> Callable[[int], settings]:
    """Fewer where each request goes through another process."""
    share = 3 if "isolated" in request.node.name else 1
    return lambda many: fuzz(many // share)


def test_any_text_has_the_engines_scores(subject: Subject, examples: Callable[[int], settings]) -> None:
    with Classifier(subject.server.grpc_address, MODEL, timeout=TIMEOUT_S, retries=0) as classify:

        @examples(140)
        @given(st.lists(any_text, min_size=1, max_size=70))
        def run(texts: list[str]) -> None:
            np.testing.assert_allclose(classify.probabilities(texts), subject.engine.probabilities(texts), atol=1e-6)

        run()


def test_any_bytes_are_a_text_or_refused_by_name(subject: Subject, examples: Callable[[int], settings]) -> None:
    @examples(200)
    @given(st.lists(any_bytes, min_size=1, max_size=3))
    def run(elements: list[bytes]) -> None:
        request = service_pb2.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="TEXT", datatype="BYTES", shape=[len(elements), 1])
        request.raw_input_contents.append(tensor(elements))
        try:
            texts = [element.decode() for element in elements]
        except UnicodeDecodeError:
            with pytest.raises(grpc.RpcError, match="is not UTF-8"):
                subject.infer(request)
        else:
            raw = subject.infer(request).raw_output_contents[0]
            expected = subject.engine.probabilities(texts)
            np.testing.assert_allclose(np.frombuffer(raw, np.float32).reshape(expected.shape), expected, atol=1e-6)

    run()
    assert subject.still_answers()


def test_what_is_no_text_is_refused_by_the_client(subject: Subject) -> None:
    with Classifier(subject.server.grpc_address, MODEL) as classify:

        @fuzz(50)
        @given(st.text(st.characters(categories=["Cs"]), min_size=1), any_text)
        def run(surrogates: str, text: str) -> None:
            with pytest.raises(InvalidInputError, match="has a lone surrogate"):
                classify(text[:50] + surrogates)

        run()


def test_any_request_over_grpc(subject: Subject, examples: Callable[[int], settings]) -> None:
    seen = set()

    @examples(600)
    @given(grpc_requests())
    def run(request: Any) -> None:
        code = grpc.StatusCode.OK
        try:
            subject.infer(request)
        except grpc.RpcError as exc:
            code, said = exc.code(), exc.details()
        assert code in ANSWERS, (code, said)
        seen.add(code)
        assert subject.still_answers()

    run()
    assert seen == ANSWERS, "requests of all kinds were made"


def test_any_bytes_over_grpc(subject: Subject, examples: Callable[[int], settings]) -> None:
    @examples(140)
    @given(st.binary(max_size=60) | st.tuples(grpc_requests(), st.integers(1, 60)).map(_cut))
    def run(message: bytes) -> None:
        with contextlib.suppress(grpc.RpcError):  # gRPC itself says INTERNAL of what is no message
            subject.infer_bytes(message, timeout=TIMEOUT_S)
        assert subject.still_answers()

    run()


def _cut(parts: tuple[Any, int]) -> bytes:
    request, length = parts
    return bytes(request.SerializeToString()[:-length])


def test_any_request_over_http(subject: Subject, examples: Callable[[int], settings]) -> None:
    seen = set()

    @examples(600)
    @given(http_requests())
    def run(posted: Posted) -> None:
        status, body = subject.post(posted)
        said = "" if status == 200 else json.loads(body)["error"]
        assert status < 500 or said.startswith(FRONT), (status, body)
        seen.add(status)
        assert subject.still_answers()

    run()
    assert {200, 400} <= seen, "requests of all kinds were made"


def test_any_bytes_over_http(subject: Subject, examples: Callable[[int], settings]) -> None:
    host, port = subject.server.http_address.split(":")
    start = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: x\r\n".encode()

    @examples(140)
    @given(st.sampled_from([b"", start, start + b"Content-Length: 90\r\n\r\n"]), st.binary(max_size=60))
    def run(begun: bytes, rest: bytes) -> None:
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
            connection.sendall(begun + rest)
        assert subject.still_answers()

    run()
