"""The bench's clients, each against a real server on the loopback that answers as its contender does."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bantam.errors import ClientError, UnavailableError
from benchmarks.bench.clients import CLIENTS, MODEL, Client
from tests.client.fake_kserve import Fake, Script

LABELS = ("long", "short")
"""In another order than the fakes'."""
TEXTS = ["four", "of", "Grüße"]
EXPECTED = [[0.4, 0.6], [0.2, 0.8], [0.5, 0.5]]

Scored = list[list[dict[str, Any]]]


def pipeline(texts: list[str]) -> Scored:
    """As transformers' pipeline answers with top_k=None: the most likely first. A text of n characters scores n/10."""
    both = [{"short": 1 - len(text) / 10, "long": len(text) / 10} for text in texts]
    return [[{"label": k, "score": v} for k, v in sorted(each.items(), key=lambda kv: -kv[1])] for each in both]


def logits(answer: Any) -> Any:
    """The same with raw scores, where they are scores."""
    if not isinstance(answer, list):
        return answer
    return [[{**each, "score": _logit(each["score"])} for each in one] for one in answer]


def _logit(score: float | None) -> float | None:
    return score if score is None or not 0 < score < 1 else math.log(score / (1 - score))


class Answers:
    """What a fake does: ``scored`` answers the texts, and ``connections`` counts who came."""

    def __init__(self) -> None:
        self.scored: Callable[[list[str]], Any] = pipeline
        self.connections: set[Any] = set()

    def json(self, path: str, question: Any) -> bytes:
        """The body of an answer: of FastAPI at ``/``, of Infinity 0.0.78, of text-embeddings-inference as its
        documentation has it, else of MLServer 1.7.1.
        """
        if path == "/":
            return json.dumps(self.scored(question["inputs"])).encode()
        if path == "/classify":
            assert question["model"] == MODEL
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            return json.dumps({"object": "classify", "data": self.scored(question["input"]), "usage": usage}).encode()
        if path == "/predict":
            assert question["raw_scores"]
            return json.dumps(logits(self.scored([text for (text,) in question["inputs"]]))).encode()
        assert path == f"/v2/models/{MODEL}/infer"
        inputs = {each["name"]: each for each in question["inputs"]}
        assert inputs["top_k"]["data"] == ["null"]
        assert inputs["top_k"]["parameters"] == {"content_type": "hg_json"}
        scored = self.scored(inputs["array_inputs"]["data"])
        output = {"name": "output", "shape": [len(scored), 1], "datatype": "BYTES"}
        return json.dumps({"outputs": [{**output, "data": [json.dumps(each) for each in scored]}]}).encode()


class MLServerGrpc(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._answers.connections.add(context.peer())
        inputs = {each.name: each for each in request.inputs}
        assert inputs["top_k"].contents.bytes_contents == [b"null"]
        assert inputs["top_k"].parameters["content_type"].string_param == "hg_json"
        scored = self._answers.scored([text.decode() for text in inputs["array_inputs"].contents.bytes_contents])
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        output = answer.outputs.add(name="output", datatype="BYTES", shape=[len(scored), 1])
        output.contents.bytes_contents.extend(json.dumps(each).encode() for each in scored)
        return answer


@contextmanager
def http_server(answers: Answers) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            answers.connections.add(self.client_address)
            body = answers.json(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def grpc_server(answers: Answers) -> Iterator[int]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(MLServerGrpc(answers), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(grace=None).wait()


PIPELINES = {
    "json": http_server,
    "infinity": http_server,
    "text-embeddings-router": http_server,
    "kserve-http": http_server,
    "kserve-grpc": grpc_server,
}
"""Protocols that answer with labels and scores."""


@pytest.fixture(params=PIPELINES)
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Client, Answers]]:
    answers = Answers()
    with PIPELINES[request.param](answers) as port:
        client = CLIENTS[request.param](port, LABELS)
        yield client, answers
        client.close()


def test_scores_come_in_the_order_of_texts_and_labels_over_one_connection(served: tuple[Client, Answers]) -> None:
    client, answers = served
    for _ in range(3):
        scores = client.scores(TEXTS)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, EXPECTED, atol=1e-6)
    assert len(answers.connections) == 1


WRONG: dict[str, tuple[Callable[[list[str]], Any], str]] = {
    "the most likely label alone": (lambda texts: [each[:1] for each in pipeline(texts)], "the score of each label"),
    "other labels": (lambda texts: [[{"label": "LABEL_0", "score": 0.5}]] * len(texts), "long, short"),
    "a text too few": (lambda texts: pipeline(texts[1:]), r"scores \[2, 2\], expected \[3, 2\]"),
    "logits": (
        lambda texts: [[{"label": label, "score": -1.5} for label in LABELS] for _ in texts],
        "-1.5 to -1.5, expected probabilities",
    ),
    "no numbers": (
        lambda texts: [[{"label": label, "score": None} for label in LABELS] for _ in texts],
        "nan to nan",
    ),
}


ASKS_FOR_LOGITS = "text-embeddings-router"


@pytest.mark.parametrize(
    ("served", "case"),
    [(name, case) for name in PIPELINES for case in WRONG if (name, case) != (ASKS_FOR_LOGITS, "logits")],
    indirect=["served"],
)
def test_any_other_answer_is_an_error(served: tuple[Client, Answers], case: str) -> None:
    client, answers = served
    answers.scored, message = WRONG[case]
    with pytest.raises(ClientError, match=message):
        client.scores(TEXTS)


def test_an_answer_that_is_no_json_is_an_error() -> None:
    class Page(Answers):
        def json(self, path: str, question: Any) -> bytes:
            return b"<html>"

    with http_server(Page()) as port:
        client = CLIENTS["json"](port, LABELS)
        with pytest.raises(ClientError, match="expected JSON"):
            client.scores(TEXTS)
        client.close()


def test_triton_answers_with_a_tensor() -> None:
    fake = Fake("grpc", Script())
    client = CLIENTS["triton-grpc"](fake.port, ("short", "long"))
    try:
        np.testing.assert_allclose(client.scores(["four", "of"]), [[0.6, 0.4], [0.8, 0.2]], atol=1e-6)
        fake.script.width = 3
        with pytest.raises(ClientError, match=r"scores \[1, 3\], expected \[1, 2\]"):
            client.scores(["four"])
    finally:
        client.close()
        fake.stop()


@pytest.mark.parametrize("protocol", CLIENTS)
def test_nobody_there(protocol: str) -> None:
    with http_server(Answers()) as port:
        pass  # a port that was free a moment ago
    client = CLIENTS[protocol](port, LABELS)
    with pytest.raises(UnavailableError):
        client.scores(TEXTS)
    client.close()
