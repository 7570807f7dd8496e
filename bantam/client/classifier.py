"""Texts in, labels and scores out: the client of a served classifier.

::

    from bantam import Classifier

    with Classifier("localhost:8001", model="minilm") as classify:
        for prediction in classify(["I love it", "Leave me alone"]):
            print(prediction.labels, prediction.scores)

:class:`AsyncClassifier` is the same with ``await``. Neither needs torch or transformers, nor Linux.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Literal, Self, TypeVar, overload

from bantam.client.grpc_transport import AsyncGrpcTransport, GrpcTransport
from bantam.client.http_transport import AsyncHttpTransport, HttpTransport
from bantam.client.prediction import Description, Prediction
from bantam.client.retry import Attempts
from bantam.client.transport import AsyncTransport, Scores, Target, Transport
from bantam.errors import ClientError, InvalidInputError, UnavailableError, UserError

__all__ = ["AsyncClassifier", "Classifier", "Description", "Prediction"]

SYNC: dict[str, Callable[[Target], Transport]] = {"grpc": GrpcTransport, "http": HttpTransport}
ASYNC: dict[str, Callable[[Target], AsyncTransport]] = {"grpc": AsyncGrpcTransport, "http": AsyncHttpTransport}

T = TypeVar("T")

NOT_TEXTS: tuple[type, ...] = (bytes, bytearray, memoryview, dict)
"""Iterables whose items would make a confusing message, or worse, none."""


class Classifier:
    """A served classifier, called like a function. Threads may share one, and with it its connections.

    Parameters
    ----------
    address
        ``host:port`` of the server: Triton's gRPC port (its default is 8001), or for ``protocol="http"`` its HTTP port
        (8000).
    model
        The model's name on the server.
    timeout
        Seconds for one request, which is at most the model's ``max_batch_size`` texts, its retries included. A longer
        list is several requests. The first call also reads the model's config, under a limit of the same length.
    retries
        How often a request is sent again if the server cannot be reached or sheds load. Other errors are final.
    in_flight
        How many requests are under way at a time for lists longer than ``max_batch_size``, over all threads.

    The first call connects, and reads labels and thresholds once. Make a new client for a model that was published
    again with others.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        protocol: Literal["grpc", "http"] = "grpc",
        timeout: float = 10.0,
        retries: int = 5,
        in_flight: int = 2,
    ) -> None:
        self._target = _checked(address, model, protocol, timeout, retries, in_flight)
        self._retries = retries
        self._transport = SYNC[protocol](self._target)
        self._workers = ThreadPoolExecutor(in_flight, thread_name_prefix="classifier")  # starts no thread yet
        self._description: Description | None = None
        self._closed = False

    # mypy: a str is an Iterable[str] too; the first signature that fits counts, which is what happens at run time.
    @overload
    def __call__(self, texts: str) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Iterable[str]) -> list[Prediction]: ...
    def __call__(self, texts: str | Iterable[str]) -> Prediction | list[Prediction]:
        """Classify any number of texts: one Prediction each, in order. For a single str, one Prediction, not a list.

        Raises :class:`InvalidInputError`, :class:`ModelNotFoundError`, :class:`UnavailableError` or
        :class:`TimeoutExceeded`, and their base :class:`ClientError` for anything else that fails.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        scores = self.scores(texts)
        return self.describe().predictions(scores)

    def scores(self, texts: Iterable[str]) -> Scores:
        """Probabilities of any number of texts, float32 ``[texts, labels]``. Raises what a call raises."""
        encoded = _encoded(texts)
        description = self.describe()
        batches = _batches(encoded, description.max_batch_size)
        # A single request stays in the caller's thread: handing it over would cost about 0.1 ms.
        spread = self._workers.map if len(batches) > 1 else map
        return description.join(list(spread(self._infer, batches)), self._target)

    def describe(self) -> Description:
        """Task, labels, thresholds and batch size; read from the server once. Raises what a call raises."""
        if self._closed:
            raise _closed(self._target)
        if self._description is None:
            # No lock: were the server down, threads would wait here for each other's time-outs, one after the other.
            self._description = Description.from_config(self._retrying(self._transport.config), self._target)
        return self._description

    def close(self) -> None:
        """Close the connections; later calls raise :class:`ClientError`."""
        self._closed = True
        self._workers.shutdown(cancel_futures=True)
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _infer(self, batch: Sequence[bytes]) -> Scores:
        return self._retrying(lambda left: self._transport.infer(batch, left))

    def _retrying(self, send: Callable[[float], T]) -> T:
        attempts = Attempts(self._retries, self._target.timeout)
        while True:
            try:
                return send(attempts.left())
            except UnavailableError as exc:
                time.sleep(attempts.pause(exc))


class AsyncClassifier:
    """The asyncio twin of :class:`Classifier`: the same parameters, results and errors, with ``await``.

    Belongs to the event loop of its first call. ``in_flight`` bounds the lists longer than ``max_batch_size``; single
    requests are not held back.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        protocol: Literal["grpc", "http"] = "grpc",
        timeout: float = 10.0,
        retries: int = 5,
        in_flight: int = 2,
    ) -> None:
        self._target = _checked(address, model, protocol, timeout, retries, in_flight)
        self._retries = retries
        self._protocol = protocol
        self._transport: AsyncTransport | None = None
        self._free = asyncio.Semaphore(in_flight)
        self._description: Description | None = None
        self._closed = False

    # mypy: a str is an Iterable[str] too; the first signature that fits counts, which is what happens at run time.
    @overload
    async def __call__(self, texts: str) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    async def __call__(self, texts: Iterable[str]) -> list[Prediction]: ...
    async def __call__(self, texts: str | Iterable[str]) -> Prediction | list[Prediction]:
        """Classify any number of texts; see :meth:`Classifier.__call__`."""
        if isinstance(texts, str):
            return (await self([texts]))[0]
        scores = await self.scores(texts)
        return (await self.describe()).predictions(scores)

    async def scores(self, texts: Iterable[str]) -> Scores:
        """Probabilities of any number of texts, float32 ``[texts, labels]``. Raises what a call raises."""
        encoded = _encoded(texts)
        description = await self.describe()
        batches = _batches(encoded, description.max_batch_size)
        if len(batches) == 1:
            return description.join([await self._infer(batches[0])], self._target)
        tasks = [asyncio.create_task(self._infer_when_free(batch)) for batch in batches]
        try:
            return description.join(await asyncio.gather(*tasks), self._target)
        finally:
            for task in tasks:
                task.cancel()  # does nothing to those that are done; after an error the others have no purpose

    async def describe(self) -> Description:
        """Task, labels, thresholds and batch size; read from the server once. Raises what a call raises."""
        if self._description is None:
            self._description = Description.from_config(
                await self._retrying(lambda left: self._connected().config(left)), self._target
            )
        return self._description

    async def close(self) -> None:
        """Close the connections; later calls raise :class:`ClientError`."""
        self._closed = True
        if self._transport is not None:
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def _connected(self) -> AsyncTransport:
        if self._closed:
            raise _closed(self._target)
        if self._transport is None:
            self._transport = ASYNC[self._protocol](self._target)  # here, because it binds to the running loop
        return self._transport

    async def _infer(self, batch: Sequence[bytes]) -> Scores:
        return await self._retrying(lambda left: self._connected().infer(batch, left))

    async def _infer_when_free(self, batch: Sequence[bytes]) -> Scores:
        async with self._free:
            return await self._infer(batch)

    async def _retrying(self, send: Callable[[float], Awaitable[T]]) -> T:
        attempts = Attempts(self._retries, self._target.timeout)
        while True:
            try:
                return await send(attempts.left())
            except UnavailableError as exc:
                await asyncio.sleep(attempts.pause(exc))


