"""The clients of the served contenders: one class a protocol, each as light as we can make it.

A client holds one connection and is for one thread. ``scores(texts)`` are probabilities, float32 ``[texts, labels]``,
in the order of the checkpoint's labels, whatever order the server answers in. Raises the family of
:class:`bantam.errors.ClientError`: a server that answers anything else is no contender.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import grpc
import httpcore2
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bantam.client import http_transport
from bantam.client.conversation import blocking
from bantam.client.grpc_transport import CHANNEL_OPTIONS, GrpcTransport, translate
from bantam.client.transport import Scores, Target

HOST = "127.0.0.1"
MODEL = "classifier"
"""The name under which peers that name their models serve."""
TIMEOUT_S = 30.0
_JSON = [(b"Content-Type", b"application/json")]


class Client(Protocol):
    """A connection to one served contender."""

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities, float32 ``[texts, labels]``."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class _HttpRequests:
    """One kept connection, to one URL."""

    def __init__(self, port: int, path: str, labels: Sequence[str]) -> None:
        self._target = Target(f"{HOST}:{port}", MODEL, TIMEOUT_S)
        self._labels = tuple(labels)
        self._url = httpcore2.URL(f"http://{HOST}:{port}{path}")
        self._limits = http_transport.limits(TIMEOUT_S)
        self._pool = httpcore2.ConnectionPool(max_connections=1, keepalive_expiry=http_transport.IDLE_S)

    def _post(self, question: Any) -> Any:
        body = json.dumps(question, ensure_ascii=False).encode()
        with http_transport.errors(self._target):
            answer = self._pool.request("POST", self._url, headers=_JSON, content=body, extensions=self._limits)
        http_transport.check(self._target, answer)
        try:
            return json.loads(answer.content)
        except ValueError as exc:
            raise self._target.failed(f"it answered {answer.content[:80]!r}, expected JSON") from exc

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()


class JsonClient(_HttpRequests):
    """``POST /`` with ``{"inputs": [text, ...]}``; the answer is that of transformers' pipeline with ``top_k=None``."""

    def __init__(self, port: int, labels: Sequence[str]) -> None:
        super().__init__(port, "/", labels)

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities, float32 ``[texts, labels]``."""
        return _by_label(self._post({"inputs": list(texts)}), len(texts), self._labels, self._target)


class InfinityClient(_HttpRequests):
    """``POST /classify`` as Infinity has it; its answer holds that of transformers' pipeline under ``data``."""

    def __init__(self, port: int, labels: Sequence[str]) -> None:
        super().__init__(port, "/classify", labels)

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities, float32 ``[texts, labels]``."""
        answer = self._post({"model": MODEL, "input": list(texts)})
        found = answer.get("data") if isinstance(answer, dict) else None
        return _by_label(found, len(texts), self._labels, self._target)


class RouterClient(_HttpRequests):
    """``POST /predict`` as text-embeddings-inference has it: a list for each text, and raw scores, which are logits."""

    def __init__(self, port: int, labels: Sequence[str]) -> None:
        super().__init__(port, "/predict", labels)

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities, float32 ``[texts, labels]``."""
        answer = self._post({"inputs": [[text] for text in texts], "raw_scores": True, "truncate": True})
        logits = _labelled(answer, self._labels, self._target)
        scores = np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)
        return _checked(scores, len(texts), self._labels, self._target)


