"""KServe v2 over HTTP/1.1, with texts and scores as binary tensors behind the JSON header (Triton's extension).

httpcore2 rather than tritonclient.http: the latter may not be shared between threads, and takes its time-out per client
instead of per request. httpcore2 has one API and one set of exceptions for sync and asyncio, and sets TCP_NODELAY.
It uses no proxy from the environment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote

import httpcore2

from bantam.client.transport import INPUT, OUTPUT, ModelConfig, Scores, Target, encode

HEADER_LENGTH = b"Inference-Header-Content-Length"
IDLE_S = 60.0
"""A connection that was idle for so long is closed: a burst must not leave its connections for ever."""


class HttpTransport:
    """Blocking calls; the pool may be shared between threads.

    The time-out bounds connecting, and then each wait for the server; Triton sends an answer at once, when it is ready.
    """

    def __init__(self, target: Target) -> None:
        self._target, self._codec = target, _Codec(target)
        self._pool = httpcore2.ConnectionPool(max_connections=None, keepalive_expiry=IDLE_S)

    def config(self, timeout: float) -> ModelConfig:
        """Read the model's config."""
        with errors(self._target):
            answer = self._pool.request("GET", self._codec.config_url, extensions=limits(timeout))
        return self._codec.config(answer)

    def infer(self, texts: Sequence[bytes], timeout: float) -> Scores:
        """Scores of at most the model's ``max_batch_size`` texts, in their order."""
        headers, body = self._codec.request(texts)
        with errors(self._target):
            answer = self._pool.request(
                "POST", self._codec.infer_url, headers=headers, content=body, extensions=limits(timeout)
            )
        return self._codec.scores(answer, len(texts))

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class AsyncHttpTransport:
    """The same on asyncio; the time-out bounds the whole request."""

    def __init__(self, target: Target) -> None:
        self._target, self._codec = target, _Codec(target)
        self._pool = httpcore2.AsyncConnectionPool(max_connections=None, keepalive_expiry=IDLE_S)

    async def config(self, timeout: float) -> ModelConfig:
        """Read the model's config."""
        with errors(self._target):
            async with asyncio.timeout(timeout):
                answer = await self._pool.request("GET", self._codec.config_url)
        return self._codec.config(answer)

    async def infer(self, texts: Sequence[bytes], timeout: float) -> Scores:
        """Scores of at most the model's ``max_batch_size`` texts, in their order."""
        headers, body = self._codec.request(texts)
        with errors(self._target):
            async with asyncio.timeout(timeout):
                answer = await self._pool.request("POST", self._codec.infer_url, headers=headers, content=body)
        return self._codec.scores(answer, len(texts))

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


def limits(timeout: float) -> dict[str, dict[str, float]]:
    """httpcore2's form of a time-out in seconds for connecting, and for each wait."""
    return {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout)}


class _Codec:
    """Requests, answers and errors of one model."""

    def __init__(self, target: Target) -> None:
        self._target = target
        model = f"http://{target.address}/v2/models/{quote(target.model, safe='')}"
        self.config_url = httpcore2.URL(f"{model}/config")
        self.infer_url = httpcore2.URL(f"{model}/infer")

    def config(self, answer: httpcore2.Response) -> ModelConfig:
        check(self._target, answer)
        config = json.loads(answer.content)
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        return ModelConfig(config["max_batch_size"], parameters)

    def request(self, texts: Sequence[bytes]) -> tuple[list[tuple[bytes, bytes]], bytes]:
        tensor = encode(texts)
        header = json.dumps(
            {
                "inputs": [
                    {
                        "name": INPUT,
                        "datatype": "BYTES",
                        "shape": [len(texts), 1],
                        "parameters": {"binary_data_size": len(tensor)},
                    }
                ],
                "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}],
            }
        ).encode()
        headers = [(b"Content-Type", b"application/octet-stream"), (HEADER_LENGTH, str(len(header)).encode())]
        return headers, header + tensor

    def scores(self, answer: httpcore2.Response, texts: int) -> Scores:
        check(self._target, answer)
        names = {name.lower(): value for name, value in answer.headers}
        length = int(names[HEADER_LENGTH.lower()])
        output = json.loads(answer.content[:length])["outputs"][0]
        return self._target.decode(answer.content[length:], output["shape"], output["datatype"], texts)


@contextmanager
def errors(target: Target) -> Iterator[None]:
    """Translate what httpcore2 raises."""
    try:
        yield
    except (httpcore2.TimeoutException, TimeoutError) as exc:
        raise target.late() from exc
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as exc:
        # Also a pooled connection that the server has closed meanwhile; over gRPC all of these are UNAVAILABLE.
        raise target.unavailable(str(exc) or type(exc).__name__) from exc


def check(target: Target, answer: httpcore2.Response) -> None:
    """Raise the error that the status stands for."""
    match answer.status:
        case 200:
            return
        case 400:
            raise target.refused(_detail(answer))
        case 404:
            raise target.not_found(_detail(answer))
        case 503:
            raise target.unavailable(_detail(answer))
        case status:
            raise target.failed(f"HTTP {status}, {_detail(answer)}")


def _detail(answer: httpcore2.Response) -> str:
    try:
        return str(json.loads(answer.content)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status}"
