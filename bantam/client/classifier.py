"""Texts in, labels and scores out: the client of a served classifier.

::

    from bantam import Classifier

    with Classifier("localhost:8001", model="minilm") as classify:
        for prediction in classify(["I love it", "Leave me alone"]):
            print(prediction.labels, prediction.scores)

A model of pairs takes tuples of two: ``classify([("premise", "hypothesis")])``. :class:`AsyncClassifier` is the same
with ``await``. Neither needs torch or transformers, nor Linux.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Literal, Self, overload

from bantam.client.conversation import Conversation, Part, blocking, sleep_blocking, split
from bantam.client.grpc_transport import AsyncGrpcTransport, GrpcTransport
from bantam.client.http_transport import AsyncHttpTransport, HttpTransport
from bantam.client.prediction import Description, Prediction
from bantam.client.security import TLS, Token
from bantam.client.texts import Row, Text, encoded, is_one
from bantam.client.transport import Scores, Target, Transport
from bantam.errors import ClientError, UserError

__all__ = ["TLS", "AsyncClassifier", "Classifier", "Description", "Prediction"]

BLOCKING: dict[str, Callable[[Target], Transport]] = {"grpc": GrpcTransport, "http": HttpTransport}
ASYNC: dict[str, Callable[[Target], Transport]] = {"grpc": AsyncGrpcTransport, "http": AsyncHttpTransport}


class Classifier:
    """A served classifier, called like a function. Threads may share one, and with it its connections.

    Parameters
    ----------
    address
        ``host:port`` of the server: Triton's gRPC port (its default is 8001), or for ``protocol="http"`` its HTTP port
        (8000). Over gRPC requests go round all servers that answer if there are several, ``host:port,host:port``, or if
        the host is a name with several addresses, as that of a headless Service in Kubernetes.
    model
        The model's name on the server.
    timeout
        Seconds for one request, which is at most the model's ``max_batch_size`` texts, its retries included. A longer
        list is several requests. The first call also reads the model's config, under a limit of the same length.
    retries
        How often a request is sent again, within ``timeout``, if the server cannot be reached or sheds load: after
        pauses drawn from zero to 0.05 s, then twice that and so on up to 1 s. Other errors are final. While more than
        about one request in eleven fails, none is sent again (:class:`bantam.client.retry.Throttle`).
    in_flight
        How many requests are under way at a time for lists longer than ``max_batch_size``, over all threads.
    tls
        True to encrypt, or a :class:`TLS` with the authority to trust and the client's own certificate. Triton itself
        speaks TLS over gRPC alone (``--grpc-use-ssl``); for HTTP it needs a proxy in front that does.
    token
        A bearer token, sent with each request, or a function that gives one: it is called for each request, so it
        should keep what it has fetched. Without TLS, tokens are sent to this machine only.

    The first call connects, and reads labels and thresholds. When a new version of the model answers, its own are read,
    and each text is decided by those of the version that scored it.
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
        tls: TLS | bool = False,
        token: Token | None = None,
    ) -> None:
        self._target = _checked(address, model, protocol, timeout, retries, in_flight, tls, token)
        self._conversation = Conversation(BLOCKING[protocol](self._target), self._target, retries, sleep_blocking)
        self._workers = ThreadPoolExecutor(in_flight, thread_name_prefix="classifier")  # starts no thread yet
        self._closed = False

    # mypy: a str is an Iterable[str] too; the first signature that fits counts, which is what happens at run time.
    @overload
    def __call__(self, texts: Text) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Iterable[Text]) -> list[Prediction]: ...
    def __call__(self, texts: Text | Iterable[Text]) -> Prediction | list[Prediction]:
        """Classify any number of texts: one Prediction each, in order. For a single str, one Prediction, not a list.

        A model of pairs takes tuples of two str in place of texts, and for a single one such a tuple. Columns of numpy,
        pandas, polars and pyarrow are lists too, and so are generators. Raises
        :class:`InvalidInputError`, :class:`ModelNotFoundError`, :class:`UnavailableError` or :class:`TimeoutExceeded`,
        and their base :class:`ClientError` for anything else that fails.
        """
        if is_one(texts):
            return self([texts])[0]
        return [prediction for part in self._parts(texts) for prediction in part.predictions()]

    def probabilities(self, texts: Text | Iterable[Text]) -> Scores:
        """Scores of any number of texts, float32 ``[texts, labels]``: probabilities, or the one score of a regression.
        Raises what a call raises.

        Columns are in the order of the labels as this client first read them, also when a new version has another
        order; :class:`ClientError` if it has other labels.
        """
        return self._conversation.matrix(self._parts(texts))

    def describe(self) -> Description:
        """Task, labels, thresholds, batch size, and whether it reads pairs, of the version that answered last.

        Raises what a call raises.
        """
        return blocking(self._open().describe())

    def close(self) -> None:
        """Close the connections; later calls raise :class:`ClientError`."""
        self._closed = True
        self._workers.shutdown(cancel_futures=True)
        blocking(self._conversation.transport.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self) -> Conversation:
        if self._closed:
            raise _closed(self._target)
        return self._conversation

    def _parts(self, texts: Text | Iterable[Text]) -> list[Part]:
        rows = encoded(texts)
        batches = split(rows, blocking(self._open().describe_for(rows)).max_batch_size)
        # A single request stays in the caller's thread: handing it over would cost about 0.1 ms.
        spread = self._workers.map if len(batches) > 1 else map
        answered = spread(lambda batch: blocking(self._conversation.ask(batch)), batches)
        return [part for parts in answered for part in parts]


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
        tls: TLS | bool = False,
        token: Token | None = None,
    ) -> None:
        self._target = _checked(address, model, protocol, timeout, retries, in_flight, tls, token)
        self._protocol, self._retries = protocol, retries
        self._conversation: Conversation | None = None
        self._free = asyncio.Semaphore(in_flight)
        self._closed = False

    # mypy: a str is an Iterable[str] too; the first signature that fits counts, which is what happens at run time.
    @overload
    async def __call__(self, texts: Text) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    async def __call__(self, texts: Iterable[Text]) -> list[Prediction]: ...
    async def __call__(self, texts: Text | Iterable[Text]) -> Prediction | list[Prediction]:
        """Classify any number of texts; see :meth:`Classifier.__call__`."""
        if is_one(texts):
            return (await self([texts]))[0]
        return [prediction for part in await self._parts(texts) for prediction in part.predictions()]

    async def probabilities(self, texts: Text | Iterable[Text]) -> Scores:
        """Scores of any number of texts; see :meth:`Classifier.probabilities`."""
        return self._open().matrix(await self._parts(texts))

    async def describe(self) -> Description:
        """What is served; see :meth:`Classifier.describe`."""
        return await self._open().describe()

    async def close(self) -> None:
        """Close the connections; later calls raise :class:`ClientError`."""
        self._closed = True
        if self._conversation is not None:
            await self._conversation.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self) -> Conversation:
        if self._closed:
            raise _closed(self._target)
        if self._conversation is None:  # here, because its transport binds to the running loop
            transport = ASYNC[self._protocol](self._target)
            self._conversation = Conversation(transport, self._target, self._retries, asyncio.sleep)
        return self._conversation

    async def _parts(self, texts: Text | Iterable[Text]) -> list[Part]:
        rows = encoded(texts)
        batches = split(rows, (await self._open().describe_for(rows)).max_batch_size)
        if len(batches) == 1:
            return await self._open().ask(batches[0])
        tasks = [asyncio.create_task(self._ask_when_free(batch)) for batch in batches]
        try:
            return [part for parts in await asyncio.gather(*tasks) for part in parts]
        finally:
            for task in tasks:
                task.cancel()  # does nothing to those that are done; after an error the others have no purpose

    async def _ask_when_free(self, batch: list[Row]) -> list[Part]:
        async with self._free:
            return await self._open().ask(batch)


def _checked(
    address: str,
    model: str,
    protocol: str,
    timeout: float,
    retries: int,
    in_flight: int,
    tls: TLS | bool,
    token: Token | None,
) -> Target:
    """The target, once all that a client was made with makes sense; :class:`UserError` says what does not."""
    if protocol not in BLOCKING:
        raise UserError(f"Got protocol {protocol!r}, expected one of {', '.join(BLOCKING)}.")
    if timeout <= 0 or retries < 0 or in_flight < 1:
        raise UserError(
            f"Got timeout={timeout}, retries={retries}, in_flight={in_flight}; "
            "expected more than 0 s, 0 or more, 1 or more."
        )
    if protocol == "http" and "," in address:
        raise UserError(f"Got addresses {address!r} for HTTP, expected one; several can be given for gRPC.")
    return Target.checked(address, model, timeout, tls, token)


def _closed(target: Target) -> ClientError:
    return ClientError(f"This client of {target} is closed. Make a new one.")