class KServeHttpClient(_HttpRequests):
    """KServe v2 over HTTP as MLServer's HuggingFace runtime speaks it: a JSON text for each text classified.

    Inputs other than ``array_inputs`` are what is passed on to transformers' pipeline by name.
    """

    def __init__(self, port: int, labels: Sequence[str]) -> None:
        super().__init__(port, f"/v2/models/{quote(MODEL)}/infer", labels)

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities, float32 ``[texts, labels]``."""
        inputs: list[dict[str, Any]] = [
            {"name": "array_inputs", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
        ]
        inputs += [
            {
                "name": name,
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {"content_type": "hg_json"},
                "data": [value],
            }
            for name, value in _ARGUMENTS.items()
        ]
        answer = self._post({"inputs": inputs})
        try:
            found = answer["outputs"][0]["data"]
        except (KeyError, IndexError, TypeError) as exc:
            raise self._target.failed(f"it answered {str(answer)[:80]}, expected an output with data") from exc
        return _by_label(_parsed(found, self._target), len(texts), self._labels, self._target)


class KServeGrpcClient:
    """The same over gRPC."""

    def __init__(self, port: int, labels: Sequence[str]) -> None:
        self._target = Target(f"{HOST}:{port}", MODEL, TIMEOUT_S)
        self._labels = tuple(labels)
        self._channel = grpc.insecure_channel(self._target.address, options=CHANNEL_OPTIONS)
        self._infer = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities, float32 ``[texts, labels]``."""
        request = service_pb2.ModelInferRequest(model_name=MODEL)
        question = request.inputs.add(name="array_inputs", datatype="BYTES", shape=[len(texts)])
        question.contents.bytes_contents.extend(text.encode() for text in texts)
        for name, value in _ARGUMENTS.items():
            argument = request.inputs.add(name=name, datatype="BYTES", shape=[1])
            argument.parameters["content_type"].string_param = "hg_json"
            argument.contents.bytes_contents.append(value.encode())
        try:
            answer = self._infer(request, timeout=TIMEOUT_S)
        except grpc.RpcError as exc:
            raise translate(self._target, exc) from exc
        found = answer.outputs[0].contents.bytes_contents if answer.outputs else ()
        return _by_label(_parsed(found, self._target), len(texts), self._labels, self._target)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class TritonClient:
    """KServe v2 over gRPC with the tensors TEXT and SCORES, as Bantam's own models have them: its own transport."""

    def __init__(self, port: int, labels: Sequence[str]) -> None:
        self._target = Target(f"{HOST}:{port}", MODEL, TIMEOUT_S)
        self._labels = tuple(labels)
        self._transport = GrpcTransport(self._target)

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities, float32 ``[texts, labels]``."""
        answer = blocking(self._transport.infer([(text.encode(),) for text in texts], TIMEOUT_S))
        return _checked(answer.scores, len(texts), self._labels, self._target)

    def close(self) -> None:
        """Close the connection."""
        blocking(self._transport.close())


CLIENTS: dict[str, Callable[[int, Sequence[str]], Client]] = {
    "json": JsonClient,
    "infinity": InfinityClient,
    "text-embeddings-router": RouterClient,
    "kserve-http": KServeHttpClient,
    "kserve-grpc": KServeGrpcClient,
    "triton-grpc": TritonClient,
}
"""Protocol to client: ``CLIENTS[protocol](port, labels)``, the labels in the checkpoint's order."""

_ARGUMENTS = {"top_k": "null", "truncation": "true"}
"""What the pipeline is told with each request, for MLServer can be told it nowhere else: scores of all labels."""


def _parsed(texts: Iterable[str | bytes], target: Target) -> list[Any]:
    """The JSON text of each answer, read."""
    try:
        return [json.loads(text) for text in texts]
    except (ValueError, TypeError) as exc:
        raise target.failed("it answered texts that are no JSON, expected the pipeline's answer") from exc


def _labelled(answer: Any, labels: Sequence[str], target: Target) -> Scores:
    """Scores in the labels' order from the pipeline's answer, ``[[{"label": ..., "score": ...}, ...], ...]``."""
    try:
        found = [{each["label"]: each["score"] for each in one} for one in answer]
        return np.array([[one[label] for label in labels] for one in found], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as exc:
        raise target.failed(
            f"it answered {str(answer)[:80]}, expected for each text the score of each label: {', '.join(labels)}"
        ) from exc


def _by_label(answer: Any, texts: int, labels: Sequence[str], target: Target) -> Scores:
    """The same, where the scores are probabilities."""
    return _checked(_labelled(answer, labels, target), texts, labels, target)


def _checked(scores: Scores, texts: int, labels: Sequence[str], target: Target) -> Scores:
    """The scores, if they are one probability for each text and label."""
    expected = (texts, len(labels))
    if scores.shape != expected:
        raise target.failed(f"it answered scores {list(scores.shape)}, expected {list(expected)} [texts, labels]")
    if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise target.failed(f"it answered {scores.min()} to {scores.max()}, expected probabilities from 0 to 1")
    return scores
