"""KServe v2 over HTTP/1.1, with texts and scores as binary tensors behind the JSON header (Triton's extension).

httpcore2 rather than tritonclient.http: the latter may not be shared between threads, and takes its time-out per client
instead of per request. httpcore2 has one API and one set of exceptions for sync and asyncio, and sets TCP_NODELAY.
It uses no proxy from the environment.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any
from urllib.parse import quote

import httpcore2

from bantam.client.security import bearer
from bantam.client.texts import Row, width
from bantam.client.transport import INPUT, OUTPUT, TIMEOUT, Answer, ModelConfig, Target, encode, microseconds

HEADER_LENGTH = b"Inference-Header-Content-Length"
IDLE_S = 60.0
"""A connection that was idle for so long is closed: a burst must not leave its connections for ever."""


class _Http(ABC):
    """Requests and answers of one model; subclasses say how they travel."""

    def __init__(self, target: Target, pool: Any) -> None:
        """``pool``: the class of the connection pool."""
        self._target = target
        context = None if target.tls is None else target.tls.context()
        self._pool = pool(context, max_connections=None, keepalive_expiry=IDLE_S)
        scheme = "http" if target.tls is None else "https"
        self._model = f"{scheme}://{target.address}/v2/models/{quote(target.model, safe='')}"
        self._infer_url = httpcore2.URL(f"{self._model}/infer")

    @abstractmethod
    async def _request(self, timeout: float, method: str, url: httpcore2.URL, **content: Any) -> httpcore2.Response:
        """The answer to a request."""

    async def config(self, version: str, timeout: float) -> ModelConfig:
        """Read the config of a version; of the newest one that is served if ``version`` is empty."""
        url = httpcore2.URL(f"{self._model}{f'/versions/{version}' if version else ''}/config")
        with errors(self._target):
            answer = await self._request(timeout, "GET", url, headers=self._authorization())
        check(self._target, answer)
        with self._target.reading():
            config = json.loads(answer.content)
            parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
            versions = config.get("version_policy", {}).get("specific", {}).get("versions", ())
            return ModelConfig(config["max_batch_size"], parameters, str(versions[0]) if len(versions) == 1 else "")

    async def infer(self, texts: Sequence[Row], timeout: float) -> Answer:
        """Scores of at least one and at most the model's ``max_batch_size`` texts or pairs, in their order."""
        headers, body = _encoded(texts, timeout)
        with errors(self._target):
            answer = await self._request(
                timeout, "POST", self._infer_url, headers=headers + self._authorization(), content=body
            )
        check(self._target, answer)
        with self._target.reading():
            names = {name.lower(): value for name, value in answer.headers}
            length = int(names[HEADER_LENGTH.lower()])
            header = json.loads(answer.content[:length])
            output = header["outputs"][0]
            scores = self._target.decode(answer.content[length:], output["shape"], output["datatype"], len(texts))
            return Answer(scores, header.get("model_version", ""))

    def _authorization(self) -> list[tuple[bytes, bytes]]:
        return [] if self._target.token is None else [(b"Authorization", bearer(self._target.token).encode())]


class HttpTransport(_Http):
    """Blocking calls; the pool may be shared between threads.

    The time-out bounds connecting, and then each wait for the server; Triton sends an answer at once, when it is ready.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target, httpcore2.ConnectionPool)

    async def _request(self, timeout: float, method: str, url: httpcore2.URL, **content: Any) -> httpcore2.Response:
        answer: httpcore2.Response = self._pool.request(method, url, extensions=limits(timeout), **content)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class AsyncHttpTransport(_Http):
    """The same on asyncio; the time-out bounds the whole request."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, httpcore2.AsyncConnectionPool)

    async def _request(self, timeout: float, method: str, url: httpcore2.URL, **content: Any) -> httpcore2.Response:
        async with asyncio.timeout(timeout):
            answer: httpcore2.Response = await self._pool.request(method, url, **content)
            return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


def limits(timeout: float) -> dict[str, dict[str, float]]:
    """httpcore2's form of a time-out in seconds for connecting, and for each wait."""
    return {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout)}


def _encoded(texts: Sequence[Row], timeout: float) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of an inference request."""
    tensor = encode(chain.from_iterable(texts))
    text = {
        "name": INPUT,
        "datatype": "BYTES",
        "shape": [len(texts), width(texts)],
        "parameters": {"binary_data_size": len(tensor)},
    }
    scores = {"name": OUTPUT, "parameters": {"binary_data": True}}
    limit = {TIMEOUT: microseconds(timeout)}
    header = json.dumps({"inputs": [text], "outputs": [scores], "parameters": limit}).encode()
    headers = [(b"Content-Type", b"application/octet-stream"), (HEADER_LENGTH, str(len(header)).encode())]
    return headers, header + tensor


@contextmanager
def errors(target: Target) -> Iterator[None]:
    """Translate what httpcore2 raises."""
    try:
        yield
    except (httpcore2.TimeoutException, TimeoutError) as exc:
        raise target.late() from exc
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as exc:
        # OSError: on asyncio, httpcore2 lets an ssl.SSLError through when the server refuses the client's certificate.
        # Also a pooled connection that the server has closed meanwhile; over gRPC all of these are UNAVAILABLE.
        raise target.unavailable(str(exc) or type(exc).__name__) from exc


def check(target: Target, answer: httpcore2.Response) -> None:
    """Raise the error that the status stands for."""
    match answer.status:
        case 200:
            return
        case 400:
            raise target.refused(_detail(answer))
        case 401 | 403:
            raise target.denied(_detail(answer))
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