def _checked(address: str, model: str, protocol: str, timeout: float, retries: int, in_flight: int) -> Target:
    """The target, once all that a client was made with makes sense; :class:`UserError` says what does not."""
    if protocol not in SYNC:
        raise UserError(f"Got protocol {protocol!r}, expected one of {', '.join(SYNC)}.")
    if timeout <= 0 or retries < 0 or in_flight < 1:
        raise UserError(
            f"Got timeout={timeout}, retries={retries}, in_flight={in_flight}; "
            "expected more than 0 s, 0 or more, 1 or more."
        )
    return Target.checked(address, model, timeout)


def _encoded(texts: Iterable[str]) -> list[bytes]:
    """UTF-8 of each text; :class:`InvalidInputError` names the first that is none, before anything is sent."""
    if isinstance(texts, NOT_TEXTS) or not isinstance(texts, Iterable):
        raise InvalidInputError(f"Got {type(texts).__name__}, expected a str or a list of str.")
    encoded = []
    for position, text in enumerate([texts] if isinstance(texts, str) else texts):
        if not isinstance(text, str):
            raise InvalidInputError(
                f"texts[{position}] is {type(text).__name__}, expected str. Convert it, or leave it out."
            )
        try:
            encoded.append(text.encode())
        except UnicodeEncodeError as exc:
            raise InvalidInputError(
                f"texts[{position}] has a lone surrogate at character {exc.start}, which no UTF-8 can carry. "
                "Read its source with the right encoding, or with errors='replace'."
            ) from exc
    return encoded


def _batches(texts: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _closed(target: Target) -> ClientError:
    return ClientError(f"This client of {target} is closed. Make a new one.")
